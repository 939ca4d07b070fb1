"""The output side of a model: log-probabilities and entropy of its logits, and scalar heads."""

import dataclasses
import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, models
from rlhf_jax.types import Model

CONFIG = models.ModelConfig(vocab_size=24, d_model=16, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=8, d_ff=16)


@pytest.fixture(scope="module")
def setting():
    model = models.build(CONFIG)
    params = jax.tree.map(lambda x: x * 20.0, model.init(jax.random.key(0)))
    h, t = jax.random.split(jax.random.key(1))
    hidden = jax.random.normal(h, (3, 10, CONFIG.d_model))
    return model, params, hidden, jax.random.randint(t, (3, 10), 0, CONFIG.vocab_size)


def test_token_stats_are_the_losses_of_the_whole_logits(setting):
    model, params, hidden, targets = setting
    logprobs, entropy = model.token_stats(params, hidden, targets)
    logits = model.logits(params, hidden)
    np.testing.assert_allclose(logprobs, losses.token_logprobs(logits, targets), atol=1e-5)
    np.testing.assert_allclose(entropy, losses.entropy(logits), atol=1e-5)
    assert float(entropy.min()) < 2.5  # nats; log 24 is 3.2: far from uniform, so that an error shows


@pytest.mark.parametrize("temperature", [0.6, 1.3])
def test_at_a_temperature_they_are_those_of_the_tempered_distribution(setting, temperature):
    model, params, hidden, targets = setting
    logprobs, entropy = model.token_stats(params, hidden, targets, temperature=temperature)
    weights = np.exp(np.asarray(model.logits(params, hidden), np.float64) / temperature)
    probabilities = weights / weights.sum(-1, keepdims=True)
    picked = np.take_along_axis(probabilities, np.asarray(targets)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(logprobs, np.log(picked), atol=1e-5)
    np.testing.assert_allclose(entropy, -(probabilities * np.log(probabilities)).sum(-1), atol=1e-5)
    assert float(jnp.abs(entropy - model.token_stats(params, hidden, targets)[1]).max()) > 0.1


def test_temperature_1_is_the_computation_without_one(setting):
    model, params, hidden, targets = setting

    def program(**given):
        return str(jax.make_jaxpr(lambda h: model.token_stats(params, h, targets, **given))(hidden))

    assert program() == program(temperature=1.0) != program(temperature=1.1)


def test_a_fresh_scalar_head_gives_zero_and_shares_no_buffer_with_the_policy(setting):
    _, params, hidden, _ = setting
    config = dataclasses.replace(CONFIG, scalar_head=True)
    critic, start = models.build(config), models.with_scalar_head(params, config)
    np.testing.assert_array_equal(critic.values(start, hidden), np.zeros((3, 10)))
    assert start.keys() - params.keys() == {"head"}
    for path, leaf in jax.tree.leaves_with_path(params):
        twin = start
        for part in path:
            twin = twin[part.key]
        assert twin is not leaf
        assert twin.unsafe_buffer_pointer() != leaf.unsafe_buffer_pointer()
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x.shape, y.shape), start, critic.init(jax.random.key(0)))


def test_values_and_scores_are_the_linear_map_and_scores_read_the_last_token(setting):
    hidden = setting[2]
    config = dataclasses.replace(CONFIG, scalar_head=True)
    model = models.build(config)
    params = model.init(jax.random.key(0))
    params["head"] = {"kernel": jnp.linspace(-1, 1, 16)[:, None]}
    want = np.asarray(hidden) @ np.linspace(-1, 1, 16)
    np.testing.assert_allclose(model.values(params, hidden), want, atol=1e-5)
    last = jnp.array([9, 0, 4])
    np.testing.assert_allclose(model.scores(params, hidden, last), want[np.arange(3), last], atol=1e-5)


def test_a_model_without_a_scalar_head_says_so(setting):
    model, params, hidden, _ = setting
    with pytest.raises(ValueError, match="scalar_head=True"):
        model.values(params, hidden)


def test_a_model_has_the_signatures_that_its_type_promises(setting):
    """Each function by name, kind and default of its arguments: a type checker holds callers to the same."""
    facts = ("dropout", "max_length")
    promised = {name: kind for name, kind in typing.get_type_hints(Model).items() if name not in facts}
    assert len(promised) == 11

    def arguments(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    for name, kind in promised.items():
        assert issubclass(kind, typing.Protocol), f"{name} is a Callable without a signature"
        expected = arguments(kind.__call__)[1:]  # after self
        assert arguments(getattr(setting[0], name)) == expected, name
        assert all(p.kind is not p.VAR_POSITIONAL for p in inspect.signature(kind.__call__).parameters.values())


def test_params_are_a_plain_dict_that_only_the_key_decides(setting):
    model = setting[0]
    params = model.init(jax.random.key(4))
    paths = {"/".join(p.key for p in path) for path, _ in jax.tree.leaves_with_path(params)}
    assert paths == {
        "embedding",
        "final_norm/scale",
        "blocks/attention_norm/scale",
        "blocks/mlp_norm/scale",
        *(f"blocks/attention/{n}/kernel" for n in ("query", "key", "value", "out")),
        *(f"blocks/mlp/{n}/kernel" for n in ("gate", "up", "down")),
    }
    assert {type(x) for x in (params, params["blocks"], params["blocks"]["mlp"])} == {dict}
    jax.tree.map(np.testing.assert_array_equal, params, model.init(jax.random.key(4)))
    assert not np.array_equal(params["embedding"], model.init(jax.random.key(5))["embedding"])
