import math
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_run import TOTAL, build, outcome, small_run

from rlhf_jax.checkpoint import Checkpoints
from rlhf_jax.training import Interrupted, MetricsWriter, Phases, SkippedUpdates, fit, init_state, make_train_step
from rlhf_jax.types import Aux


def at(step, action):
    """An ``before_update`` that acts once, before one step."""

    def act(i):
        if i == step:
            action()

    return act


def assert_same_curves(found, expected):
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(*([value for name, value in row.items() if name != "stage"] for row in (a, b)), 1e-5)


class Killed(BaseException):
    """Stands for anything that ends a process without warning."""


def die():
    raise Killed


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return outcome(folder, *small_run(folder))


def test_a_run_trains_logs_and_keeps_the_best(uninterrupted):
    rows = uninterrupted["history"]
    assert [row["step"] for row in rows] == list(range(1, TOTAL + 1))
    evaluations = {row["step"]: row["small/held_out"] for row in rows if "small/held_out" in row}
    assert list(evaluations) == list(range(3, TOTAL + 1, 3))
    assert uninterrupted["best_value"] == min(evaluations.values()) == evaluations[uninterrupted["best_step"]]
    assert rows[-1]["small/loss"] < rows[0]["small/loss"]
    assert {"small/grad_norm", "small/skipped"} <= set(rows[0])


@pytest.mark.parametrize("deaths", [(2,), (9,), (5, 11, 12, 23)])
def test_a_run_that_died_ends_like_one_that_did_not(tmp_path, uninterrupted, deaths):
    for step in deaths:
        with pytest.raises(Killed):
            small_run(tmp_path, before_update=at(step, die))
    assert outcome(tmp_path, *small_run(tmp_path)) == uninterrupted
    assert (
        outcome(tmp_path, *small_run(tmp_path, before_update=lambda i: die())) == uninterrupted
    )  # nothing is left to do


def test_an_error_in_a_step_loses_no_step(tmp_path, uninterrupted):
    """A reward that fails at the tenth step: the nine before it are saved, whatever ``checkpoint_every`` says."""

    def fail():
        raise KeyError("score")

    with pytest.raises(KeyError) as caught:
        small_run(tmp_path, before_update=at(9, fail))
    assert caught.value.__notes__ == ["what was done up to step 9 is saved, and the same command continues from there"]
    steps = []
    assert outcome(tmp_path, *small_run(tmp_path, before_update=steps.append)) == uninterrupted
    assert steps[0] == 9


@pytest.mark.parametrize("failing", [9, 12, TOTAL])  # between checkpoints, at one, and at the last step
def test_an_evaluation_that_failed_is_made_up_for(tmp_path, uninterrupted, failing):
    held_out = build(1)[2]

    def evaluate(state):
        if int(state.step) == failing:
            raise ZeroDivisionError("a judge")
        return {"held_out": (held_out(state), jnp.float32(16))}

    with pytest.raises(ZeroDivisionError) as caught:
        small_run(tmp_path, evaluate=evaluate)
    assert f"up to step {failing} is saved" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError):  # it fails again, and nothing is lost by that
        small_run(tmp_path, evaluate=evaluate)
    steps = []
    assert outcome(tmp_path, *small_run(tmp_path, before_update=steps.append)) == uninterrupted
    assert steps == list(range(failing, TOTAL))


def test_what_an_update_has_taken_cannot_be_saved_and_the_error_says_so(tmp_path, uninterrupted):
    """Its arrays are donated: a failure behind that leaves the last checkpoint."""

    def update(state, i):
        jax.tree.map(lambda x: x.delete(), state)
        raise RuntimeError("the device is gone")

    with pytest.raises(Killed):
        small_run(tmp_path, before_update=at(10, die))
    with pytest.raises(RuntimeError) as caught:
        small_run(tmp_path, update=update)
    assert "__notes__" not in vars(caught.value)  # eight steps are done, and saved
    assert outcome(tmp_path, *small_run(tmp_path)) == uninterrupted


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_stops_at_the_step_and_saves(tmp_path, uninterrupted, signum, code):
    with pytest.raises(Interrupted) as caught:
        small_run(tmp_path, before_update=at(6, lambda: os.kill(os.getpid(), signum)))
    assert (caught.value.step, caught.value.exit_code) == (7, code)
    assert (tmp_path / "checkpoints" / "small" / "7").is_dir()
    steps = []
    assert outcome(tmp_path, *small_run(tmp_path, before_update=steps.append)) == uninterrupted
    assert steps[0] == 7


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(tmp_path, uninterrupted):
    with pytest.raises(Killed):
        small_run(tmp_path, before_update=at(14, die))
    arrays = tmp_path / "checkpoints" / "small" / "12" / "arrays"
    for path in arrays.rglob("d/*"):  # all of them: what the store keeps of so small a tree is not all in use
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    steps = []
    with pytest.warns(UserWarning, match="falling back to the step before"):
        assert outcome(tmp_path, *small_run(tmp_path, before_update=steps.append)) == uninterrupted
    assert steps[0] == 8


def test_eight_devices_give_the_losses_of_one(tmp_path, uninterrupted):
    result, _ = small_run(tmp_path, devices=8)
    assert_same_curves(result.history, uninterrupted["history"])


def test_one_mesh_continues_what_another_began(tmp_path, uninterrupted):
    with pytest.raises(Killed):
        small_run(tmp_path, devices=8, before_update=at(10, die))
    result, _ = small_run(tmp_path, devices=1)
    assert_same_curves(result.history, uninterrupted["history"])


@pytest.mark.parametrize(
    ("mode", "values", "best_step"), [("min", [3, 1, 2, 2, 0], 2), ("max", [3, 4, math.nan, 4, 9], 2)]
)
def test_patience_stops_and_the_best_is_kept(tmp_path, mode, values, best_step):
    def evaluate(state):
        return {"score": values[int(state.step) - 1]}

    arguments = {"evaluate": evaluate, "eval_every": 1, "best": "score", "mode": mode, "patience": 2, "total": 5}
    result, _ = small_run(tmp_path, **arguments)
    assert (result.stopped_early, int(result.state.step)) == (True, 4)
    assert (result.best_step, result.best_value) == (best_step, values[best_step - 1])
    again, _ = small_run(tmp_path, before_update=lambda i: die(), **arguments)
    assert again.stopped_early
    assert jax.tree.all(jax.tree.map(np.array_equal, again.best_params, result.best_params))
    assert not jax.tree.all(jax.tree.map(np.array_equal, result.best_params, result.state.params))


class Watching:
    """A watcher that notes what it is told, and ends the run at a step."""

    def __init__(self, stop_at=0):
        self.told, self._stop_at = [], stop_at

    def rewind(self, step):
        self.told.append(("rewind", step))

    def evaluated(self, step, values):
        self.told.append((step, float(values["held_out"])))
        return "somebody said so" if step == self._stop_at else ""


def test_a_watcher_is_told_of_every_evaluation_and_may_end_the_run(tmp_path, capsys):
    arguments = {"evaluate": lambda state: {"held_out": state.step}, "eval_every": 2, "total": 6}
    watching = Watching(stop_at=4)
    result, _ = small_run(tmp_path, evaluate_first=True, watcher=watching, **arguments)
    assert watching.told == [("rewind", -1), (0, 0.0), (2, 2.0), (4, 4.0)]
    assert (result.stopped_early, result.stop_reason, int(result.state.step)) == (True, "somebody said so", 4)
    assert "small: stopped early at step 4 of 6: somebody said so" in capsys.readouterr().err.splitlines()
    # It stays stopped, and nobody is asked again.
    again = Watching()
    result, _ = small_run(tmp_path, evaluate_first=True, watcher=again, before_update=lambda i: die(), **arguments)
    assert (result.stop_reason, again.told) == ("somebody said so", [("rewind", 4)])


def test_a_watcher_hears_from_where_a_run_goes_on(tmp_path):
    arguments = {"evaluate": lambda state: {"held_out": state.step}, "eval_every": 1, "total": 6}
    with pytest.raises(Killed):
        small_run(tmp_path, before_update=at(5, die), **arguments)
    watching = Watching(stop_at=6)
    result, _ = small_run(tmp_path, watcher=watching, **arguments)
    saved = watching.told[0][1]
    assert watching.told == [("rewind", saved), *((step, float(step)) for step in range(saved + 1, 7))]
    assert 0 < saved <= 5
    assert not result.stopped_early  # the last step is where it ends anyway


def test_the_first_evaluation_can_win(tmp_path):
    result, _ = small_run(tmp_path, total=2, evaluate_first=True, evaluate=lambda state: {"held_out": state.step})
    assert [(row["step"], row.get("small/held_out")) for row in result.history] == [(0, 0.0), (1, None), (2, 2.0)]
    assert (result.best_step, result.best_value) == (0, 0.0)


def test_without_evaluation_the_last_is_the_best(tmp_path):
    result, _ = small_run(tmp_path, total=2, evaluate=None)
    assert (result.best_step, result.best_value, result.stopped_early) == (2, None, False)
    assert jax.tree.all(jax.tree.map(np.array_equal, result.best_params, result.state.params))


def skipping_run(folder, bad_steps, **changes):
    def loss(params, batch, key):
        return params["x"] * batch, Aux(jnp.float32(1), {})

    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(loss, optimizer), donate_argnums=0)
    with MetricsWriter(folder, "skip") as writer:
        return fit(
            stage="skip",
            state={"train": init_state({"x": jnp.float32(1)}, optimizer), "moments": jnp.zeros(2)},
            total=10,
            update=lambda state, i: (
                lambda train, metrics: ({"train": train, "moments": state["moments"] + 1}, metrics)
            )(*step(state["train"], jnp.float32(math.nan if i in bad_steps else 1.0), jax.random.key(i))),
            writer=writer,
            checkpoints=Checkpoints(folder / "checkpoints", fingerprint={}),
            checkpoint_every=5,
            train_state=lambda state: state["train"],
            max_skipped_in_row=3,
            **changes,
        )


def test_skipped_updates_are_counted_and_too_many_are_fatal(tmp_path):
    result = skipping_run(tmp_path / "some", {1, 2, 4, 5, 9})
    assert int(result.state["train"].skipped) == 5
    assert result.state["moments"].tolist() == [10.0, 10.0]
    assert [row["skip/skipped"] for row in result.history] == [0, 1, 1, 0, 1, 1, 0, 0, 0, 1]
    with pytest.raises(SkippedUpdates, match="skip: the last 3 updates up to step 6 were skipped"):
        skipping_run(tmp_path / "many", {3, 4, 5})
    with pytest.raises(SkippedUpdates, match="up to step 10"):
        skipping_run(tmp_path / "end", {7, 8, 9})


def test_the_state_is_dumped_once_before_the_run_ends(tmp_path):
    """Steps 4, 5 and 6 are bad; that is seen while step 7 is under way, which is what there is to dump."""
    dumped = []

    def dump(last):
        dumped.append(last)
        return "It is in a drawer"

    with pytest.raises(SkippedUpdates, match=r"look at the data of these steps\. It is in a drawer$"):
        skipping_run(tmp_path / "middle", {3, 4, 5}, dump=dump)
    (last,) = dumped
    assert (last.step, last.state["moments"].tolist()) == (7, [7.0, 7.0])
    assert (int(last.state["train"].step), int(last.state["train"].skipped)) == (7, 3)
    assert "loss" in last.metrics
    # After the last step nothing is under way.
    with pytest.raises(SkippedUpdates, match="up to step 10"):
        skipping_run(tmp_path / "end", {7, 8, 9}, dump=dump)
    assert (dumped[-1].step, int(dumped[-1].state["train"].skipped_in_row)) == (10, 3)


def test_the_loop_says_what_it_is_doing(tmp_path):
    phases, seen = Phases(), []

    def look(i):
        seen.append((phases.now().step, phases.now().phase))

    def evaluate(state):
        seen.append((phases.now().step, phases.now().phase))
        return {"held_out": state.step}

    class Looking(Checkpoints):
        def save(self, step, tree, host):
            seen.append((phases.now().step, phases.now().phase))
            super().save(step, tree, host)

    small_run(
        tmp_path,
        total=2,
        before_update=look,
        evaluate=evaluate,
        eval_every=2,
        evaluate_first=True,
        phases=phases,
        checkpoints=Looking(tmp_path / "elsewhere", fingerprint={}),
        checkpoint_every=1,
    )
    assert seen == [
        (0, "evaluate"),
        (1, "update"),
        (1, "save"),
        (2, "update"),
        (2, "evaluate"),
        (2, "save"),
    ]
    assert phases.now().phase == ""


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"small: evaluate gave \['held_out'\] and no 'accuracy'"):
        small_run(tmp_path / "a", best="accuracy")
    with pytest.raises(ValueError, match="needs eval_every >= 1 and best"):
        small_run(tmp_path / "b", best="")
    with pytest.raises(ValueError, match="must be at least 1, found 0"):
        small_run(tmp_path / "c", checkpoint_every=0)
