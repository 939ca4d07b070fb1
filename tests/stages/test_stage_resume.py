"""All stages as a process that is really killed, and ends with the same parameters, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from several import COMPILES_FAST

from rlhf_jax import training

SCRIPT = Path(__file__).parents[1] / "tiny_task.py"
ALL = "sft,reward,ppo,preference,group"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, and compiled programs shared by all processes: what they compute is under test, not how fast."""
    cache = tmp_path_factory.mktemp("compiled")
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": COMPILES_FAST,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }


def start(stages, folder, seconds_a_step, environment):
    command = [sys.executable, str(SCRIPT), stages, str(folder), str(seconds_a_step)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def rows(folder, stage=None):
    file = Path(folder) / "run" / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [row for row in found if stage in (None, row["stage"])]


def stop_in(stage, step, folder, signum, environment):
    """Runs until a row of that step of that stage is written, then sends the signal."""
    process = start(ALL, folder, 0.25, environment)
    deadline = time.monotonic() + 120
    try:
        while not any(row["step"] >= step for row in rows(folder, stage)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the run makes no progress"
            time.sleep(0.01)
        process.send_signal(signum)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert not (Path(folder) / "run" / "params" / stage).exists(), f"{stage} was complete before it was stopped"
    return process.returncode, said


def finish(folder, environment):
    process = start(ALL, folder, 0.0, environment)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    figures = {stage: summary[stage] for stage in ALL.split(",")}
    return summary["params_sha256"], figures, rows(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.timeout(600)
def test_killed_stages_end_bit_for_bit_like_ones_that_never_stopped(tmp_path, environment):
    hashes, figures, logged = finish(tmp_path / "whole", environment)
    assert hashes.keys() == set(ALL.split(","))
    # What is continued is not only the parameters: the controller has moved, and text was read.
    coefficients = [row["group/kl_coef"] for row in logged if row["stage"] == "group" and row["step"] > 0]
    assert len(set(coefficients)) > 2
    assert all("group/ptx_loss" in row for row in logged if row["stage"] == "group" and row["step"] > 0)

    folder = tmp_path / "killed"
    assert stop_in("sft", 5, folder, signal.SIGKILL, environment)[0] == -signal.SIGKILL
    assert stop_in("reward", 7, folder, signal.SIGKILL, environment)[0] == -signal.SIGKILL
    assert stop_in("ppo", 3, folder, signal.SIGKILL, environment)[0] == -signal.SIGKILL
    code, said = stop_in("ppo", 4, folder, signal.SIGTERM, environment)
    assert code == 143, said
    assert "the same command continues from there" in said
    assert stop_in("preference", 7, folder, signal.SIGKILL, environment)[0] == -signal.SIGKILL
    assert stop_in("group", 3, folder, signal.SIGKILL, environment)[0] == -signal.SIGKILL

    # The data of both runs lies in folders of their own: only the config's path to it differs.
    again, again_figures, again_logged = finish(folder, environment)
    assert again == hashes
    assert again_figures == figures
    assert again_logged == logged
    whole, killed = (training.read_goodput(place / "run" / "goodput.jsonl") for place in (tmp_path / "whole", folder))
    assert {stage: (spent.attempts, spent.seconds["restart"]) for stage, spent in whole.items()} == dict.fromkeys(
        hashes, (1, 0.0)
    )
    assert {stage: spent.attempts for stage, spent in killed.items()} == {**dict.fromkeys(hashes, 2), "ppo": 3}
    assert all(spent.seconds["restart"] > 0 for spent in killed.values())
    assert {stage: spent.step for stage, spent in killed.items()} == {
        stage: spent.step for stage, spent in whole.items()
    }
    samples = [(place / "run" / "samples.jsonl").read_text() for place in (tmp_path / "whole", folder)]
    assert samples[0] == samples[1]
    evaluated = {(row["stage"], row["step"]) for row in logged if f"{row['stage']}/heldout_kl" in row}
    assert {
        (row["stage"], row["step"]) for row in map(json.loads, samples[0].splitlines()) if "step" in row
    } == evaluated
