"""One PPO run that is killed twenty times, in its saves too, and ends bit for bit like one that never was."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import several

KILLS = 20


def rows(folder):
    file = Path(folder) / "run" / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [row for row in found if row["stage"] == "ppo"]


def killed(folder, cache, rng, in_a_save):
    """Start the run, and kill it a while after it is at work, or while a checkpoint is being written."""
    (process,) = several.start([several.TASK, "long", folder, 0.05], 1, cache=cache)
    saves, before = Path(folder) / "run" / "checkpoints" / "ppo", len(rows(folder))
    deadline, wait = time.monotonic() + 200, rng.uniform(0.0, 0.6)
    try:
        while process.poll() is None:
            assert time.monotonic() < deadline, "the run makes no progress"
            if in_a_save and saves.is_dir() and any(".orbax-checkpoint-tmp" in path.name for path in saves.iterdir()):
                break
            if not in_a_save and len(rows(folder)) != before:
                time.sleep(wait)
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert process.returncode in (-signal.SIGKILL, 0), said
    return process.returncode != 0


@pytest.mark.timeout(2400)
def test_a_run_that_is_killed_many_times_ends_like_one_that_never_was(tmp_path, tmp_path_factory):
    cache, rng = tmp_path_factory.mktemp("compiled"), random.Random(0)
    several.run([several.TASK, "sft", tmp_path / "whole", 0], 1, cache=cache)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    several.run([several.TASK, "long", tmp_path / "whole", 0], 1, cache=cache)
    kills = 0
    for number in range(KILLS):
        kills += killed(tmp_path / "killed", cache, rng, in_a_save=number % 2 == 1)
    assert kills == KILLS, "the run was through before the last kill"
    several.run([several.TASK, "long", tmp_path / "killed", 0], 1, cache=cache)
    summaries = [json.loads((tmp_path / name / "run" / "summary.json").read_text()) for name in ("whole", "killed")]
    assert summaries[0]["params_sha256"] == summaries[1]["params_sha256"]
    assert summaries[0]["ppo"] == summaries[1]["ppo"]
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
