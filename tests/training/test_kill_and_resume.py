"""A real process, really killed: kill -9 needs no cooperation, so nothing may depend on any."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from several import COMPILES_FAST

SCRIPT = Path(__file__).with_name("small_run.py")


def start(folder, seconds_a_step):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": COMPILES_FAST}
    command = [sys.executable, str(SCRIPT), str(folder), str(seconds_a_step)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def rows(folder):
    file = Path(folder) / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def stop_after(folder, count, signum):
    """Runs until so many rows are written, then sends the signal; returns the exit status and what it said."""
    process = start(folder, 0.05)
    deadline = time.monotonic() + 120
    try:
        while rows(folder) < count:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the run makes no progress"
            time.sleep(0.005)
        process.send_signal(signum)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    return process.returncode, said


def finish(folder):
    process = start(folder, 0.0)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    return json.loads((Path(folder) / "outcome.json").read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_runs_end_bit_for_bit_like_one_that_never_stopped(tmp_path):
    expected = finish(tmp_path / "whole")
    assert expected["best_step"] > 0

    folder = tmp_path / "killed"
    assert stop_after(folder, 3, signal.SIGKILL)[0] == -signal.SIGKILL  # before the first checkpoint
    assert stop_after(folder, 13, signal.SIGKILL)[0] == -signal.SIGKILL
    code, said = stop_after(folder, 18, signal.SIGTERM)
    assert code == 143
    assert "the same command continues from there" in said
    assert finish(folder) == expected
    left = {path.name for path in (folder / "checkpoints" / "small").iterdir()}
    assert left <= {"20", "24", "23", "22", "21"}
    assert "24" in left
