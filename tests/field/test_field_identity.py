"""What a run is: by content, not by name. Each row of a table is an input, and what is right."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import shutil
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task
from flax import linen, nnx

import rlhf_jax
from rlhf_jax import checkpoint, cli, objectives, stages
from rlhf_jax.cli.records import found_again
from rlhf_jax.data import PromptRow
from rlhf_jax.data.parts import Parts
from rlhf_jax.runs import folder, lock
from rlhf_jax.runs.content import content_of
from rlhf_jax.runs.made_of import changed, of_callable, of_rows
from rlhf_jax.runs.user_code import load_function
from rlhf_jax.stages import RunError
from rlhf_jax.stages.given import Given

# --- what a callable is ---

REWARD = """
import functools
from rlhf_jax import losses
WORDS = ["good", "fine"]
SCALE = 2.0

def helper(text):
    # how often
    return sum(text.count(word) for word in WORDS)

class Counter:
    def __init__(self, weight=1.0):
        self.weight, self.calls = weight, 0

    def score(self, prompts, responses):
        self.calls += 1
        return [self.weight * helper(r) for r in responses]

def scaled(scale):
    return lambda prompts, responses: [scale * helper(r) for r in responses]

def plain(prompts, responses, *, power=1):
    "Count."
    return [SCALE * helper(r) ** power for r in responses]

bound = functools.partial(plain, power=3)
method = Counter(2.0).score
closure = scaled(0.5)
"""
NAMES = ("plain", "bound", "method", "closure")


def defined(text):
    found = {"__name__": "a_file_of_ones_own"}
    exec(text, found)
    return found


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("# how often", "# how many times\n", ()),
        ('"Count."', '"Count the words."', ()),
        ("\nclass Counter", "\n\ndef unused():\n    return 7\n\nclass Counter", ()),
        ('"good"', '"great"', NAMES),
        ("text.count", "text.lower().count", NAMES),
        ("SCALE = 2.0", "SCALE = 3.0", ("plain", "bound")),
        ("power=3", "power=4", ("bound",)),
        ("power=1)", "power=2)", ("plain", "bound")),
        ("scaled(0.5)", "scaled(0.25)", ("closure",)),
        ("Counter(2.0)", "Counter(4.0)", ("method",)),
        ("weight * helper", "weight + helper", ("method",)),
    ],
)
def test_a_callable_is_what_it_computes(old, new, changes):
    """Helpers, constants, closures and bound arguments count; comments, docstrings and what is unused do not."""
    assert old in REWARD
    before, after = defined(REWARD), defined(REWARD.replace(old, new))
    assert [n for n in NAMES if content_of(before[n]) != content_of(after[n])] == list(changes)


def test_modules_without_a_file_are_known_by_name():
    """Python's own ``time`` and ``sys`` have none."""
    text = "import time, sys\ndef reward(p, r):\n    return [time.time() * sys.maxsize for _ in r]\n"
    same, other = defined(text)["reward"], defined(text.replace("time.time", "time.monotonic"))["reward"]
    assert content_of(defined(text)["reward"]) == content_of(same) != content_of(other)
    assert content_of(same).unknown == ()


HELD = """
import abc, enum, re
import numpy as np

class Level(enum.Flag):
    LOW = 1
    HIGH = 2

class Base(abc.ABC):
    __slots__ = ("x",)

class Reward(Base):
    words = {"good"}
    pattern = re.compile("a")
    weights = np.arange(3)
    how = len
    class Inner:
        scale = 2.0

    def __call__(self, prompts, responses):
        return [MIXED.value + NONE.value + self.how(r) for r in responses]

MIXED, NONE = Level.LOW | Level.HIGH, Level(0)
it = Reward()
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# none", ""),
        ('{"good"}', '{"bad"}'),
        ('compile("a")', 'compile("b")'),
        ("arange(3)", "ones(3)"),
        ("how = len", "how = hash"),
        ("scale = 2.0", "scale = 3.0"),
        ("HIGH = 2", "HIGH = 4"),
    ],
)
def test_whatever_a_class_holds_is_part_of_it(old, new):
    """Sets, arrays, patterns, functions and other classes among the attributes, and what the members of an enum are."""
    before, after = defined(HELD), defined(HELD.replace(old, new))
    assert (content_of(before["it"]) == content_of(after["it"])) == (old not in HELD)
    assert content_of(before["it"]).unknown == ()


def test_a_reward_that_counts_its_calls_stays_the_same():
    seen = []

    def reward(prompts, responses):
        seen.append(len(responses))
        return [0.0] * len(responses)

    before = content_of(reward)
    reward(["a"], ["b"])
    assert seen == [1]
    assert content_of(reward) == before


SETS = ("S = {one, two}", "S = frozenset([two, one, (two, 3), 'a', None])", "S = {Held(one), Held(two)}")
ONE, TWO = "one = lambda: 1", "two = lambda: 2"


@pytest.mark.parametrize("held", SETS)
def test_a_set_has_the_same_order_in_every_process(held):
    """Its members may be described alike, and where they lie in memory is chance; so is the order of a set itself."""
    kind = "class Held:\n    def __init__(self, f): self.f = f\ndef reward(p, r):\n    return [len(S) for _ in r]"
    alive = [defined("\n".join([kind, *order, held])) for order in ([ONE, TWO], [TWO, ONE]) * 4]
    assert len({content_of(found["reward"]) for found in alive}) == 1
    other = defined("\n".join([kind, ONE, "two = lambda: 7", held]))
    assert content_of(other["reward"]) != content_of(alive[0]["reward"])


def test_a_set_may_be_reached_from_its_own_members():
    class Ring:
        def __init__(self, ring):
            self.ring = ring

    ring: set[Ring] = set()
    ring |= {Ring(ring), Ring(ring)}
    assert content_of(ring) == content_of(ring)


class Keeps:
    """A reward that keeps what its first call has made, as modules, scorers and cached properties do."""

    def __init__(self, weight=1.0):
        self.weight, self.calls = weight, []

    @functools.cached_property
    def program(self):
        return jax.jit(lambda x: self.weight * x)

    def __call__(self, prompts, responses):
        self.calls.append(len(responses))
        return [float(self.program(len(r))) for r in responses]


def dense(weight=1.0):
    """A Flax module with its parameters, as one object."""
    return linen.Dense(1).bind({"params": {"kernel": jnp.full((1, 1), weight), "bias": jnp.zeros(1)}})


class Grown(nnx.Module):
    """A module of Flax's newer kind, which holds its parameters; its dropout draws a key at every call."""

    def __init__(self, weight=1.0):
        self.scale, self.dropout = nnx.Param(jnp.full((1, 1), weight)), nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dropout(self.scale * x)


@pytest.mark.parametrize("make", [Keeps, dense, Grown])
def test_what_a_reward_keeps_of_its_calls_is_no_part_of_it(make, tables, tmp_path):
    """It is looked at where it is handed in, before it is tried on texts; a finished run is asked without a call."""
    config = tiny_task.ppo_config(tables, tmp_path, policy=tmp_path)
    tried, asked = make(), make()
    Given(reward=tried).named_in(config)
    tried(*(([""], ["ab"]) if make is Keeps else (jnp.ones((1, 1)),)))
    assert content_of(tried) == content_of(asked)
    assert content_of(tried).unknown == ()
    assert content_of(make(2.0)) != content_of(asked)


def test_nor_is_what_one_keeps_that_is_named_by_its_file(tmp_path):
    call = "    def __call__(self, p, r):\n        self.seen = r\n        return [0.0 for _ in r]\n"
    text = f"class Keeps:\n{call}reward = Keeps()\n"
    (tmp_path / "mine.py").write_text(text)
    found = load_function(f"{tmp_path / 'mine.py'}:reward", "reward mine.py:reward")
    before = content_of(found)
    found(["a"], ["b"])
    again = load_function(f"{tmp_path / 'mine.py'}:reward", "judge mine.py:reward")  # run anew for another purpose
    assert content_of(found) == before == content_of(again)


def test_what_cannot_be_hashed_is_named():
    lock_object = threading.Lock()
    found = content_of(lambda prompts, responses: lock_object)
    assert found.unknown == ("<lambda>'s lock_object (an object of type _thread.lock)",)
    assert content_of(np.float32(1)) != content_of(np.float64(1))
    assert content_of(functools.partial(max, jnp.ones(3))) != content_of(functools.partial(max, jnp.zeros(3)))


def test_code_of_this_package_counts_within_a_version_and_another_python_is_not_compared(monkeypatch):
    one = of_callable("dpo", objectives.dpo)
    assert one["sha256"] == of_callable("dpo", objectives.dpo)["sha256"]
    edited = {**one, "with_ours": "0" * 64}
    assert changed({"objective": one}, {"objective": edited}) == [
        "objective is still called dpo, but holds something else now"
    ]
    assert not changed({"objective": one}, {"objective": {**edited, "rlhf_jax": "9.9"}})
    assert not changed({"objective": one}, {"objective": {**one, "python": "2.7", "sha256": "1" * 64}})


def test_rows_are_the_same_wherever_they_stand_and_their_order_and_parts_count():
    rows = [PromptRow("Hi.", "a.jsonl:1"), PromptRow("Ho.", "a.jsonl:2")]
    moved = [row._replace(where="/elsewhere/b.jsonl:7") for row in rows]
    same = of_rows("a", Parts(rows, rows, rows))["sha256"]
    assert of_rows("b", Parts(moved, moved, moved))["sha256"] == same
    for other in (Parts(rows[::-1], rows, rows), Parts(rows, rows[:1], rows), Parts([rows[0], rows[0]], rows, rows)):
        assert of_rows("a", other)["sha256"] != same


# --- what a finished run and one that was begun are ---


@pytest.fixture
def copied(sft_run, tables, tmp_path):
    """A finished SFT run with its data, both where nobody else looks."""
    shutil.copytree(tables, tmp_path / "data")
    shutil.copytree(sft_run.directory, tmp_path / "run")
    # From a folder that several stages share, the one that is asked here.
    return dataclasses.replace(
        sft_run.config, out=str(tmp_path / "run"), data=tiny_task.data(tmp_path / "data", "demonstrations")
    )


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_an_unchanged_finished_run_says_when_it_was_finished(copied, one_device, idle, capsys):
    """Its data has moved, which changes nothing."""
    stages.sft(copied, mesh=one_device)
    assert re.search(r"sft: finished before, on \d{4}-\d\d-\d\d \d\d:\d\d", capsys.readouterr().err)


def test_a_finished_run_of_other_rows_is_refused(copied, tmp_path, one_device, idle):
    edit(tmp_path / "data" / "demonstrations.jsonl", "The cat", "The cats")
    with pytest.raises(RunError, match=r"finished on .* with something else: data is still called|data was .*--out"):
        stages.sft(copied, mesh=one_device)


def test_a_finished_run_whose_rows_are_gone_is_returned_with_a_word(copied, tmp_path, one_device, idle, capsys):
    (tmp_path / "data" / "demonstrations.jsonl").unlink()
    stages.sft(copied, mesh=one_device)
    assert "whether data is still the same cannot be told" in capsys.readouterr().err


def test_the_folder_of_an_earlier_version_is_returned(copied, tmp_path, one_device, idle, capsys):
    (tmp_path / "run" / "made_of.json").unlink()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["sft"]["data"]["source"] = os.path.relpath(copied.data.source)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    stages.sft(copied, mesh=one_device)
    assert "finished before, on" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"another config \(data.source was"):
        stages.sft(dataclasses.replace(copied, data=tiny_task.data(tmp_path / "data", "text")), mesh=one_device)


def test_what_a_failed_command_left_binds_nobody(tmp_path, sft_run):
    """No checkpoint, no parameters: config and tokenizer are written anew."""
    run = tmp_path / "run"
    begin = functools.partial(folder.start, run, "sft")
    begin(sft_run.config, sft_run.tokenizer, {"data": {"is": "a", "sha256": "0"}})
    other = dataclasses.replace(sft_run.config, out=str(run), epochs=7)
    assert not folder.finished(run, "sft", other)
    begin(other, sft_run.tokenizer, {"data": {"is": "b", "sha256": "1"}})
    (run / "checkpoints" / "sft" / "3").mkdir(parents=True)
    with pytest.raises(RunError, match=r"another config \(epochs was 7"):
        folder.finished(run, "sft", sft_run.config)
    with pytest.raises(RunError, match=r"begun with something else: data was b and .*--accept-changed data"):
        begin(other, sft_run.tokenizer, {"data": {"is": "c", "sha256": "2"}})
    accepted = dataclasses.replace(other, accept_changed=("data",))
    assert not folder.finished(run, "sft", accepted)
    begin(accepted, sft_run.tokenizer, {"data": {"is": "c", "sha256": "2"}})
    assert json.loads((run / "made_of.json").read_text())["sft"]["made_of"]["data"]["is"] == "c"


# --- two processes, one folder ---


def owner(run, **changes):
    run.mkdir(exist_ok=True)
    known = {**lock._me(), "what": "the sft stage", "since": "2026-01-01T00:00:00+00:00", "token": "another's"}
    (run / ".lock").write_text(json.dumps({**known, **changes}))


@pytest.mark.parametrize(
    ("changes", "age", "held"),
    [
        ({"pid": os.getppid(), "started": lock._started(os.getppid())}, 0, True),  # alive
        ({"pid": os.getppid(), "started": "1"}, 0, False),  # its number is another process's by now
        ({"pid": 2**22 + 1}, 0, False),  # dead
        ({}, 0, False),  # our own number, of a process before us
        ({"machine": "another", "host": "node7"}, 0, True),  # heard of just now
        ({"machine": "another", "host": "node7"}, 2 * lock.SILENT, False),  # not heard of for long
    ],
)
def test_a_lock_holds_as_long_as_its_process_lives(tmp_path, changes, age, held):
    run = tmp_path / "run"
    owner(run, **changes)
    at = (run / ".lock").stat().st_mtime - age
    os.utime(run / ".lock", (at, at))
    if held:
        with pytest.raises(lock.LockedError, match=r"process \d+ on .* since 2026-01-01T.*\(the sft stage\).*--out"):
            lock.locked(run, "the ppo stage").__enter__()
        return
    with lock.locked(run, "the ppo stage"):
        assert json.loads((run / ".lock").read_text())["what"] == "the ppo stage"
    assert sorted(run.iterdir()) == []


def test_a_thread_may_ask_again_another_may_not_and_nothing_is_left(tmp_path):
    run = tmp_path / "runs" / "mine"
    said = []

    def other():
        with contextlib.suppress(lock.LockedError), lock.locked(run, "two"):
            said.append("in")

    with lock.locked(run, "one"), lock.locked(run, "inside"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert not said
    assert not (tmp_path / "runs").exists()


def test_who_lost_the_folder_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with lock.locked(tmp_path, "one"):
        held = lock._HELD[str(tmp_path.resolve())]
        lock.check(tmp_path)
        owner(tmp_path, host="node7")
        held._beating.join(5)
        with pytest.raises(lock.LockedError, match="on node7 took the folder over"):
            lock.check(tmp_path)
    assert (tmp_path / ".lock").exists()  # the other's


# --- folders that were mixed by hand ---


def replace_parameters(run):
    """As far as the summary knows: those that the stage left had another hash."""
    edit(run / "summary.json", json.loads((run / "summary.json").read_text())["params_sha256"]["sft"], "0" * 64)


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        (lambda run: edit(run / "tokenizer.json", '"version"', ' "version"'), "tokenizer.json is not the tokenizer of"),
        (lambda run: (run / "params" / "sft").rename(run / "params" / "ppo"), "parameters of a sft stage, so it was"),
        (replace_parameters, "does not hold the parameters that the sft stage"),
    ],
)
def test_parameters_know_whose_they_are(copied, tmp_path, mix, said):
    run = tmp_path / "run"
    shutil.rmtree(run / "params" / "ppo", ignore_errors=True)
    mix(run)
    with pytest.raises(RunError, match=said):
        stages.Policy.load(run)


def test_a_step_that_was_renamed_is_no_later_step(tmp_path):
    """The folder of step 3 under the name of the last step would count as finished."""
    store = checkpoint.Checkpoints(tmp_path, fingerprint={})
    store.save(3, {"x": np.zeros(2)}, {})
    store.wait()
    (tmp_path / "3").rename(tmp_path / "9")
    with pytest.raises(checkpoint.CheckpointError, match=r"9 holds the checkpoint of step 3: the folder was renamed"):
        store.restore({"x": np.zeros(2)})


# --- the environment's faults are not the file's ---


def raising(error):
    def load(*_, **__):
        raise error

    return load


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "too many open files; raise the limit with ulimit -n"),
        (OSError(errno.EACCES, "Permission denied"), "permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "make room on the disk"),
        (MemoryError(), "out of memory"),
        (ValueError("NOT_FOUND: [OS error 24: EMFILE Too many open files]"), "Too many open files"),
        (RuntimeError("Unable to initialize backend 'cuda'"), "Unable to initialize backend"),
    ],
)
def test_only_content_is_called_damaged(tmp_path, monkeypatch, error, said):
    """A healthy checkpoint on a machine that fails: the cause is named, and no earlier step is taken."""
    store = checkpoint.Checkpoints(tmp_path / "steps", fingerprint={})
    for step in (1, 2):
        store.save(step, {"x": np.full(2, step)}, {})
    store.wait()
    with monkeypatch.context() as patched:
        patched.setattr("rlhf_jax.checkpoint.leaves.ocp.load_checkpointables", raising(error))
        with pytest.raises(
            checkpoint.CheckpointError, match=r"2 could not be read here .*nothing is known to be"
        ) as caught:
            store.restore({"x": np.zeros(2, int)})
    assert said in str(caught.value)
    assert not re.search("damaged|delete|verifies", str(caught.value))
    assert store.restore({"x": np.zeros(2, int)}).step == 2


def test_no_devices_is_no_damage(tmp_path, monkeypatch):
    checkpoint.save_params(tmp_path / "params", {"x": np.ones(2)}, {})
    monkeypatch.setattr("rlhf_jax.checkpoint.leaves.jax.devices", raising(AssertionError()))
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(
        checkpoint.CheckpointError, match=r"was not read: JAX finds no devices here .*JAX_PLATFORMS=cuda"
    ):
        checkpoint.load_params(tmp_path / "params")


def test_nothing_advises_to_delete():
    sources = [path for path in Path(rlhf_jax.__file__).parent.rglob("*.py")]
    advice = re.compile(r"[\"'].*\bdelete (the|it|this|your)\b", re.IGNORECASE)
    assert [f"{p.name}: {line}" for p in sources for line in p.read_text().splitlines() if advice.search(line)] == []


# --- --config RUN/config.json ---


@pytest.mark.parametrize(
    ("change", "argv", "said"),
    [
        ({}, [], ""),
        ({"data": {"on_bad_rows": "skip"}}, [], "no field sft.data.on_bad_rows"),
        ({"objective": "mine.py:f"}, [], "names code in a file, objective 'mine.py:f'.*add --objective mine.py:f"),
        ({"objective": "mine.py:f"}, ["--objective", "mine.py:f"], ""),
        ({"objective": "mine.py:f"}, ["--objective=sft"], ""),
        ({"optimizer": {"function": "mine.py:f"}}, [], "optimizer.function 'mine.py:f'.*add --optimizer.function mine"),
        ({"rows": 0}, [], "sft: rows must be at least 1"),
    ],
)
def test_the_config_of_a_run_is_one_to_start_from(tmp_path, change, argv, said):
    """The folder may have moved; with another --out it is done again."""
    begun = stages.SFTConfig(out="gone/mine", init="gone/mine:preference", epochs=7)
    record = {"sft": {**dataclasses.asdict(begun), **change}}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(record))
    argv = ["--config", str(file), *argv]
    if said:
        with pytest.raises(cli.UsageError, match=said):
            cli.override(stages.SFTConfig(), "sft", argv)
        return
    found = cli.override(stages.SFTConfig(), "sft", [*argv, "--rows", "32"])
    objective = argv[-1].removeprefix("--objective=") if len(argv) > 2 else "sft"
    moved = {"out": str(tmp_path), "init": f"{tmp_path}:preference", "rows": 32, "objective": objective}
    assert found == dataclasses.replace(begun, **moved)
    again = cli.override(stages.SFTConfig(), "sft", [*argv, "--out", "elsewhere"])
    assert (again.out, again.init, again.epochs) == ("elsewhere", f"{tmp_path}:preference", 7)
    with pytest.raises(cli.UsageError, match="holds the config of sft, and ppo is asked for"):
        cli.override(stages.PPOConfig(), "ppo", ["--config", str(file)])


def test_relative_paths_of_a_recorded_config_lead_from_where_the_stage_was_begun(tables, tmp_path, monkeypatch):
    """From any working folder, as long as they are still there; what is there from here is meant as ever."""
    began, here = tmp_path / "began", tmp_path / "here"
    shutil.copytree(tables, began / "tables")
    (began / "run").mkdir()
    (began / "other").mkdir()
    (here / "other").mkdir(parents=True)
    config = stages.PPOConfig(
        out="run",
        policy="run:sft",
        judge=("gold=other", "code=mine.py:f", "gone=gone"),
        data=stages.DataConfig(source="tables/prompts.jsonl", heldout="validation"),
        prompts=8,
    )
    monkeypatch.chdir(began)
    (began / "mine.py").write_text("def f(prompts, responses): ...")
    folder.update_json(Path("run/config.json"), {"ppo": dataclasses.asdict(config)})
    folder.update_json(Path("run/made_of.json"), {"ppo": {"directory": str(began)}})
    monkeypatch.chdir(here)
    words = ["--judge", "gold=other", "code=mine.py:f", "gone=gone"]
    found = cli.override(stages.PPOConfig(), "ppo", ["--config", "../began/run/config.json", *words])
    assert found.data.source == str(began / "tables/prompts.jsonl")
    assert found.data.heldout == "validation"  # a split
    assert found.policy == "../began/run:sft"
    fields = found_again(dataclasses.asdict(config) | {"judge": list(config.judge)}, began / "run", "ppo")
    assert fields["judge"] == ["gold=other", "code=mine.py:f", "gone=gone"]
    shutil.rmtree(here / "other")
    fields = found_again(dataclasses.asdict(config) | {"judge": list(config.judge)}, began / "run", "ppo")
    assert fields["judge"][0] == f"gold={began / 'other'}"
    assert fields["policy"] == f"{began / 'run'}:sft"
    assert found_again(fields, began / "run", "sft") == fields  # an earlier version noted nothing


def test_judges_of_a_recorded_config_move_and_their_code_is_not_run_unasked(tmp_path):
    begun = stages.PPOConfig(out="gone", policy="gone", judge=("gold=gone", "other=runs/b"))
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"ppo": dataclasses.asdict(begun)}))
    found = cli.override(stages.PPOConfig(), "ppo", ["--config", str(file)])
    assert (found.policy, found.judge) == (str(tmp_path), (f"gold={tmp_path}", "other=runs/b"))
    code = {"reward": "mine.py:r", "judge": ["gold=mine.py:f", "other=runs/b"]}
    file.write_text(json.dumps({"ppo": {**dataclasses.asdict(begun), "reward_model": "", **code}}))
    with pytest.raises(cli.UsageError, match=r"names code in a file, .*judge 'gold=mine\.py:f'") as refused:
        cli.override(stages.PPOConfig(), "ppo", ["--config", str(file)])
    # All of it at once, as judges that are named stand in place of those that were.
    added = str(refused.value).rpartition("and add ")[2].split()
    assert sorted(added[1::2]) == ["gold=mine.py:f", "mine.py:r", "other=runs/b"]
    found = cli.override(stages.PPOConfig(), "ppo", ["--config", str(file), *added])
    assert (found.reward, found.judge) == ("mine.py:r", ("gold=mine.py:f", "other=runs/b"))
