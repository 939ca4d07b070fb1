"""A watchdog: silent while the loop goes on, one report a hang, and what is in it."""

import io
import os
import platform
import re
import subprocess
import sys
import threading

import pytest

from rlhf_jax.training import Phases, Watchdog
from rlhf_jax.training.watchdog import HUNG


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def watching(folder, **changes):
    """A watchdog of ten seconds over phases with a clock of their own, that has seen the loop once."""
    clock, said = Clock(), io.StringIO()
    phases = Phases(clock)
    watchdog = Watchdog(phases, stage="ppo", seconds=10, folder=folder / "run", stream=said, **changes)
    assert not watchdog.look()
    return clock, said, phases, watchdog


def test_a_loop_that_goes_on_is_left_alone(tmp_path):
    clock, said, phases, watchdog = watching(tmp_path)
    for step in range(1, 6):
        clock.time += 9
        phases.at(step)
        assert not watchdog.look()
        clock.time += 9
        with phases.during("save"):
            assert not watchdog.look()
    assert said.getvalue() == ""
    assert not watchdog.path.exists()


def test_a_hung_step_is_reported_with_its_phase_and_process(tmp_path):
    clock, said, phases, watchdog = watching(tmp_path, process=(2, 4))
    with phases.during("update"):
        phases.at(7)
        with phases.during("reward"):
            assert not watchdog.look()
            clock.time = 9.0
            assert not watchdog.look()
            clock.time = 75.0
            assert watchdog.look()
    (line,) = said.getvalue().splitlines()
    assert line.startswith("ppo: watchdog: no progress for 1:15: step 7, phase 'reward' for 1:15 (its first time")
    assert f"process 2 of 4 on {platform.node()}, pid {os.getpid()}" in line
    assert str(watchdog.path) in line
    assert watchdog.path == tmp_path / "run" / "hung_ppo_process2.txt"
    stacks = watchdog.path.read_text()
    assert "ppo, step 7, phase 'reward'" in stacks
    assert "test_watchdog.py" in stacks  # the stack of this very thread
    assert "test_a_hung_step_is_reported_with_its_phase_and_process" in stacks


def test_one_hang_is_reported_once_and_again_after_twice_the_time(tmp_path):
    clock, said, phases, watchdog = watching(tmp_path)
    reports = []
    for clock.time in range(1, 100):
        if watchdog.look():
            reports.append(clock.time)
    assert reports == [10, 20, 40, 80]
    phases.at(1)
    assert not watchdog.look()
    assert said.getvalue().splitlines()[-1] == "ppo: watchdog: it goes on, after 1:39, at step 1"
    clock.time += 10
    assert watchdog.look()  # another hang, from the beginning
    assert len(re.findall("no progress", said.getvalue())) == 5


def test_a_phase_that_was_there_before_is_not_compiling(tmp_path):
    clock, said, phases, watchdog = watching(tmp_path)
    with phases.during("update"):
        pass
    with phases.during("update"):
        assert not watchdog.look()
        clock.time = 11.0
        assert watchdog.look()
    assert "phase 'update' for 0:11;" in said.getvalue()


def test_it_may_end_the_process_with_a_status_of_its_own(tmp_path):
    statuses = []
    clock, said, _, watchdog = watching(tmp_path, ends=True, end=statuses.append)
    clock.time = 9.0
    watchdog.look()
    assert statuses == []
    clock.time = 10.0
    watchdog.look()
    assert statuses == [HUNG] == [75]
    assert said.getvalue().rstrip().endswith("the process ends with status 75")


def test_where_the_stacks_cannot_be_written_the_report_comes_all_the_same(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    clock, said, _, watchdog = watching(tmp_path)
    clock.time = 10.0
    assert watchdog.look()
    assert "the stacks of its threads could not be written" in said.getvalue()


class Heard(io.StringIO):
    """A stream that tells when something was written."""

    def __init__(self):
        super().__init__()
        self.spoke = threading.Event()

    def flush(self):
        super().flush()
        self.spoke.set()


def test_the_thread_reports_while_the_loop_waits_and_ends_with_the_block(tmp_path):
    phases, said = Phases(), Heard()
    with Watchdog(phases, stage="sft", seconds=0.02, folder=tmp_path, stream=said), phases.during("collect"):
        assert said.spoke.wait(60)
    assert "phase 'collect'" in said.getvalue()
    assert "watchdog-sft" not in [thread.name for thread in threading.enumerate()]


HANGING = """
import sys, threading
from rlhf_jax.training import Phases, Watchdog

phases = Phases()
with Watchdog(phases, stage="sft", seconds=0.02, folder=sys.argv[1], ends=True), phases.during("update"):
    threading.Event().wait()
"""


def test_a_process_that_hangs_for_ever_is_ended(tmp_path):
    command = [sys.executable, "-c", HANGING, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == HUNG, ended.stderr
    assert "phase 'update'" in ended.stderr
    assert "in wait" in (tmp_path / "hung_sft_process0.txt").read_text()


def test_off_there_is_no_thread(tmp_path):
    with Watchdog(Phases(), stage="off", seconds=0, folder=tmp_path):
        assert "watchdog-off" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ValueError, match="sft: watchdog_seconds must not be negative, found -1"):
        Watchdog(Phases(), stage="sft", seconds=-1, folder=tmp_path)
