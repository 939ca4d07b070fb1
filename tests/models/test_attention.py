"""Attention by structure: the same numbers whole and in chunks, and no [S, S] where rows are long."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fused_attention import through_xla

from rlhf_jax.models import attention as module
from rlhf_jax.models import attention_forms as forms
from rlhf_jax.models.attention import attention, cached_attention, laid, stored

SCALE = 0.25
STRUCTURES = {"all": {}, "window": {"window": 5}, "softcap": {"cap": 2.0}, "both": {"window": 7, "cap": 3.0}}


def inputs(heads=4, shared=2, length=24):
    """Queries, keys and values of three rows: packed, padded on the right, padded on the left."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(x, (3, length, n, 8)) for x, n in zip(keys, (heads, shared, shared), strict=True))
    packed = np.repeat([1, 2, 3, 0], [9, 4, 8, length - 21])
    right, left = (np.arange(length) < length - 6).astype(int), (np.arange(length) >= 5).astype(int)
    return q, k, v, jnp.asarray(np.stack([packed, right, left]), jnp.int32)


def by_hand(q, k, v, segments, window=0, cap=0.0):
    """Every query on its own."""
    q, k, v, segments = (np.asarray(x) for x in (q, k, v, segments))
    out = np.zeros_like(q)
    for b, t, h in np.ndindex(*q.shape[:3]):
        own = h // (q.shape[2] // k.shape[2])
        seen = [c for c in range(t + 1) if segments[b, c] == segments[b, t] > 0 and not (window and t - c >= window)]
        if seen:
            z = k[b, seen, own] @ q[b, t, h] * SCALE
            z = cap * np.tanh(z / cap) if cap else z
            p = np.exp(z - z.max())
            out[b, t, h] = (p / p.sum()) @ v[b, seen, own]
    return out


@pytest.mark.parametrize("how", STRUCTURES)
def test_a_row_in_parts_is_the_row(how, monkeypatch):
    """Three parts of eight queries, the last of which a window of five does not take back to the first key."""
    monkeypatch.setattr(forms, "LEAST", 8)
    q, k, v, segments = inputs()
    assert len(forms._parts(q.shape[1], q.shape[1] // 8)) == 3
    got, real = attention(q, k, v, segments, scale=SCALE, **STRUCTURES[how]), np.asarray(segments > 0)
    np.testing.assert_allclose(got[real], by_hand(q, k, v, segments, **STRUCTURES[how])[real], atol=1e-5)


@pytest.mark.parametrize("how", STRUCTURES)
@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (4, 1)], ids=["grouped", "multi-head", "multi-query"])
@pytest.mark.parametrize("chunk", [None, 5, 8], ids=["whole", "chunks with a rest", "chunks"])
def test_a_query_sees_its_segment_up_to_itself_and_its_window(how, heads, chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setattr(module, "WHOLE", 8)
        monkeypatch.setattr(forms, "CHUNK", chunk)
    q, k, v, segments = inputs(*heads)
    got = attention(q, k, v, segments, scale=SCALE, **STRUCTURES[how])
    real = np.asarray(segments > 0)
    np.testing.assert_allclose(got[real], by_hand(q, k, v, segments, **STRUCTURES[how])[real], atol=1e-5)
    assert np.isfinite(got).all()


@pytest.mark.parametrize("how", STRUCTURES)
def test_the_gradient_in_chunks_is_that_of_the_whole(how, monkeypatch):
    q, k, v, segments = inputs()
    real = (segments > 0)[..., None, None]

    def loss(q, k, v):
        return jnp.sum(jnp.where(real, attention(q, k, v, segments, scale=SCALE, **STRUCTURES[how]), 0.0) ** 3)

    want = jax.grad(loss, (0, 1, 2))(q, k, v)
    monkeypatch.setattr(module, "WHOLE", 8)
    monkeypatch.setattr(forms, "CHUNK", 5)
    got = jax.grad(loss, (0, 1, 2))(q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want)


@pytest.mark.parametrize("window", [0, 100])
def test_no_product_of_a_long_row_with_itself_exists(window, monkeypatch):
    """Forward and backward of 4,096 tokens; the same look at a row that is done whole finds one."""
    monkeypatch.setattr(forms, "LEAST", 2048)

    def largest(length):
        shape = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
        segments = jax.ShapeDtypeStruct((1, length), jnp.int32)
        grad = jax.grad(lambda q, k, v, s: jnp.sum(attention(q, k, v, s, scale=SCALE, window=window) ** 2), (0, 1, 2))
        text = jax.jit(grad).lower(shape, shape, shape, segments).compile().as_text()
        shapes = re.findall(r"(?:f32|pred|s32)\[([\d,]+)\]", text)
        return max(np.prod([int(n) for n in dims.split(",")]) for dims in shapes)

    assert largest(2048) >= 2048**2
    assert largest(4096) < 4096**2 // 2


@pytest.mark.parametrize(
    ("kind", "how"), [*(("xla", how) for how in STRUCTURES), ("cudnn", "all"), ("cudnn", "window")]
)
def test_one_token_over_a_cache_is_the_last_of_its_row(kind, how, monkeypatch):
    asked = through_xla(monkeypatch)
    q, k, v, _ = inputs()
    lengths = jnp.asarray([24, 11, 1])
    held = (laid(x, kind) for x in (k, v))
    got = cached_attention(q[jnp.arange(3), lengths - 1], *held, lengths, scale=SCALE, kind=kind, **STRUCTURES[how])
    want = by_hand(q, k, v, np.ones((3, 24), int), **STRUCTURES[how])
    np.testing.assert_allclose(got, want[np.arange(3), np.asarray(lengths) - 1], atol=1e-5)
    assert len(asked) == (kind == "cudnn")


@pytest.mark.parametrize("kind", ["xla", "cudnn"])
def test_a_cache_holds_what_is_written_behind_its_columns_in_either_layout(kind):
    """The second row has two of three columns, the first is full: its token is dropped."""
    _, k, _, _ = inputs(length=24)
    cache, new = laid(k[:2, :3], kind), k[:2, 10]
    assert cache.shape == ((2, 3, 2, 8) if kind == "cudnn" else (2, 2, 3, 8))
    want = k[:2, :3].at[1, 2].set(new[1])
    np.testing.assert_array_equal(stored(cache, new, jnp.asarray([3, 2]), kind), laid(want, kind))


def test_the_kernel_is_never_told_of_columns_that_a_full_row_has_not(monkeypatch):
    asked = through_xla(monkeypatch)
    q, k, v, _ = inputs()
    cached_attention(q[:, -1], k, v, jnp.asarray([25, 24, 7]), scale=SCALE, kind="cudnn")
    np.testing.assert_array_equal(asked[0]["key_value_seq_lengths"], [24, 24, 7])
