"""What a stage leaves when it fails or hangs, and where it says that its time went."""

import dataclasses
import json
import math
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import losses, stages
from rlhf_jax.stages.attempt import Attempt, nested
from rlhf_jax.training import KLState, LastUpdate, SkippedUpdates, TrainState, read_goodput
from rlhf_jax.training.goodput import KINDS
from rlhf_jax.types import Loss


def broken(outputs, batch):
    """An objective that is never finite; one of its figures is."""
    figures = {"tokens": (jnp.ones_like(outputs.logprobs), batch.mask)}
    return Loss(outputs.logprobs * math.nan, batch.mask, losses.token_mean, figures)


def looked_at(error):
    """Run the line that the error says to run, and return the names it sets."""
    (line,) = re.findall(r"to look at them: (.*)$", str(error))
    names = {}
    exec(line, names)
    return names["tree"], names["about"]


def test_sft_dumps_its_state_before_it_gives_up(tables, tmp_path, one_device):
    config = tiny_task.sft_config(tables, tmp_path / "run", max_skipped=2, eval_every=100, checkpoint_every=100)
    with pytest.raises(SkippedUpdates, match="sft: the last 2 updates up to step 2 were skipped") as caught:
        stages.sft(config, objective=broken, mesh=one_device)
    assert str(tmp_path / "run" / "dumps" / "sft") in str(caught.value)
    tree, about = looked_at(caught.value)
    # The third update was under way when the second was found to be bad; the dump is of it, state and batch alike.
    assert about == {"stage": "sft", "step": 3}
    assert int(tree["state"]["step"]) == int(tree["state"]["skipped_in_row"]) == 3
    assert {"params", "opt_state"} <= tree["state"].keys()
    assert set(tree["state"]["params"]) == {"policy"}
    # A skipped update adds nothing to the figures, and counts as one.
    assert {name: float(pair["0"]) for name, pair in tree["metrics"].items() if name in ("loss", "skipped")} == {
        "loss": 0.0,
        "skipped": 1.0,
    }
    assert tree["batch"]["tokens"].shape == tree["batch"]["mask"].shape
    assert int(tree["batch"]["mask"].sum()) > 0
    # The run goes on from the beginning, fails again, and there is still one dump.
    with pytest.raises(SkippedUpdates):
        stages.sft(config, objective=broken, mesh=one_device)
    assert [path.name for path in (tmp_path / "run" / "dumps").iterdir()] == ["sft"]


def test_ppo_dumps_the_samples_that_the_update_was_made_from(tables, tmp_path, folder, sft_run, one_device):
    config = tiny_task.ppo_config(tables, tmp_path, policy=folder, max_skipped=1, eval_every=100, checkpoint_every=100)
    reward = tiny_task.count_a
    with pytest.raises(SkippedUpdates) as caught:
        stages.ppo(config, reward=reward, judges={}, objective=broken, mesh=one_device)
    tree, about = looked_at(caught.value)
    assert about["stage"] == "ppo"
    assert about["step"] >= 1
    assert len(about["prompts"]) == config.prompts == tree["rollout"]["tokens"].shape[0]
    # The scores are those of the very responses, so prompts, samples and batch belong together.
    texts = [sft_run.tokenizer.decode(row[mask].tolist()) for row, mask in each_response(tree["rollout"])]
    assert np.asarray(tree["batch"]["score"]).ravel().tolist() == [text.count("a") for text in texts]
    assert set(tree["state"]["train"]["params"]) == {"policy", "critic"}
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), tree["state"]["train"]["params"]))


def each_response(rollout):
    tokens, mask = (np.asarray(rollout[name]) for name in ("tokens", "mask"))
    return zip(tokens.reshape(-1, tokens.shape[-1]), mask.reshape(-1, mask.shape[-1]), strict=True)


def attempt(folder, **changes):
    return Attempt(folder, "sft", tiny_task.sft_config("", folder, **changes))


def last_update(**changes):
    state = TrainState({"policy": {"x": jnp.array([1.0, math.nan])}}, (KLState(jnp.float32(2)),), 4, 0, 0)
    state = jax.tree.map(jnp.asarray, state)
    return LastUpdate(4, state, {"loss": (jnp.float32(math.inf), jnp.float32(1)), "length": 3.5, **changes})


def test_what_is_not_finite_survives_the_dump(tmp_path):
    said = attempt(tmp_path).dump(last_update(), {"batch": (np.zeros(2, np.int32),), "prompts": ["one", "two"]})
    tree, about = looked_at(said)
    np.testing.assert_array_equal(tree["state"]["params"]["policy"]["x"], [1.0, math.nan])
    assert float(tree["state"]["opt_state"]["0"]["coef"]) == 2
    assert (float(tree["metrics"]["loss"]["0"]), float(tree["metrics"]["length"])) == (math.inf, 3.5)
    assert tree["batch"]["0"].tolist() == [0, 0]
    assert about == {"stage": "sft", "step": 4, "prompts": ["one", "two"]}


def test_a_dump_that_cannot_be_written_does_not_hide_why_the_run_ended(tmp_path):
    (tmp_path / "dumps").write_text("a file where the folder should be")
    assert attempt(tmp_path).dump(last_update(), {}).startswith("The state could not be dumped (")


def test_a_tree_is_named_by_its_paths():
    pair = (np.zeros(1), np.ones(1))
    assert nested({"a": KLState(pair[0]), "b": pair}) == {"a": {"coef": pair[0]}, "b": {"0": pair[0], "1": pair[1]}}


def test_a_reward_that_hangs_is_reported_with_its_phase(tables, tmp_path, folder, sft_run, one_device, capsys):
    """The reward answers only once the watchdog has spoken of it, at every call."""
    config = tiny_task.ppo_config(tables, tmp_path, policy=folder, iterations=1, watchdog_seconds=0.2)
    file = tmp_path / "hung_ppo_process0.txt"

    def spoken():
        return file.read_text() if file.exists() else ""

    def hanging(prompts, responses):
        before, deadline = len(spoken()), time.monotonic() + 60
        while not re.search(r"phase '(reward|evaluate)'", spoken()[before:]):
            assert time.monotonic() < deadline, "the watchdog says nothing"
            time.sleep(0.01)
        return tiny_task.count_a(prompts, responses)

    stages.ppo(config, reward=hanging, judges={}, mesh=one_device)
    said = capsys.readouterr().err
    assert re.search(r"ppo: watchdog: no progress for 0:00: step 1, phase 'reward'", said)
    assert f"the stacks of all its threads are in {file}" in said
    assert "in hanging" in file.read_text()


def test_every_stage_says_where_its_time_went(ppo_run):
    found = read_goodput(ppo_run.directory / "goodput.jsonl")
    assert list(found) == ["sft", "reward", "ppo"]
    seconds = json.loads((ppo_run.directory / "summary.json").read_text())["seconds"]
    for stage, spent in found.items():
        assert set(spent.seconds) == set(KINDS)
        assert min(spent.seconds.values()) >= 0
        assert spent.seconds["useful"] > 0
        assert spent.seconds["evaluation"] > 0
        assert spent.seconds["restart"] == 0
        assert spent.attempts == 1
        # The stage's own clock ends before its results are written, which belongs to ``save``.
        assert seconds[stage] - 0.1 <= spent.wall
        assert 0 < spent.goodput < 1
    assert found["ppo"].step == ppo_run.metrics[-1]["step"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"watchdog_seconds": -1.0}, r"watchdog_seconds must be 0 \(off\) or more, found -1"),
        ({"watchdog_seconds": 0.0, "watchdog_exit": True}, "watchdog_exit needs watchdog_seconds above 0"),
    ],
    ids=str,
)
def test_a_watchdog_that_cannot_be_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        tiny_task.sft_config("unused", "unused", **change)


def test_a_run_may_go_on_with_another_watchdog(sft_run, idle):
    other = dataclasses.replace(sft_run.config, watchdog_seconds=60.0, watchdog_exit=True)
    assert stages.sft(other).summary == sft_run.summary
