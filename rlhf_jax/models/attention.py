"""Attention: which tokens see which is given as structure (segments, a window, lengths), never as a dense mask.

``attention`` computes whole rows, for training and prompts, and ``cached_attention`` one new token a row over keys and
values that were kept. Both are chosen when a program is traced, by device, type and shapes; how a cache lies is known
here alone.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rlhf_jax.models.ambient import on_shares, platform, shares_known
from rlhf_jax.models.attention_forms import held_columns, in_chunks, in_parts, plain, softcap, visible
from rlhf_jax.models.config import AttentionKind, ModelConfig
from rlhf_jax.types import Array

Decoding = Literal["xla", "cudnn"]

# Above this many tokens a row, scores of all pairs are never held at once.
WHOLE = 2048


def chosen(
    asked: AttentionKind = "auto",
    *,
    platform: str,
    dtype: Any,
    length: int,
    head_dim: int,
    cap: float = 0.0,
    shares_known: bool = True,
) -> Literal["xla", "chunked", "cudnn", "splash"]:
    """Choose how attention over whole rows is computed.

    ``xla`` is the plain form. ``chunked`` computes it for ``CHUNK`` queries at a time, and again in the backward pass,
    so that scores of all pairs never exist. ``cudnn`` is NVIDIA's fused kernel, in chunks too where rows are long, and
    ``splash`` jax's kernel for TPUs.

    Args:
        asked: ``ModelConfig.attention``; ``auto`` leaves the choice to this function.
        platform: what it runs on: cpu, gpu or tpu.
        dtype: type of queries, keys and values.
        length: tokens of a row.
        head_dim: width of a head.
        cap: ``softcap``'s; 0: none.
        shares_known: ``ambient.shares_known()``; a kernel is divided among devices by us, not by the compiler.

    Returns:
        What is used.

    Raises:
        ValueError: what was asked for cannot serve; the message says why.

    Example:
        >>> chosen(platform="gpu", dtype="bfloat16", length=1024, head_dim=64)
        'cudnn'
        >>> chosen(platform="gpu", dtype="bfloat16", length=4096, head_dim=64, cap=50.0)
        'chunked'
        >>> chosen(platform="tpu", dtype="float32", length=1024, head_dim=64, cap=50.0)
        'splash'
        >>> chosen(platform="cpu", dtype="float32", length=256, head_dim=64)
        'xla'
    """
    kernels = {
        "cudnn": [*_lacks_cudnn(platform, dtype, head_dim, cap), (length % 2, f"needs even rows, found {length}")],
        "splash": [
            (platform != "tpu", f"needs a TPU, found {platform}"),
            (head_dim > 256, f"needs a head_dim of at most 256, found {head_dim}"),
            (asked == "auto" and length < 128, "would fill up most of a short row"),
        ],
    }
    used = _first_able(asked, kernels, shares_known)
    if used != "auto":
        return used
    return "chunked" if length > WHOLE else "xla"


def chosen_for_decoding(
    asked: AttentionKind = "auto",
    *,
    platform: str,
    dtype: Any,
    head_dim: int,
    cap: float = 0.0,
    shares_known: bool = True,
) -> Decoding:
    """Choose how one token a row attends over a cache: cuDNN's kernel with lengths, or the plain form.

    The arguments are those of ``chosen``. Where ``chunked`` or ``splash`` is asked for, which are for whole rows, it is
    the plain form.

    Raises:
        ValueError: ``cudnn`` was asked for and cannot serve; the message says why.

    Example:
        >>> chosen_for_decoding(platform="gpu", dtype="bfloat16", head_dim=64)
        'cudnn'
        >>> chosen_for_decoding(platform="tpu", dtype="bfloat16", head_dim=64)
        'xla'
    """
    asked = asked if asked in ("auto", "cudnn") else "xla"
    used = _first_able(asked, {"cudnn": _lacks_cudnn(platform, dtype, head_dim, cap)}, shares_known)
    return "cudnn" if used == "cudnn" else "xla"


def check_kernel(config: ModelConfig, platform: str) -> None:
    """Raise the ValueError of ``chosen`` if a model's config forces a kernel that this kind of device has not.

    What only a row's length decides is left to ``chosen`` itself.

    Example:
        >>> check_kernel(ModelConfig(attention="splash"), "tpu")
        >>> check_kernel(ModelConfig(attention="splash"), "cpu")
        Traceback (most recent call last):
        ...
        ValueError: attention='splash' needs a TPU, found cpu: use 'auto'
    """
    chosen(
        config.attention,
        platform=platform,
        dtype=config.compute_dtype,
        length=WHOLE,
        head_dim=config.head_dim,
        cap=config.attention_softcap,
    )


def _lacks_cudnn(platform: str, dtype: Any, head_dim: int, cap: float) -> list[tuple[Any, str]]:
    return [
        (platform != "gpu", f"needs a GPU, found {platform}"),
        (jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16), f"needs 16-bit types, found {jnp.dtype(dtype)}"),
        (head_dim % 8 or head_dim > 128, f"needs a head_dim of 8, 16, ... 128, found {head_dim}"),
        (cap, f"has no softcap, found {cap}"),
    ]


def _first_able(asked: AttentionKind, kernels: dict[Any, list[tuple[Any, str]]], shares_known: bool) -> AttentionKind:
    """Keep what was asked for if it can serve; for ``auto`` find a kernel that can, or leave it at that."""
    for name, lacks in kernels.items():
        unknown = (not shares_known, "needs to know its devices: trace it under a mesh (parallel.traced_on)")
        reasons = [reason for missing, reason in (*lacks, unknown) if missing]
        if asked == name and reasons:
            raise ValueError(f"attention={name!r} {', and '.join(reasons)}: use 'auto'")
        if asked == "auto" and not reasons:
            return name
    return asked


def attention(
    q: Array,
    k: Array,
    v: Array,
    segment_ids: Array,
    *,
    scale: float,
    window: int = 0,
    cap: float = 0.0,
    kind: AttentionKind = "auto",
) -> Array:
    """Grouped-query attention of whole rows: a token sees those of its own segment, up to itself.

    ``softmax(softcap(scale q k^T)) v``

    Args:
        q: [B, S, H, Dh].
        k: [B, S, Hkv, Dh]; H is a multiple of Hkv.
        v: [B, S, Hkv, Dh].
        segment_ids: int32 [B, S]; 0 is padding. The tokens of a segment stand side by side.
        scale: what the products are multiplied by.
        window: how many tokens a token sees, itself included; 0: all.
        cap: ``softcap``'s; 0: none.
        kind: how it is computed, see ``chosen``.

    Returns:
        [B, S, H, Dh], in the type of ``v``. A query that sees nothing (padding) gets a finite average, which no mask
        ever counts.

    Raises:
        ValueError: ``kind`` cannot serve; the message says why.
    """
    used = chosen(
        kind,
        platform=platform(),
        dtype=q.dtype,
        length=q.shape[1],
        head_dim=q.shape[-1],
        cap=cap,
        shares_known=shares_known(),
    )
    if used == "splash":
        from rlhf_jax.models.splash import splash_attention

        splash = functools.partial(splash_attention, scale=scale, window=window, cap=cap)
        return on_shares(splash, q, k, v, segment_ids)
    if used == "cudnn":
        return on_shares(functools.partial(_fused, scale=scale, window=window), q, k, v, segment_ids)
    by_operations = in_chunks if used == "chunked" else in_parts
    return by_operations(functools.partial(plain, scale=scale, cap=cap), q, k, v, segment_ids, window)


def _fused(q: Array, k: Array, v: Array, segment_ids: Array, *, scale: float, window: int) -> Array:
    def masked(q: Array, k: Array, v: Array, seen: Array, causal: bool = False) -> Array:
        return jax.nn.dot_product_attention(
            q, k, v, mask=seen[:, None], scale=scale, is_causal=causal, implementation="cudnn"
        )

    # Here padding sees padding, so that no row of the mask is empty.
    segments = segment_ids + 1
    if q.shape[1] > WHOLE:
        return in_chunks(masked, q, k, v, segments, window)
    # The mask says it already, but told so the kernel leaves out what lies above the diagonal.
    return masked(q, k, v, visible(segments, segments, window), causal=True)


def laid(new: Array, kind: Decoding) -> Array:
    """Lay keys or values [N, T, Hkv, Dh] as a cache has them for this kind.

    The plain form reads heads before columns, [N, Hkv, T, Dh], the kernel of cuDNN columns before heads.
    """
    return new if kind == "cudnn" else new.swapaxes(1, 2)


def stored(cache: Array, new: Array, lengths: Array, kind: Decoding) -> Array:
    """Write a key or value a row, ``new [N, Hkv, ...]``, behind the row's columns; a full row stays as it is."""

    def written(row: Array, new: Array, length: Array) -> Array:
        at = row.at[length] if kind == "cudnn" else row.at[:, length]
        return at.set(new, mode="drop", unique_indices=True)

    # Row by row, so that devices that share the rows exchange nothing: numbers of rows as indices could mean any row.
    return jax.vmap(written)(cache, new.astype(cache.dtype), lengths)


def cached_attention(
    q: Array, k: Array, v: Array, lengths: Array, *, scale: float, window: int = 0, cap: float = 0.0, kind: Decoding
) -> Array:
    """Grouped-query attention of one token a row over the first columns of a cache.

    Args:
        q: [N, H, Dh], of the newest token of each row.
        k: a cache of C columns as ``laid`` lays it.
        v: the same of values.
        lengths: int32 [N], how many columns of a row hold a token, the newest included.
        scale: what the products are multiplied by.
        window: how many tokens a token sees, itself included; 0: all.
        cap: ``softcap``'s; 0: none.
        kind: see ``chosen_for_decoding``.

    Returns:
        [N, H, Dh], in the type of ``v``.
    """
    seen = held_columns(k.shape[1] if kind == "cudnn" else k.shape[2], lengths, window)
    if kind == "cudnn":
        fused = functools.partial(_fused_step, scale=scale)
        return on_shares(fused, q[:, None], k, v, lengths, *([seen] if window else []))[:, 0]
    grouped = q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])
    logits = jnp.einsum("bngd,bncd->bngc", grouped, k, preferred_element_type=jnp.float32) * scale
    logits = jnp.where(seen[:, None, None], softcap(logits, cap), jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("bngc,bncd->bngd", weights, v).reshape(q.shape)


def _fused_step(q: Array, k: Array, v: Array, lengths: Array, near: Array | None = None, *, scale: float) -> Array:
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        # A window of the kernel's own goes with a causal mask only, which would count columns from the first.
        mask=None if near is None else near[:, None, None],
        scale=scale,
        query_seq_lengths=jnp.ones_like(lengths),
        key_value_seq_lengths=jnp.minimum(lengths, k.shape[1]),  # one more in a row that is full and has ended
        implementation="cudnn",
    )
