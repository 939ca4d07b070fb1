"""check_objective passes what is sound, and names what is not: one planted fault for each property."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, objectives, testing
from rlhf_jax.testing import ObjectiveError, check_objective
from rlhf_jax.types import Loss

ALL = [
    "takes outputs and batch",
    "fields",
    "runs",
    "returns a Loss",
    "declared reduction",
    "scalar float32",
    "metrics",
    "traceable",
    "finite gradients",
    "has a gradient",
    "mask",
    "shift",
    "padding length",
    "padding side",
    "pad == eos",
    "packing",
    "integer rewards",
    "micro-batching",
    "filler groups",
    "mesh",
    "stop gradient",
    "finite at ties",
    "sign",
    "jit = eager",
]


@pytest.mark.parametrize(
    "objective",
    [
        functools.partial(objectives.reward_model, center=0.01, margin=0.1),
        functools.partial(objectives.ppo, entropy_coef=0.01, dual_clip=3.0),
    ],
    ids=["reward_model", "ppo"],  # sft on the real models: the doctest of check_objective
)
def test_our_objectives_have_every_property(objective):
    assert check_objective(objective) == ALL


@pytest.mark.parametrize("reduction", [losses.sequence_mean, losses.constant(5)], ids=["sequence_mean", "constant"])
def test_other_reductions_are_sound(quick_models, reduction):
    assert check_objective(functools.partial(with_reduction, reduction=reduction)) == ALL


def with_reduction(outputs, batch, *, reduction):
    return Loss(-outputs.logprobs, batch.mask, reduction)


def no_loss(outputs, batch):
    return -jnp.mean(outputs.logprobs)


def half_precision(outputs, batch):
    return Loss(-outputs.logprobs.astype(jnp.bfloat16), batch.mask, losses.token_mean)


def values_and_mask_of_two_shapes(outputs, batch):
    return Loss(-jnp.sum(outputs.logprobs, axis=-1), batch.mask, losses.token_mean)


def not_reduced(outputs, batch):
    return Loss(-outputs.logprobs, batch.mask, lambda v, m: (jnp.sum(v * m, axis=0), jnp.sum(m, dtype=jnp.float32)))


def log_of_zero(outputs, batch):
    return Loss(jnp.log(outputs.logprobs * 0.0), batch.mask, losses.token_mean)


def root_of_zero(outputs, batch):
    """A finite value with an infinite gradient: sqrt at 0."""
    zero = outputs.logprobs - jax.lax.stop_gradient(outputs.logprobs)
    return Loss(jnp.sqrt(zero) - outputs.logprobs, batch.mask, losses.token_mean)


def constant(outputs, batch):
    return Loss(jax.lax.stop_gradient(-outputs.logprobs), batch.mask, losses.token_mean)


def forgets_the_mask(outputs, batch):
    return Loss(-outputs.logprobs, batch.segment_ids > 0, losses.token_mean)


def sums_before_masking(outputs, batch):
    """The mask is there, but the sum over tokens was taken without it."""
    summed = jnp.sum(outputs.logprobs, axis=-1)
    return Loss(-summed, jnp.any(batch.mask, axis=-1), losses.token_mean)


def everything_counts(outputs, batch):
    return Loss(-outputs.logprobs, jnp.ones_like(batch.mask), losses.token_mean)


def reads_two_tokens_too_many(outputs, batch):
    mask = batch.mask | jnp.roll(batch.mask, 1, axis=-1) | jnp.roll(batch.mask, 2, axis=-1)
    return Loss(-outputs.logprobs * batch.advantages, mask, losses.token_mean)


def gain(outputs, batch, ref_logprobs):
    """How much more of its log-probability over the reference the first response of a pair has than the second."""
    s = losses.masked_sum(outputs.logprobs - ref_logprobs, batch.mask, axis=-1)
    return Loss(losses.bradley_terry(s[:, 0], s[:, 1]), batch.mask.any((1, 2)), losses.token_mean)


def moves_the_reference(outputs, batch):
    return gain(outputs, batch, batch.ref_logprobs)


def moves_the_advantages(outputs, batch):
    ratio = jnp.exp(jnp.clip(outputs.logprobs - jax.lax.stop_gradient(batch.old_logprobs), -5, 5))
    return Loss(-ratio * batch.advantages, batch.mask, losses.token_mean)


def moves_the_kl(outputs, batch):
    loss = gain(outputs, batch, jax.lax.stop_gradient(batch.ref_logprobs))
    return loss._replace(values=loss.values * (1 + batch.kl[:, 0]))


def mask_is_all_but_the_pad_id(outputs, batch):
    return Loss(-outputs.logprobs, batch.tokens != testing.PAD, losses.token_mean)


def mask_without_the_pad_id(outputs, batch):
    """Harmless until the end of sequence has the padding's id, and is dropped with it."""
    return Loss(-outputs.logprobs, batch.mask & (batch.tokens != testing.PAD), losses.token_mean)


def forgets_the_mask_of_a_ratio(outputs, batch):
    """Log-probabilities of the prompt cancel against their reference only if both come from the same model."""
    ref_logprobs = jax.lax.stop_gradient(batch.ref_logprobs)
    return gain(outputs, batch._replace(mask=jnp.ones_like(batch.mask)), ref_logprobs)


def mask_of_a_ratio_from_the_pad_id(outputs, batch):
    ref_logprobs = jax.lax.stop_gradient(batch.ref_logprobs)
    return gain(outputs, batch._replace(mask=batch.tokens != testing.PAD), ref_logprobs)


def counts_all_ends(outputs, batch):
    """Sees to it that the end of sequence counts, and with it all padding of that id."""
    ref_logprobs = jax.lax.stop_gradient(batch.ref_logprobs)
    return gain(outputs, batch._replace(mask=batch.mask | (batch.tokens == testing.EOS)), ref_logprobs)


def asks_whether_a_response_ended(outputs, batch):
    """Reads the id of a token that counts, on purpose."""
    ended = jnp.any(batch.mask & (batch.tokens == testing.EOS), axis=-1, keepdims=True)
    return Loss(-outputs.logprobs * jnp.where(ended, 1.0, 2.0), batch.mask, losses.token_mean)


def mask_is_all_but_eos(outputs, batch):
    """Where padding and end of sequence share an id, this is the same mistake."""
    return Loss(-outputs.logprobs, batch.mask & (batch.tokens != testing.EOS), losses.token_mean)


def divides_by_the_width(outputs, batch):
    share = jnp.float32(1 / batch.tokens.shape[-1])
    return Loss(-outputs.logprobs * share, batch.mask, losses.token_mean)


def mask_by_column(outputs, batch):
    """The response is taken to begin at a fixed column."""
    column = jnp.arange(batch.tokens.shape[-1])[None, None]
    return Loss(-outputs.logprobs * jnp.where(column > 5, 2.0, 1.0), batch.mask, losses.token_mean)


def mask_from_the_pad_id(outputs, batch):
    """Counts tokens that are not padding by their id; breaks when padding has another id."""
    length = jnp.sum(batch.tokens != testing.PAD, axis=-1, keepdims=True)
    return Loss(-outputs.logprobs / length.astype(jnp.float32), batch.mask, losses.token_mean)


def drops_eos_by_its_id(outputs, batch):
    """The other half of that mistake: what equals pad is dropped, so that EOS is never learnt when pad is EOS."""
    ends = jnp.sum(batch.tokens == testing.EOS, axis=-1, keepdims=True).astype(jnp.float32)
    return Loss(-outputs.logprobs * ends, batch.mask, losses.token_mean)


def means_of_means(outputs, batch):
    """A mean over the micro-batch, given as if it were a sum: micro-batches of unlike size then weigh the same."""

    def mean(values, mask):
        return losses.masked_mean(values, mask), jnp.float32(1)

    return Loss(-outputs.logprobs, batch.mask, mean)


def whitens_in_the_batch(outputs, batch):
    advantages = losses.masked_whiten(batch.advantages, batch.mask)
    return Loss(-outputs.logprobs * advantages, batch.mask, losses.token_mean)


def looks_at_the_packing(outputs, batch):
    packed = 1.0 if batch.packing is None else 1.1
    return Loss(-packed * outputs.logprobs, batch.mask, losses.token_mean)


def knows_whether_it_is_traced(outputs, batch):
    scale = 1.0 if isinstance(outputs.logprobs, jax.core.Tracer) and _under_jit(outputs.logprobs) else 1.1
    return Loss(-scale * outputs.logprobs, batch.mask, losses.token_mean)


def _under_jit(x):
    """Whether a value is unknown: under jit it is, under eager differentiation it is there."""
    try:
        jax.lax.stop_gradient(x).sum().item()
    except jax.errors.ConcretizationTypeError:
        return True
    return False


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (no_loss, "returns a Loss"),
        (half_precision, "scalar float32"),
        (values_and_mask_of_two_shapes, "scalar float32"),
        (not_reduced, "scalar float32"),
        (log_of_zero, "finite gradients"),
        (root_of_zero, "finite gradients"),
        (constant, "has a gradient"),
        (forgets_the_mask, "mask"),
        (sums_before_masking, "mask"),
        (everything_counts, "mask"),
        (reads_two_tokens_too_many, "mask"),
        (mask_is_all_but_the_pad_id, "pad == eos"),
        (mask_is_all_but_eos, "pad == eos"),
        (mask_without_the_pad_id, "pad == eos"),
        (forgets_the_mask_of_a_ratio, "mask"),
        (mask_of_a_ratio_from_the_pad_id, "pad == eos"),
        (counts_all_ends, "pad == eos"),
        (divides_by_the_width, "padding length"),
        (mask_by_column, "padding side"),
        (mask_from_the_pad_id, "pad == eos"),
        (drops_eos_by_its_id, "pad == eos"),
        (looks_at_the_packing, "packing"),
        (means_of_means, "micro-batching"),
        (whitens_in_the_batch, "micro-batching"),
        (moves_the_reference, "stop gradient"),
        (moves_the_advantages, "stop gradient"),
        (moves_the_kl, "stop gradient"),
        (knows_whether_it_is_traced, "jit = eager"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_planted_fault_is_named(quick_models, objective, name):
    broken(objective, name)


def fixed(x, mask):
    return jax.lax.stop_gradient(losses.masked_fill(x, mask))


def policy_gradient(outputs, batch, *, by=0, what=(), first_masked):
    """PPO's terms with one thing, or several, moved by a token, before or after what is behind the mask is hidden."""

    def read(name, x, prepare=lambda x: x):
        hide = losses.masked_fill if first_masked else lambda x, mask: x
        return losses.masked_fill(jnp.roll(prepare(hide(x, batch.mask)), by if name in what else 0, -1), batch.mask)

    logprobs, values = read("logprobs", outputs.logprobs), read("values", outputs.values)
    old, ref, old_values, advantages, returns = (
        read(name, getattr(batch, name), jax.lax.stop_gradient)
        for name in ("old_logprobs", "ref_logprobs", "old_values", "advantages", "returns")
    )
    policy = losses.clipped_surrogate(logprobs, old, advantages) + 0.1 * losses.k3(logprobs, ref)
    mask = jnp.roll(batch.mask, by if "mask" in what else 0, -1)
    return Loss(policy + losses.clipped_value(values, old_values, returns), mask, losses.token_mean)


MOVED = ["logprobs", "values", "old_logprobs", "ref_logprobs", "advantages", "returns", "mask"]


@pytest.mark.parametrize("first_masked", [False, True], ids=["as it is", "hidden first"])
@pytest.mark.parametrize("by", [-1, 1], ids=["to the left", "to the right"])
@pytest.mark.parametrize("what", MOVED)
def test_a_shift_by_one_is_told_from_a_forgotten_mask(quick_models, what, by, first_masked):
    broken(functools.partial(policy_gradient, by=by, what=(what,), first_masked=first_masked), "shift")


@pytest.mark.parametrize("by", [-1, 1])
def test_a_shift_of_all_log_probabilities_together_is_found(quick_models, by):
    moved = ("logprobs", "old_logprobs", "ref_logprobs")
    broken(functools.partial(policy_gradient, by=by, what=moved, first_masked=True), "shift")


@pytest.mark.parametrize("first_masked", [False, True])
def test_nothing_moved_is_no_shift(quick_models, first_masked):
    assert check_objective(functools.partial(policy_gradient, first_masked=first_masked)) == ALL


def cuts_columns_of_log_probabilities(outputs, batch):
    """Shifts the mask as if log-probabilities were those of the token after: the usual mistake."""
    return Loss(-outputs.logprobs[..., :-1], batch.mask[..., 1:], losses.token_mean)


def cuts_columns_of_the_mask(outputs, batch):
    return Loss(-outputs.logprobs[..., 1:], batch.mask[..., :-1], losses.token_mean)


def cuts_hidden_columns(outputs, batch):
    hidden = losses.masked_fill(outputs.logprobs, batch.mask)
    return Loss(-hidden[..., 1:], batch.mask[..., :-1], losses.token_mean)


def sums_moved_log_probabilities(outputs, batch):
    """A whole response's loss, so that no token has a gradient of its own."""
    s = losses.masked_sum(jnp.roll(losses.masked_fill(outputs.logprobs, batch.mask), 1, axis=-1), batch.mask, axis=-1)
    return Loss(losses.bradley_terry(s[:, 0], s[:, 1]), batch.mask.any((1, 2)), losses.token_mean)


@pytest.mark.parametrize(
    "objective",
    [
        cuts_columns_of_log_probabilities,
        cuts_columns_of_the_mask,
        cuts_hidden_columns,
        sums_moved_log_probabilities,
    ],
)
def test_other_ways_to_be_off_by_one_are_found(quick_models, objective):
    broken(objective, "shift")


def rewards_to_come(outputs, batch):
    """Each token's advantage is a sum over what follows it; the last one's is its own."""
    advantages = fixed(batch.advantages, batch.mask)
    to_come = jnp.flip(jnp.cumsum(jnp.flip(advantages, -1), axis=-1), -1)
    return Loss(-outputs.logprobs * to_come, batch.mask, losses.token_mean)


def temporal_difference(outputs, batch):
    """A critic that learns from the value of the next state; advantages from the same."""
    values = losses.masked_fill(outputs.values, batch.mask)
    old_values, last = fixed(batch.old_values, batch.mask), batch.mask & ~jnp.roll(batch.mask, -1, axis=-1)
    reward = jnp.where(last, jax.lax.stop_gradient(batch.reward)[..., None], 0)
    target = reward + 0.9 * jnp.roll(old_values, -1, axis=-1)
    policy = -losses.masked_fill(outputs.logprobs, batch.mask) * jax.lax.stop_gradient(target - values)
    return Loss(policy + jnp.square(values - target), batch.mask, losses.token_mean)


def test_reading_an_id_on_purpose_is_sound(quick_models):
    assert check_objective(asks_whether_a_response_ended) == ALL


@pytest.mark.parametrize("objective", [rewards_to_come, temporal_difference])
def test_looking_ahead_on_purpose_is_no_shift(quick_models, objective):
    assert check_objective(objective) == ALL


def weighted(outputs, batch, weight):
    """Log-probabilities of whole responses, weighted by something about each."""
    s = losses.masked_sum(outputs.logprobs, batch.mask, axis=-1)
    return Loss(-s * jax.lax.stop_gradient(weight), batch.mask.any(-1), losses.token_mean)


def casts_rewards(outputs, batch):
    return weighted(outputs, batch, batch.reward.astype(jnp.int32).astype(jnp.float32))


def rounds_rewards(outputs, batch):
    return weighted(outputs, batch, jnp.round(batch.reward))


def writes_rewards_into_an_int_buffer(outputs, batch):
    """The buffer takes its type from the tokens, and the rewards take it from the buffer."""
    per_token = jnp.zeros_like(batch.tokens).at[..., -1].set(batch.reward.astype(jnp.int32))
    return weighted(outputs, batch, jnp.sum(per_token, axis=-1).astype(jnp.float32))


def writes_into_a_buffer_like_the_rewards(outputs, batch):
    """Right as long as rewards are floats; a reward function that counts gives integers."""
    kl = losses.masked_sum(batch.old_logprobs - batch.ref_logprobs, batch.mask, axis=-1)
    penalised = (batch.reward - 0.1 * kl).astype(batch.reward.dtype)
    return weighted(outputs, batch, penalised.astype(jnp.float32))


def best_of_cast_rewards(outputs, batch):
    best = jnp.argmax(batch.reward.astype(jnp.int32), axis=-1)
    return weighted(outputs, batch, jax.nn.one_hot(best, batch.reward.shape[-1]))


def rounds_ratings(outputs, batch):
    target = jax.lax.stop_gradient(jnp.round(batch.rating))
    return Loss(jnp.square(outputs.scores - target), batch.mask.any(-1), losses.token_mean)


def casts_advantages(outputs, batch):
    advantages = batch.advantages.astype(jnp.int32).astype(jnp.float32)
    return Loss(-outputs.logprobs * advantages, batch.mask, losses.token_mean)


def floors_returns(outputs, batch):
    target = jax.lax.stop_gradient(jnp.floor(batch.returns))
    return Loss(jnp.square(outputs.values - target), batch.mask, losses.token_mean)


@pytest.mark.parametrize(
    "objective",
    [
        casts_rewards,
        rounds_rewards,
        writes_rewards_into_an_int_buffer,
        writes_into_a_buffer_like_the_rewards,
        best_of_cast_rewards,
        rounds_ratings,
        casts_advantages,
        floors_returns,
    ],
)
def test_rewards_cut_to_whole_numbers_are_found(quick_models, objective):
    broken(objective, "integer rewards")


def best_only(outputs, batch):
    best = jnp.argmax(batch.reward, axis=-1)
    return weighted(outputs, batch, jax.nn.one_hot(best, batch.reward.shape[-1]))


def good_or_bad(outputs, batch, *, above):
    return weighted(outputs, batch, jnp.where(batch.rating > above, 1.0, -0.5))


def clips_rewards(outputs, batch):
    return weighted(outputs, batch, jnp.clip(batch.reward, -1, 1))


@pytest.mark.parametrize(
    "objective",
    [best_only, clips_rewards, *(functools.partial(good_or_bad, above=x) for x in (0, 1, 2.5, 3, 4))],
)
def test_order_thresholds_and_clips_are_not_taken_for_cutting(quick_models, objective):
    assert check_objective(objective) == ALL


def broken(objective, name):
    with pytest.raises(ObjectiveError) as caught:
        check_objective(objective)
    assert caught.value.property == name
    assert str(caught.value).startswith(f"{name}: ")


def test_the_tiny_batch_lets_shifts_be_told_from_a_forgotten_mask():
    batch = testing.tiny_batch()
    mask, real = np.asarray(batch.mask), np.asarray(batch.segment_ids) > 0
    assert (real & ~mask).sum(-1).min() >= 3, "tokens of the prompt that are not beside the response"
    assert (~real).sum(-1).min() >= 2, "padding that is not beside it"
    assert (mask.sum(-1) >= 3).any()
    assert len({*np.asarray(batch.label).ravel().tolist()}) == 2
    assert (batch.kl == np.float32(0.3)).all()
    assert batch.kl.shape == batch.reward.shape
    assert {name for name, x in batch._asdict().items() if x is None} == {
        "behaviour_logprobs",  # those of an older policy, and what caps their ratios: only where one samples ahead
        "importance_cap",
        "kl_coef",
        "packing",
        "weight",  # what a comparison counts for, where several raters have given it
    }
    with pytest.raises(ValueError, match="length must be at least 9, found 8"):
        testing.tiny_batch(length=8)


def test_a_users_own_batch_is_used(quick_models):
    batch = testing.tiny_batch(groups=4, responses=3, length=10, seed=5)
    seen = set()

    def objective(outputs, b):
        seen.add(b.tokens.shape)
        return half_precision(outputs, b)

    with pytest.raises(ObjectiveError):
        check_objective(objective, batch=batch)
    assert seen == {(4, 3, 10)}
