"""Alignment: every per-token output belongs to the token at its own index, wherever the sequence lies in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, objectives, testing
from rlhf_jax.data.packing import Example, pack, pad
from rlhf_jax.stages import forward, make_loss_fn

RNG = np.random.default_rng(3)
K, S = 2, 11
LENGTHS = ((11, 4), (6, 9), (2, 7))
TOKENS = [[RNG.integers(3, testing.VOCAB, size=n).astype(np.int32) for n in group] for group in LENGTHS]
EXAMPLES = [Example(tuple(group), (1, 1)) for group in TOKENS]


@pytest.fixture(scope="module")
def setting():
    return testing.tiny_models()


@pytest.fixture(scope="module")
def naive(setting):
    """One sequence at a time, no padding, and a plain loop over its tokens."""
    roles, params = setting

    @functools.partial(jax.jit, static_argnums=0)
    def hidden(role, tokens):
        ones = jnp.ones((1, len(tokens)), jnp.int32)
        h = roles[role].apply(params[role], tokens[None], jnp.arange(len(tokens))[None], ones)[0]
        return h, roles[role].logits(params[role], h)

    found = {}
    for b, group in enumerate(TOKENS):
        for k, tokens in enumerate(group):
            logits = np.asarray(hidden("policy", tokens)[1], np.float64)
            logprobs, entropy = [0.0], [0.0]  # the first token has nothing before it
            for t in range(1, len(tokens)):
                z = logits[t - 1] - logits[t - 1].max()
                p = np.exp(z) / np.exp(z).sum()
                logprobs.append(np.log(p[tokens[t]]))
                entropy.append(-(p * np.log(p)).sum())
            state = {role: np.asarray(hidden(role, tokens)[0]) for role in ("critic", "reward")}
            head = {role: params[role]["head"] for role in state}
            value = {r: state[r] @ np.asarray(head[r]["kernel"])[:, 0] for r in state}
            found[b, k] = {
                "logprobs": np.array(logprobs),
                "entropy": np.array(entropy),
                "values": np.concatenate([[0.0], value["critic"][:-1]]),  # V of the state before the token
                "scores": value["reward"][-1],
            }
    return found


def layouts():
    size = {"length": S, "pad_id": 0}
    packed = pack(EXAMPLES, rows=3, row_length=16, groups=4, responses=K, **size)
    return {
        "right": pad(EXAMPLES, **size),
        "left": pad(EXAMPLES, side="left", **size),
        "packed": packed,
    }


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_every_output_belongs_to_the_token_at_its_index(setting, naive, layout):
    roles, params = setting
    batch = layouts()[layout]
    out = jax.jit(lambda p, b: forward(roles, p, b))(params, batch)
    real = np.asarray(batch.segment_ids) > 0
    for (b, k), want in naive.items():
        here = real[b, k]
        for name in ("logprobs", "entropy", "values"):
            got = np.asarray(getattr(out, name))
            np.testing.assert_allclose(got[b, k][here], want[name], atol=3e-5, err_msg=f"{name} {layout}")
            assert (got[b, k][~here] == 0).all()
        np.testing.assert_allclose(np.asarray(out.scores)[b, k], want["scores"], atol=3e-5)
    if layout == "packed":
        assert (np.asarray(out.logprobs)[3] == 0).all()  # a group that nothing fills


@pytest.mark.parametrize("layout", ["right", "left", "packed"])
def test_log_probabilities_and_entropy_are_made_for_the_targets_alone(setting, layout):
    """Whatever the mask leaves out is 0, wherever the token lies, and what it leaves in is as before."""
    roles, params = setting
    batch = jax.tree.map(jnp.asarray, layouts()[layout])
    holes = batch.mask & jnp.asarray(RNG.random(batch.mask.shape) < 0.5)
    assert 0 < int(holes.sum()) < int(batch.mask.sum())
    every = forward({"policy": roles["policy"]}, params, batch)
    some = forward({"policy": roles["policy"]}, params, batch._replace(mask=holes))
    for name in ("logprobs", "entropy"):
        want = np.where(holes, getattr(every, name), 0.0)
        np.testing.assert_allclose(getattr(some, name), want, atol=1e-6)
        assert (want[np.asarray(holes)] != 0).all()


def test_a_mask_over_padding_or_a_first_token_wants_nothing(setting):
    """Padding lies at place 0 of a packed batch, which is the first token of another response."""
    roles, params = setting
    for layout in layouts().values():
        batch = jax.tree.map(jnp.asarray, layout)
        careless = forward({"policy": roles["policy"]}, params, batch._replace(mask=jnp.ones_like(batch.mask)))
        plain = forward({"policy": roles["policy"]}, params, batch)
        np.testing.assert_allclose(careless.logprobs, plain.logprobs, atol=1e-6)


def test_only_the_outputs_of_the_given_roles_are_made(setting):
    roles, params = setting
    batch = layouts()["right"]
    out = jax.eval_shape(lambda p: forward({"critic": roles["critic"]}, p, batch), params)
    assert out.values.shape == (3, K, S)
    assert (out.logprobs, out.entropy, out.scores) == (None, None, None)


def test_an_unknown_role_is_an_error_that_lists_the_roles(setting):
    roles, params = setting
    with pytest.raises(ValueError, match=r"unknown role 'judge': roles are policy, critic, reward"):
        forward({"judge": roles["policy"]}, params, layouts()["right"])


def test_lift_gives_a_numerator_a_weight_and_metrics_as_sums(setting, naive):
    roles, params = setting
    batch = layouts()["right"]
    numerator, aux = make_loss_fn(objectives.sft, {"policy": roles["policy"]})(params, batch, jax.random.key(0))
    total = -sum(want["logprobs"].sum() for want in naive.values())
    count = sum(n - 1 for group in LENGTHS for n in group)
    assert float(aux.weight) == count
    np.testing.assert_allclose(float(numerator), total, rtol=1e-5)
    for value, weight in aux.metrics.values():
        assert value.shape == weight.shape == ()
        assert 0 < float(weight) <= count


def test_a_reduction_by_a_constant_keeps_its_denominator(setting):
    roles, params = setting
    batch = layouts()["right"]

    def objective(outputs, batch):
        return objectives.sft(outputs, batch)._replace(reduction=losses.constant(8))

    by_count, aux = make_loss_fn(objectives.sft, roles)(params, batch, jax.random.key(0))
    by_constant, constant_aux = make_loss_fn(objective, roles)(params, batch, jax.random.key(0))
    np.testing.assert_allclose(float(by_constant), float(by_count) / 8, rtol=1e-6)
    assert float(constant_aux.weight) == 0 < float(aux.weight)
