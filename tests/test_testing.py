"""check_objective passes what is sound, and names what is not: one planted fault for each property."""

import functools

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax import losses, models, objectives, testing
from rlhf_jax.testing import ObjectiveError, check_objective
from rlhf_jax.types import Loss

ALL = [
    "returns a Loss",
    "scalar float32",
    "finite gradients",
    "has a gradient",
    "mask",
    "padding length",
    "padding side",
    "pad == eos",
    "packing",
    "micro-batching",
    "mesh",
    "jit = eager",
]


@pytest.fixture
def quick_models(monkeypatch):
    """Models that compile in no time: a token's state is the sum of the embeddings of its segment up to it.

    What is looked for here is faults in objectives, which any model that obeys segments and order brings to light.
    """

    def state(params, tokens, positions, segment_ids):
        seen = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] > 0)
        seen &= jnp.tril(jnp.ones((1, tokens.shape[1], tokens.shape[1]), bool))
        turned = params["embedding"][tokens] * jnp.cos(0.3 * positions)[..., None]
        return jnp.tanh(seen.astype(jnp.float32) @ turned)

    def quick(role):
        sizes = {"vocab_size": testing.VOCAB, "d_model": 8, "n_layers": 1, "n_heads": 1, "n_kv_heads": 1, "head_dim": 2}
        return models.build(models.ModelConfig(**sizes, d_ff=1, scalar_head=role != "policy"))._replace(apply=state)

    roles = {role: quick(role) for role in ("policy", "critic", "reward")}
    key = jax.random.key(0)
    params = {}
    for i, role in enumerate(roles):
        embedding_key, head_key = jax.random.split(jax.random.fold_in(key, i))
        shapes = jax.eval_shape(roles[role].init, key)
        params[role] = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
        params[role]["embedding"] = jax.random.normal(embedding_key, (testing.VOCAB, 8))
        if role != "policy":
            params[role]["head"]["kernel"] = jax.random.normal(head_key, (8, 1))
    monkeypatch.setattr(testing, "tiny_models", lambda seed=0: (roles, params))


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
    ("objective", "broken"),
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
        (divides_by_the_width, "padding length"),
        (mask_by_column, "padding side"),
        (mask_from_the_pad_id, "pad == eos"),
        (drops_eos_by_its_id, "pad == eos"),
        (looks_at_the_packing, "packing"),
        (means_of_means, "micro-batching"),
        (whitens_in_the_batch, "micro-batching"),
        (knows_whether_it_is_traced, "jit = eager"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_planted_fault_is_named(quick_models, objective, broken):
    with pytest.raises(ObjectiveError) as caught:
        check_objective(objective)
    assert caught.value.property == broken
    assert str(caught.value).startswith(f"{broken}: ")


def test_a_users_own_batch_is_used(quick_models):
    batch = testing.tiny_batch(groups=4, responses=3, length=10, seed=5)
    seen = set()

    def objective(outputs, b):
        seen.add(b.tokens.shape)
        return half_precision(outputs, b)

    with pytest.raises(ObjectiveError):
        check_objective(objective, batch=batch)
    assert seen == {(4, 3, 10)}
