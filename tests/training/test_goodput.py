"""The goodput log: every second has one kind, kinds add up to the wall time, and a kill loses no line."""

import json

import pytest
from small_run import TOTAL, build, small_run

from rlhf_jax.training import GoodputLog, Phases, read_goodput
from rlhf_jax.training.goodput import FILE, KINDS, process_start


class Clock:
    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


def kinds(**seconds):
    return {**dict.fromkeys(KINDS, 0.0), **seconds}


class Attempt:
    """A process's attempt, whose clock goes on as it works; ``at`` is the wall's time at its start."""

    def __init__(self, folder, at, process=None):
        self.clock = Clock()
        self.phases = Phases(self.clock)
        self.phases.began_at = at
        self.log = GoodputLog(folder, "sft", self.phases, process_began=at if process is None else process)

    def spend(self, phase, seconds):
        with self.phases.during(phase):
            self.clock.time += seconds


def line(at, *, process=None, step=1, stage="sft", **seconds):
    row = {"stage": stage, "process": at if process is None else process, "start": at, "step": step}
    return json.dumps({**row, "seconds": kinds(**seconds)}) + "\n"


def test_every_phase_has_its_kind_and_the_rest_is_idle(tmp_path):
    one = Attempt(tmp_path, at=1000.0)
    one.clock.time = 3.0  # loading data and model
    one.spend("restore", 1)
    one.log.began(step=0)
    one.spend("update", 10)
    with one.phases.during("update"):
        one.clock.time += 6
        one.phases.compiled("/jax/core/compile/backend_compile_duration", 0.0, 4.0)
    one.spend("wait", 0.5)
    one.spend("evaluate", 5)
    one.spend("save", 2)
    one.clock.time += 0.25  # writing rows
    one.log.stepped(1, write=True)
    spent = read_goodput(tmp_path / FILE)["sft"]
    assert spent.seconds == kinds(start=4.0, useful=12.5, compile=4.0, evaluation=5.0, save=2.0, idle=0.25)
    assert (spent.attempts, spent.step) == (1, 1)
    assert spent.wall == one.clock.time
    assert spent.goodput == 12.5 / 27.75


def test_steps_made_again_after_a_kill_are_lost_work(tmp_path):
    """Steps 1 to 3 are made, the checkpoint is of step 1: steps 2 and 3 are made again, and step 4 is new."""
    first = Attempt(tmp_path, at=1000.0)
    first.log.began(step=0)
    for step in (1, 2, 3):
        first.spend("update", 10)
        first.log.stepped(step, write=True)
    second = Attempt(tmp_path, at=1045.0, process=1040.0)  # killed at 1030; a new process 10 s later imports for 5 s
    second.spend("restore", 2)
    second.log.began(step=1, reached=3)
    for step in (2, 3, 4):
        second.spend("update", 10)
        second.log.stepped(step, write=True)
    spent = read_goodput(tmp_path / FILE)["sft"]
    assert spent.seconds == kinds(useful=40.0, restart=5.0 + 2.0 + 20.0, idle=10.0)
    assert (spent.attempts, spent.step) == (2, 4)
    assert spent.wall == 1045 + 32 - 1000


def test_time_between_two_calls_in_one_process_is_idle(tmp_path):
    (tmp_path / FILE).write_text(line(1000.0, process=900.0, useful=20.0) + line(1050.0, process=900.0, useful=1.0))
    assert read_goodput(tmp_path / FILE)["sft"].seconds == kinds(useful=21.0, idle=30.0)


def test_stages_are_kept_apart_and_the_newest_line_of_an_attempt_counts(tmp_path):
    lines = [line(0.0, useful=1.0), line(0.0, useful=2.0), line(5.0, stage="ppo", save=3.0), line(0.0, useful=4.0)]
    (tmp_path / FILE).write_text("".join(lines))
    found = read_goodput(tmp_path / FILE)
    assert {stage: spent.seconds for stage, spent in found.items()} == {
        "sft": kinds(useful=4.0),
        "ppo": kinds(save=3.0),
    }


def test_a_torn_last_line_is_left_out_and_then_cut_off(tmp_path):
    path = tmp_path / FILE
    path.write_text(line(0.0, useful=4.0) + '{"stage": "sft", "sta')
    assert read_goodput(path)["sft"].seconds == kinds(useful=4.0)
    one = Attempt(tmp_path, at=4.0)
    one.log.began(step=1)
    one.spend("update", 2)
    one.log.stepped(2, write=True)
    assert len(path.read_text().splitlines()) == 2
    assert read_goodput(path)["sft"].seconds == kinds(useful=6.0)


def test_damage_before_the_last_line_is_named(tmp_path):
    path = tmp_path / FILE
    assert read_goodput(path) == {}
    for damaged in ("nonsense", "[1]", '{"stage": "sft"}'):
        path.write_text(damaged + "\n" + line(0.0))
        with pytest.raises(ValueError, match=r"goodput.jsonl:1: not a line of a goodput log .*put the line right"):
            read_goodput(path)


def test_one_process_of_many_writes(tmp_path):
    log = GoodputLog(tmp_path, "sft", Phases(), writes=False)
    log.began(step=0)
    log.stepped(1, write=True)
    assert not (tmp_path / FILE).exists()


def test_a_line_a_minute_comes_without_being_asked_for(tmp_path):
    one = Attempt(tmp_path, at=0.0)
    one.log.began(step=0)
    lines = []
    for step in range(1, 8):
        one.spend("update", 25)
        one.log.stepped(step)
        lines.append(len((tmp_path / FILE).read_text().splitlines()) if (tmp_path / FILE).exists() else 0)
    assert lines == [0, 0, 1, 1, 1, 2, 2]


def test_this_process_has_begun():
    assert process_start() == process_start()


class Killed(Exception):
    pass


def test_the_loop_tells_the_log_and_a_run_that_died_made_steps_again(tmp_path):
    """It dies before step 15 (row 14 is not written yet); the checkpoint is of step 12, so step 13 is made again."""
    build(1)

    def die(step):
        if step == 14:
            raise Killed

    def attempt(before_update=lambda step: None):
        phases = Phases()
        log = GoodputLog(tmp_path, "small", phases)
        with phases.watched():
            result, _ = small_run(tmp_path, before_update=before_update, phases=phases, goodput=log)
        return result, phases

    with pytest.raises(Killed):
        attempt(die)
    first = read_goodput(tmp_path / FILE)["small"]
    assert first.step == 14
    assert min(first.seconds[kind] for kind in ("useful", "evaluation", "save", "start")) > 0
    assert first.seconds["restart"] == 0
    _, phases = attempt()
    spent = read_goodput(tmp_path / FILE)["small"]
    assert (spent.attempts, spent.step) == (2, TOTAL)
    whole = phases.seconds()
    assert spent.seconds["restart"] > whole["restore"] - 0.01  # and the steps that were made again
    assert spent.seconds["start"] == first.seconds["start"]
    rows = [json.loads(text) for text in (tmp_path / FILE).read_text().splitlines()]
    # Evaluations every 3 steps, checkpoints every 4, and a line as each attempt ends.
    assert [row["step"] for row in rows] == [3, 4, 6, 8, 9, 12, 14, 15, 16, 18, 20, 21, 24, 24]
    # The last line holds all that the second process did, each second once.
    outside = whole.pop("")
    total, named = sum(rows[-1]["seconds"].values()), sum(whole.values())
    assert named - 0.01 < total < named + outside + 0.01
