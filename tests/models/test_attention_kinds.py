"""Kinds of attention: which is chosen, and that every one gives the plain form's numbers and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fused_attention import through_xla

from rlhf_jax.models import attention as module
from rlhf_jax.models import attention_forms as forms
from rlhf_jax.models.attention import attention, chosen, chosen_for_decoding

LENGTH = 40
ROWS = {
    "packed": [1] * 13 + [2] * 20 + [3] * 7,
    "padded on the right": [1] * 29 + [0] * 11,
    "padded on the left": [0] * 11 + [1] * 29,
}


def drawn(length=LENGTH, dtype=jnp.float32, heads=4, kept=2):
    shapes = [(2, length, heads, 8), (2, length, kept, 8), (2, length, kept, 8)]
    keys = jax.random.split(jax.random.key(0), 3)
    return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def outcome(monkeypatch, kind, q, k, v, segments, **structure):
    """What attention gives at real tokens, and its gradients; the fused kernel's arguments go to jax's own form."""
    if kind == "cudnn":
        through_xla(monkeypatch)
        monkeypatch.setattr(module, "chosen", lambda *_, **__: "cudnn")
    real = (segments > 0)[..., None, None]

    def value(q, k, v):
        out = jnp.where(real, attention(q, k, v, segments, kind=kind, **structure), 0)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).astype(jnp.float32), out

    gradients, out = jax.jit(jax.grad(value, (0, 1, 2), has_aux=True))(q, k, v)
    monkeypatch.undo()
    return [np.asarray(x, np.float32) for x in (out, *gradients)]


@pytest.mark.parametrize("kind", ["chunked", "cudnn", "cudnn in chunks"])
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("rows", ROWS)
def test_every_form_equals_the_plain_one_with_its_gradient(monkeypatch, rows, window, kind):
    q, k, v = drawn()
    segments = jnp.array([ROWS[rows], ROWS["packed"]])
    structure = {"scale": 0.3, "window": window, "cap": 2.0 if kind == "chunked" else 0.0}
    expected = outcome(monkeypatch, "xla", q, k, v, segments, **structure)
    monkeypatch.setattr(forms, "CHUNK", 16)
    if kind == "cudnn in chunks":
        monkeypatch.setattr(module, "WHOLE", 16)
    for x, y in zip(outcome(monkeypatch, kind.split()[0], q, k, v, segments, **structure), expected, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("kind", ["chunked", "cudnn"])
def test_bfloat16_is_as_near_as_its_rounding(monkeypatch, kind):
    q, k, v = drawn(dtype=jnp.bfloat16)
    segments = jnp.array([ROWS["packed"]] * 2)
    expected = outcome(monkeypatch, "xla", q, k, v, segments, scale=0.3)
    monkeypatch.setattr(forms, "CHUNK", 16)
    for x, y in zip(outcome(monkeypatch, kind, q, k, v, segments, scale=0.3), expected, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-2, rtol=2e-2)


def test_the_choice_follows_device_type_and_shape():
    tpu = {"platform": "tpu", "dtype": "float32", "length": 1024, "head_dim": 64}
    for change in ({}, {"length": 4096}, {"length": 130}, {"cap": 50.0}, {"dtype": "bfloat16"}, {"head_dim": 256}):
        assert chosen(**{**tpu, **change}) == "splash"
    for change in ({"length": 100}, {"head_dim": 264}, {"platform": "cpu"}, {"shares_known": False}):
        assert chosen(**{**tpu, **change}) == "xla"
    assert chosen(**{**tpu, "length": 4000, "head_dim": 264}) == "chunked"
    assert chosen("splash", **{**tpu, "length": 100}) == "splash"
    gpu = {"platform": "gpu", "dtype": "bfloat16", "length": 1024, "head_dim": 64}
    assert chosen(**gpu) == chosen(**{**gpu, "length": 8192}) == "cudnn"
    lacking = ({"dtype": "float32"}, {"head_dim": 132}, {"head_dim": 20}, {"cap": 50.0}, {"shares_known": False})
    for change in lacking:
        assert chosen(**{**gpu, **change}) == "xla"
        assert chosen(**{**gpu, **change, "length": 2050}) == "chunked"
    assert chosen("xla", **gpu) == "xla"
    assert chosen("chunked", **gpu) == "chunked"


def test_a_kernel_that_cannot_serve_says_why():
    cpu = {"platform": "cpu", "dtype": "float32", "head_dim": 64}
    with pytest.raises(ValueError, match=r"'cudnn' needs a GPU, found cpu, and needs 16-bit types, found float32"):
        chosen("cudnn", length=64, **cpu)
    with pytest.raises(ValueError, match=r"'cudnn' needs a GPU, found cpu"):
        chosen_for_decoding("cudnn", **cpu)
    with pytest.raises(ValueError, match=r"'splash' needs a TPU, found cpu, and needs a head_dim of at most 256"):
        chosen("splash", length=64, **{**cpu, "head_dim": 512})
    with pytest.raises(ValueError, match=r"'splash' needs to know its devices: .*parallel.traced_on"):
        chosen("splash", length=128, shares_known=False, **{**cpu, "platform": "tpu"})


def test_decoding_takes_the_kernel_or_the_plain_form():
    gpu = {"platform": "gpu", "dtype": "bfloat16", "head_dim": 64}
    assert chosen_for_decoding(**gpu) == chosen_for_decoding("cudnn", **gpu) == "cudnn"
    for asked in ("xla", "chunked", "splash"):
        assert chosen_for_decoding(asked, **gpu) == "xla"
    for change in (
        {"platform": "tpu"},
        {"dtype": "float32"},
        {"cap": 50.0},
        {"head_dim": 256},
        {"shares_known": False},
    ):
        assert chosen_for_decoding(**{**gpu, **change}) == "xla"
