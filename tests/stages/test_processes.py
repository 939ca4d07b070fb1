"""Stages in several processes: the numbers of one process, and what happens when one of them is killed."""

import json
import signal
import time
from pathlib import Path

import pytest
import several

ALL = "sft,reward,preference,group,ppo"
pytestmark = pytest.mark.timeout(1200)


def results(folder):
    """Everything a run leaves that does not depend on when it ran."""
    run = Path(folder) / "run"
    summary = json.loads((run / "summary.json").read_text())
    figures = {stage: summary[stage] for stage in ALL.split(",") if stage in summary}
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return summary["params_sha256"], figures, logged, (run / "samples.jsonl").read_text()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """All stages in one process with two devices."""
    folder = tmp_path_factory.mktemp("alone")
    several.run([several.TASK, ALL, folder, 0], 1, devices=2, cache=cache)
    return folder


def test_two_processes_give_the_numbers_of_one_bit_for_bit(tmp_path, alone, cache):
    several.run([several.TASK, ALL, tmp_path, 0], 2, cache=cache)
    for found, expected in zip(results(tmp_path), results(alone), strict=True):
        assert found == expected


def started(folder, stage, step, count, cache):
    """Start several processes, and wait until a stage has logged a step."""
    begun = several.start([several.TASK, ALL, folder, 0.1], count, cache=cache)
    file, deadline = Path(folder) / "run" / "metrics.jsonl", time.monotonic() + 300
    while True:
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        if any(row["stage"] == stage and row["step"] >= step for row in rows):
            return begun
        ended = [process.poll() for process in begun]
        assert ended == [None] * count, [process.communicate()[0] for process in begun]
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.05)


def test_a_killed_process_ends_the_other_and_what_is_left_continues_in_any_number(tmp_path, alone, cache):
    begun = started(tmp_path, "reward", 5, 2, cache)
    begun[1].kill()
    killed_at = time.monotonic()
    (status, said), _ = several.ends(begun, 120)
    assert time.monotonic() - killed_at < 60
    assert status == 75
    assert "LostProcessError: reward, after step" in said
    assert "start all processes again with the same command" in said

    begun = started(tmp_path, "preference", 7, 2, cache)  # the pair continues
    begun[1].send_signal(signal.SIGTERM)  # to one of them
    for status, said in several.ends(begun, 120):
        assert status == 143, said
        assert "preference stopped at step" in said
    several.run([several.TASK, ALL, tmp_path, 0], 1, devices=2, cache=cache)  # and then one process does
    for found, expected in zip(results(tmp_path), results(alone), strict=True):
        assert found == expected


def test_four_processes_train_ppo_like_one(tmp_path, cache):
    """Sums over four devices are taken in another order than in one process, so the last bits may differ."""
    found = {}
    for name, count, devices in (("one", 1, 4), ("four", 4, 1)):
        several.run([several.TASK, "sft,ppo", tmp_path / name, 0], count, devices=devices, cache=cache)
        found[name] = results(tmp_path / name)
    (_, one, rows, samples), (_, four, other_rows, other_samples) = found["one"], found["four"]
    assert samples == other_samples
    for name, value in one["ppo"].items():
        if isinstance(value, int | float):
            assert four["ppo"][name] == pytest.approx(value, rel=1e-4), name
    for row, other in zip(rows, other_rows, strict=True):
        assert row.pop("stage") == other.pop("stage")
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)
