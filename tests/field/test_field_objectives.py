"""Mistakes in objectives, as people make them: each is a property with a name and the line, not a bare error of JAX."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import losses, objectives, stages, testing
from rlhf_jax.runs.errors import RunError
from rlhf_jax.stages import choose
from rlhf_jax.testing import ObjectiveError, check_arrays, check_objective
from rlhf_jax.types import Loss

kept = []  # what a mistake keeps from one call for another


def pair_values(outputs, batch):
    """DPO's loss a pair, sound but for what is done with it."""
    return objectives.dpo(outputs, batch).values


def filler_groups(outputs, batch):
    v = pair_values(outputs, batch)
    return Loss(v, jnp.ones_like(v, bool), losses.token_mean)


def inner_mean(outputs, batch):
    return Loss(pair_values(outputs, batch).mean(), jnp.array(True), losses.token_mean)


def inner_mean_spread(outputs, batch):
    """The same mean, written once for every pair that is there; it was taken over those that are not, too."""
    v, present = pair_values(outputs, batch), batch.mask.any(-1).all(-1)
    return Loss(jnp.full_like(v, 1.0) * v.mean(keepdims=True), present, losses.token_mean)


def inner_sum(outputs, batch):
    return Loss(jnp.sum(-outputs.logprobs), jnp.array(True), losses.token_mean)


def sum_for_a_mean(outputs, batch):
    """The reduction adds up and divides by one, so that the loss grows with the batch."""
    return Loss(-outputs.logprobs, batch.mask, lambda v, m: (losses.masked_sum(v, m), jnp.float32(1)))


def not_a_loss(outputs, batch):
    return -jnp.mean(outputs.logprobs)


def a_python_float(outputs, batch):
    return Loss(1.0, batch.mask, losses.token_mean)


def a_python_bool(outputs, batch):
    return Loss(-outputs.logprobs, True, losses.token_mean)


def a_name_for_a_reduction(outputs, batch):
    return Loss(-outputs.logprobs, batch.mask, "mean")


def two_arguments_missing(outputs, batch):
    return Loss(-outputs.logprobs, batch.mask)


def weights_for_a_mask(outputs, batch):
    return Loss(-outputs.logprobs, batch.mask.astype(jnp.float32), losses.token_mean)


def wrong_shape(outputs, batch):
    return Loss(-outputs.logprobs.sum(-1), batch.mask, losses.token_mean)


def wrong_dtype(outputs, batch):
    return Loss(-outputs.logprobs.astype(jnp.bfloat16), batch.mask, losses.token_mean)


def one_number_from_the_reduction(outputs, batch):
    return Loss(-outputs.logprobs, batch.mask, losses.masked_mean)


def metrics_without_a_mask(outputs, batch):
    return Loss(-outputs.logprobs, batch.mask, losses.token_mean, {"nll": -outputs.logprobs.mean()})


def python_if(outputs, batch):
    if outputs.logprobs.sum() > 0:  # found by its line
        return Loss(-outputs.logprobs, batch.mask, losses.token_mean)
    return Loss(-2 * outputs.logprobs, batch.mask, losses.token_mean)


def numpy_on_a_tracer(outputs, batch):
    return Loss(jnp.asarray(-np.exp(outputs.logprobs)), batch.mask, losses.token_mean)


def python_float(outputs, batch):
    scale = float(jnp.max(batch.reward))
    return Loss(-scale * outputs.logprobs, batch.mask, losses.token_mean)


def boolean_index(outputs, batch):
    tokens = outputs.logprobs[batch.mask]
    return Loss(-tokens, jnp.ones_like(tokens, bool), losses.token_mean)


def python_range(outputs, batch):
    total = sum(outputs.logprobs[..., i] for i in range(batch.mask.sum()))
    return Loss(-total, batch.mask.any(-1), losses.token_mean)


def keeps_a_tracer(outputs, batch):
    kept.append(outputs.logprobs)
    return Loss(-kept[0], batch.mask, losses.token_mean)


def unknown_field(outputs, batch):
    return Loss(-outputs.logprobs * batch.rewards[..., None], batch.mask, losses.token_mean)


def unknown_output(outputs, batch):
    return Loss(-outputs.logprob, batch.mask, losses.token_mean)


def empty_field(outputs, batch):
    return Loss(-outputs.logprobs * batch.importance_cap[..., None], batch.mask, losses.token_mean)


def shapes_that_do_not_fit(outputs, batch):
    return Loss(-outputs.logprobs * batch.reward, batch.mask, losses.token_mean)


def unbound(outputs, batch, *, beta):
    return Loss(-beta * outputs.logprobs, batch.mask, losses.token_mean)


def one_argument(outputs):
    return Loss(-outputs.logprobs, outputs.logprobs < 0, losses.token_mean)


def mask_ignored(outputs, batch):
    return Loss(-outputs.logprobs, batch.segment_ids > 0, losses.token_mean)


def sum_without_the_mask(outputs, batch):
    return Loss(-outputs.logprobs.sum(-1), batch.mask.any(-1), losses.token_mean)


def starts_at_a_column(outputs, batch):
    late = jnp.arange(batch.tokens.shape[-1]) > 6
    return Loss(-outputs.logprobs * jnp.where(late, 2.0, 1.0)[None, None], batch.mask, losses.token_mean)


def not_differentiable(outputs, batch):
    return Loss(jnp.sign(outputs.logprobs), batch.mask, losses.token_mean)


def nan_at_ties(outputs, batch):
    """A norm of the difference: its gradient at 0 is 0 / 0."""
    ref = jax.lax.stop_gradient(batch.ref_logprobs)
    gap = losses.masked_sum(outputs.logprobs - ref, batch.mask, axis=-1)
    return Loss(jnp.sqrt(jnp.square(gap)), batch.mask.any(-1), losses.token_mean)


def deviation_of_equal_rewards(outputs, batch):
    """The advantage of a group whose rewards are all alike is 0 / 0."""
    reward = jax.lax.stop_gradient(batch.reward)
    advantage = (reward - reward.mean(-1, keepdims=True)) / reward.std(-1, keepdims=True)
    s = losses.masked_sum(outputs.logprobs, batch.mask, axis=-1)
    return Loss(-s * jnp.where(batch.mask.any(-1), advantage, 0.0), batch.mask.any(-1), losses.token_mean)


def gradient_into_the_reference(outputs, batch):
    return Loss(-(outputs.logprobs - batch.ref_logprobs), batch.mask, losses.token_mean)


def wrong_sign_of_text(outputs, batch):
    return Loss(outputs.logprobs, batch.mask, losses.token_mean)


def wrong_sign_of_rewards(outputs, batch):
    reward = jax.lax.stop_gradient(batch.reward)[..., None]
    return Loss(outputs.logprobs * reward, batch.mask, losses.token_mean)


def wrong_order_of_a_pair(outputs, batch):
    ref = jax.lax.stop_gradient(batch.ref_logprobs)
    s = losses.masked_sum(outputs.logprobs - ref, batch.mask, axis=-1)
    return Loss(losses.bradley_terry(s[:, 1], s[:, 0]), batch.mask.any(-1).all(-1), losses.token_mean)


def wrong_sign_of_votes(outputs, batch):
    present = batch.mask.any(-1).all(-1)
    share = jax.lax.stop_gradient(batch.votes[:, 1, 0] / jnp.maximum(batch.votes[:, 0, 1] + batch.votes[:, 1, 0], 1))
    gap = losses.masked_fill(outputs.scores[:, 0] - outputs.scores[:, 1], present)
    return Loss(losses.bradley_terry(gap, jnp.zeros_like(gap), preference=share), present, losses.token_mean)


def whitens_the_batch(outputs, batch):
    advantages = losses.masked_whiten(jax.lax.stop_gradient(batch.advantages), batch.mask)
    return Loss(-outputs.logprobs * advantages, batch.mask, losses.token_mean)


PLANTED = [
    (filler_groups, "filler groups", "take the mask from batch.mask"),
    (inner_mean, "declared reduction", "a mean or a sum was taken inside the objective"),
    (inner_mean_spread, "micro-batching", "two parts of a batch do not add up"),
    (inner_sum, "declared reduction", "values are a single number"),
    (sum_for_a_mean, "filler groups", "denominator 1"),
    (not_a_loss, "returns a Loss", "return Loss(values, mask, reduction)"),
    (a_python_float, "returns a Loss", "values is 1.0, not an array"),
    (a_python_bool, "returns a Loss", "mask is True, not an array"),
    (a_name_for_a_reduction, "returns a Loss", "not a function like losses.token_mean"),
    (two_arguments_missing, "runs", "return Loss(-outputs.logprobs, batch.mask)`: TypeError"),
    (weights_for_a_mask, "returns a Loss", "its mask is float32, not bool"),
    (wrong_shape, "scalar float32", "differ in shape"),
    (wrong_dtype, "scalar float32", "values are bfloat16"),
    (one_number_from_the_reduction, "declared reduction", "one numerator and one denominator"),
    (metrics_without_a_mask, "metrics", "'nll' is "),
    (python_if, "traceable", "`if outputs.logprobs.sum() > 0:  # found by its line`: Python's if"),
    (numpy_on_a_tracer, "traceable", "np.exp(outputs.logprobs)), batch.mask, losses.token_mean)`: numpy is given"),
    (python_float, "traceable", "`scale = float(jnp.max(batch.reward))`: float()"),
    (boolean_index, "traceable", "`tokens = outputs.logprobs[batch.mask]`: an array is indexed with a mask"),
    (python_range, "traceable", "an array is used as a whole number of Python's"),
    (keeps_a_tracer, "traceable", "an array is kept from one call for another"),
    (unknown_field, "fields", "batch has no field 'rewards': did you mean reward?"),
    (unknown_output, "fields", "outputs has no field 'logprob': did you mean logprobs?"),
    (empty_field, "fields", "a field that nobody filled in is None"),
    (
        shapes_that_do_not_fit,
        "runs",
        "`return Loss(-outputs.logprobs * batch.reward, batch.mask, losses.token_mean)`: ",
    ),
    (unbound, "takes outputs and batch", "missing a required argument: 'beta'; bind hyperparameters with"),
    (one_argument, "takes outputs and batch", "too many positional arguments"),
    (mask_ignored, "mask", "behind the mask"),
    (sum_without_the_mask, "mask", "behind the mask"),
    (starts_at_a_column, "padding side", "padding on the left"),
    (not_differentiable, "has a gradient", "zero"),
    (nan_at_ties, "finite at ties", "not finite where the policy is its own reference"),
    (deviation_of_equal_rewards, "finite at ties", "rewards, ratings and votes are equal"),
    (gradient_into_the_reference, "stop gradient", "batch.ref_logprobs"),
    (wrong_sign_of_text, "sign", "the demonstration, or the chosen response of a pair, is made less likely"),
    (wrong_sign_of_rewards, "sign", "more of batch.reward for a response pushes its logprobs and scores down"),
    (wrong_order_of_a_pair, "sign", "is made less likely"),
    (wrong_sign_of_votes, "sign", "more of batch.votes"),
    (whitens_the_batch, "micro-batching", "two parts of a batch do not add up"),
]


@pytest.mark.parametrize(("objective", "name", "says"), PLANTED, ids=lambda x: getattr(x, "__name__", None))
def test_the_short_form_names_the_mistake(objective, name, says):
    kept.clear()
    with pytest.raises(ObjectiveError) as caught:
        check_arrays(objective)
    assert caught.value.property == name
    assert says in str(caught.value)
    if name in ("fields", "runs", "traceable") and objective is not keeps_a_tracer:
        assert re.match(rf"{name}: test_field_objectives\.py:\d+, `", str(caught.value))


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (filler_groups, "filler groups"),
        (inner_mean, "declared reduction"),
        (python_if, "traceable"),
        (numpy_on_a_tracer, "traceable"),
        (unknown_field, "fields"),
        (unbound, "takes outputs and batch"),
        (nan_at_ties, "finite at ties"),
        (wrong_sign_of_text, "sign"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_so_does_the_long_form(quick_models, objective, name):
    with pytest.raises(ObjectiveError) as caught:
        check_objective(objective)
    assert caught.value.property == name


def test_what_an_inner_mean_costs_is_what_the_check_prevents():
    """Of eight pairs three are there: a mean over all of them has 3/8 of the gradient."""
    point = testing.short.some_point((("logprobs",), ("ref_logprobs",)), 2)
    few = testing.points.keep_groups(point, np.arange(8) < 3)

    def gradient(objective):
        def loss(logprobs):
            numerator, weight = losses.token_mean(*objective(few.outputs._replace(logprobs=logprobs), few.batch)[:2])
            return numerator / weight

        return np.abs(jax.grad(loss)(few.outputs.logprobs)).sum()

    sound = gradient(objectives.dpo)
    assert gradient(filler_groups) == pytest.approx(3 / 8 * sound, rel=1e-4)
    assert gradient(inner_mean) == pytest.approx(3 / 8 * sound, rel=1e-4)


GIVEN = {"sft": choose.SFT, "reward_model": choose.REWARD, "ppo": choose.PPO, "kto": choose.PREFERENCE}


@pytest.mark.parametrize("name", objectives.NAMES)
def test_ours_pass_the_short_form(name):
    needs = {"max_length": 14} if name == "dr_grpo" else {}
    assert "sign" in check_arrays(functools.partial(getattr(objectives, name), **needs), given=GIVEN.get(name, ALL))


ALL = (("logprobs", "entropy", "values", "scores"), (*choose.PPO[1], *choose.PREFERENCE[1], "rating"))


def test_pushing_down_on_purpose_is_allowed_when_said():
    assert "sign" not in check_arrays(wrong_sign_of_text, signs=False)


FILE = """
import jax.numpy as jnp
from rlhf_jax import losses
from rlhf_jax.types import Loss

def sound(outputs, batch):
    return Loss(-outputs.logprobs, batch.mask, losses.token_mean)

def ignores(outputs, batch):
    return Loss(-outputs.logprobs, batch.segment_ids > 0, losses.token_mean)

def asks(outputs, batch):
    if (outputs.logprobs > 0).any():
        return None
    return sound(outputs, batch)
"""


def test_a_stage_checks_an_objective_of_a_file_and_writes_nothing_before(tables, one_device, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(FILE)
    for function, says in (
        ("ignores", r"own\.py:ignores: mask: .*--no-check trains with it as it is"),
        ("asks", r"own\.py:asks: own\.py:13, `if \(outputs\.logprobs > 0\)\.any\(\):`: Python's if"),
    ):
        config = tiny_task.sft_config(tables, tmp_path / "run", objective=f"{file}:{function}")
        with pytest.raises(RunError, match=says):
            stages.sft(config, mesh=one_device)
    assert not (tmp_path / "run").exists()


def test_no_check_skips_it_and_ours_are_not_looked_at_again(monkeypatch):
    monkeypatch.setattr(choose, "check_arrays", lambda *_, **__: pytest.fail("looked at"))
    for config in (stages.SFTConfig(objective="own.py:ignores", check=False), stages.SFTConfig()):
        choose.check_own(mask_ignored, config, choose.SFT, responses=1)
