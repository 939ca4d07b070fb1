"""On a GPU, without one: programs lowered for CUDA call cuDNN, and a model that decodes by it says the same."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fused_attention import pretend_gpu, through_xla

from rlhf_jax import models
from rlhf_jax.rollout import Engine, SamplingConfig

SIZES = {"vocab_size": 32, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "d_ff": 16}
CONFIG = models.ModelConfig(**SIZES, compute_dtype="bfloat16", sliding_window=5, local_layers=(True, False))


def called(function, *arguments):
    """The calls of cuDNN in a program lowered for CUDA, in order."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return re.findall(r"custom_call @__cudnn\$(\w+)", lowered.as_text())


def shapes(config):
    model = models.build(config)
    return model, jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize("length", [512, 4096])
def test_training_calls_the_kernel_forward_and_backward(monkeypatch, length):
    pretend_gpu(monkeypatch)
    model, params = shapes(CONFIG)
    tokens = jax.ShapeDtypeStruct((2, length), jnp.int32)

    def gradient(params, tokens, segments):
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        return jax.grad(lambda p: jnp.sum(model.apply(p, tokens, positions, segments).astype(jnp.float32)))(params)

    found = set(called(gradient, params, tokens, tokens))
    assert found == {"fmhaScaleBiasSoftmax", "fmhaScaleBiasSoftmaxBackward"}


def test_a_token_calls_it_once_a_layer_with_lengths_and_a_mask_where_there_is_a_window(monkeypatch):
    pretend_gpu(monkeypatch)
    model, params = shapes(CONFIG)
    laid, cache = jax.eval_shape(model.lay_out, params), jax.eval_shape(lambda: model.cache(3, 24))
    assert {x.shape for x in (*cache.k, *cache.v)} == {(3, 24, 2, 8)}
    assert called(model.decode, laid, jnp.zeros(3, jnp.int32), cache) == ["fmhaScaleBiasSoftmax", "fmhaSoftmax"]


def test_matrices_of_one_input_are_one_product_in_decoding(monkeypatch):
    """Four products a layer and the logits: apart, XLA would join queries, keys and values, and gate and up, itself."""
    pretend_gpu(monkeypatch)
    model, params = shapes(CONFIG)
    laid, cache = jax.eval_shape(model.lay_out, params), jax.eval_shape(lambda: model.cache(3, 24))
    assert laid["blocks"][0]["attention"]["qkv"]["kernel"].shape == (16, (4 + 2 + 2) * 8)
    lowered = jax.jit(model.decode).trace(laid, jnp.zeros(3, jnp.int32), cache).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("dot_general") == 4 * CONFIG.n_layers + 1
    in_int8 = jax.eval_shape(model.in_int8(cache=False).lay_out, params)
    assert "query" in in_int8["blocks"][0]["attention"]  # each with the scales of its own


@pytest.mark.parametrize("changed", [{"qkv_bias": True}, {"gated_mlp": False, "qk_norm": "all"}])
def test_joined_matrices_say_the_same(monkeypatch, changed):
    config = models.ModelConfig(**SIZES, **changed)
    model = models.build(config)
    drawn = model.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), drawn)
    prompts, lengths = jnp.array([[1, 2, 3], [4, 5, 0]]), jnp.array([3, 2])

    def said():
        laid = model.lay_out(params)
        logits, cache = model.prefill(laid, prompts, lengths)
        room = jax.tree.map(lambda x: jnp.pad(x, ((0, 0),) * 2 + ((0, 2),) + ((0, 0),)) if x.ndim == 4 else x, cache)
        return laid, logits, model.decode(laid, jnp.array([6, 7]), room)[0]

    apart, *want = said()
    monkeypatch.setattr("rlhf_jax.models.decoding.platform", lambda: "gpu")
    monkeypatch.setattr("rlhf_jax.models.decoding.one_device", lambda: True)
    joined, *got = said()
    assert set(apart["blocks"][0]["attention"]) - set(joined["blocks"][0]["attention"]) == {"query", "key", "value"}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), got, want)


def test_a_cache_of_columns_before_heads_gives_the_same_samples(monkeypatch):
    """Slots, refills and gathered rows included; float32, with jax's own form in place of the kernel."""
    config = models.ModelConfig(**SIZES, sliding_window=5, local_layers=(True, False))
    prompts = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10], [3, 3, 4, 5]]

    def sampled():
        model = models.build(config)
        params = jax.tree.map(lambda x: x * 5.0, model.init(jax.random.key(0)))
        engine = Engine(model, SamplingConfig(max_new_tokens=12, window=4, slots=2), pad_id=0, eos_id=1)
        return engine(params, prompts, key=jax.random.key(1), samples=2)

    plain = sampled()
    asked = through_xla(monkeypatch)
    for module in ("decoding", "transformer"):
        monkeypatch.setattr(f"rlhf_jax.models.{module}.decoding_kind", lambda _: "cudnn")
    fused = sampled()
    assert {tuple(options["key_value_seq_lengths"].shape) for options in asked} >= {(2,), (1,)}
    np.testing.assert_array_equal(fused.tokens, plain.tokens)
    np.testing.assert_allclose(fused.logprobs, plain.logprobs, atol=1e-5)
