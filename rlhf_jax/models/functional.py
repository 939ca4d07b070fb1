"""From NNX modules to pure functions: a ``Model`` over plain-dict parameters.

Plain dicts through ``jax.jit`` dispatch several times faster than modules, donate safely and shard by path, so nothing
outside models/ ever holds a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.decoding import decoding_config, lay_out_for_decoding
from rlhf_jax.models.lora import join, split
from rlhf_jax.models.transformer import Transformer
from rlhf_jax.types import Array, Cache, Model, Params

# Logits are made for at most this many (token, vocabulary) pairs at once: 64 MiB in float32.
LOGIT_CHUNK = 2**24


def build(config: ModelConfig) -> Model:
    """The model of a config as pure functions.

    Args:
        config: its sizes; with ``scalar_head`` the model also has ``values`` and ``scores``.

    Returns:
        A ``Model``; ``model.init(key)`` gives a nested dict of float32 arrays.

    Example:
        >>> sizes = {"d_model": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "d_ff": 16}
        >>> model = build(ModelConfig(vocab_size=32, **sizes))
        >>> params = model.init(jax.random.key(0))
        >>> tokens = jnp.ones((1, 5), jnp.int32)
        >>> hidden = model.apply(params, tokens, jnp.arange(5)[None], tokens)
        >>> hidden.shape, model.logits(params, hidden).shape
        ((1, 5, 8), (1, 5, 32))
    """
    graph = nnx.split(nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0))))[0]
    laid_config = decoding_config(config)
    laid_graph = nnx.split(nnx.eval_shape(lambda: Transformer(laid_config, nnx.Rngs(0), apart=True)))[0]

    def bind(params: Params) -> Transformer:
        return nnx.merge(graph, params)

    def init(key: Array) -> Params:
        return nnx.to_pure_dict(nnx.split(Transformer(config, nnx.Rngs(key)))[1])

    def apply(params: Params, tokens: Array, positions: Array, segment_ids: Array, key: Array | None = None) -> Array:
        return bind(params)(tokens, positions, segment_ids, key)

    def logits(params: Params, hidden: Array) -> Array:
        return bind(params).logits(hidden)

    def token_stats(params: Params, hidden: Array, targets: Array, *, temperature: float = 1.0) -> tuple[Array, Array]:
        return _token_stats(bind(params).logits, config.vocab_size, hidden, targets, temperature)

    def values(params: Params, hidden: Array) -> Array:
        if not config.scalar_head:
            raise ValueError("this model has no scalar head: build it with ModelConfig(scalar_head=True)")
        return bind(params).head(hidden)

    def scores(params: Params, hidden: Array, last: Array) -> Array:
        return values(params, jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0])

    def lay_out(params: Params) -> Params:
        return lay_out_for_decoding(config, params)

    def cache(batch: int, length: int) -> Cache:
        shape = (batch, config.n_kv_heads, length, config.head_dim)
        k, v = (tuple(jnp.zeros(shape, config.compute_dtype) for _ in range(config.n_layers)) for _ in range(2))
        return Cache(k, v, jnp.zeros((batch,), jnp.int32))

    def prefill(laid: Params, tokens: Array, lengths: Array) -> tuple[Array, Cache]:
        return nnx.merge(laid_graph, laid).prefill(tokens, lengths)

    def decode(laid: Params, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
        return nnx.merge(laid_graph, laid).decode(tokens, cache)

    return Model(
        init,
        apply,
        logits,
        token_stats,
        values,
        scores,
        lay_out,
        cache,
        prefill,
        decode,
        dropout=config.lora.dropout > 0,
    )


def logits(config: ModelConfig, params: Params, tokens: Array, mask: Array) -> Array:
    """Logits of padded sequences.

    Args:
        config: the model's.
        params: as ``build(config).init`` gives them.
        tokens: int [B, S].
        mask: bool [B, S], True on real tokens; padding may stand on either side.

    Returns:
        float32 [B, S, V]; what stands at padding means nothing.

    Example:
        >>> config = ModelConfig(vocab_size=32, d_model=8, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16)
        >>> params = build(config).init(jax.random.key(0))
        >>> right = logits(config, params, jnp.array([[5, 6, 0]]), jnp.array([[True, True, False]]))
        >>> left = logits(config, params, jnp.array([[0, 5, 6]]), jnp.array([[False, True, True]]))
        >>> bool(jnp.allclose(right[:, :2], left[:, 1:], atol=1e-6))
        True
    """
    model = build(config)
    mask = jnp.asarray(mask, bool)
    positions = jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)
    return model.logits(params, model.apply(params, tokens, positions, mask.astype(jnp.int32)))


def _token_stats(
    logits: Callable[[Array], Array], vocab_size: int, hidden: Array, targets: Array, temperature: float
) -> tuple[Array, Array]:
    """Log-probability of each target and entropy of its distribution, float32 [B, S], from hidden [B, S, D].

    Both are of ``softmax(logits / temperature)``; at temperature 1 the logits are taken as they are.

    Chunks run along the sequence, so that the batch stays sharded. A single chunk keeps its logits for the backward
    pass; several are recomputed there one by one (``jax.checkpoint``), so no more than one chunk ever exists.
    """
    batch, length, width = hidden.shape
    chunk = max(1, min(length, LOGIT_CHUNK // max(1, batch * vocab_size)))

    def stats(h: Array, t: Array) -> tuple[Array, Array]:
        z = logits(h) if temperature == 1.0 else logits(h) / temperature
        log_z = jax.nn.logsumexp(z, axis=-1)
        logprob = jnp.take_along_axis(z, t[..., None], axis=-1)[..., 0] - log_z
        probability = jnp.exp(z - log_z[..., None])
        return logprob, log_z - jnp.sum(probability * z, axis=-1)

    if chunk == length:
        return stats(hidden, targets)
    pad = -length % chunk
    h = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0))).reshape(batch, -1, chunk, width).swapaxes(0, 1)
    t = jnp.pad(targets, ((0, 0), (0, pad))).reshape(batch, -1, chunk).swapaxes(0, 1)
    one: Callable[..., Any] = jax.checkpoint(stats)
    logprob, entropy = jax.lax.map(lambda pair: one(*pair), (h, t))
    return tuple(x.swapaxes(0, 1).reshape(batch, -1)[:, :length] for x in (logprob, entropy))


def with_scalar_head(params: Params, config: ModelConfig, key: Array | None = None) -> Params:
    """A language model's weights with a fresh scalar head on top: how a reward model or a critic starts.

    A trunk under adapters is shared; other leaves are copies, because donating the original would delete shared ones.

    Args:
        params: a language model's.
        config: its sizes.
        key: draws the head from a normal distribution of variance 1 / (d_model + 1) (Stiennon et al. 2020), so that
            members of an ensemble start apart. Without it the head is zero, and the first scores are all 0.

    Returns:
        The parameters with a ``head``.
    """
    shape = (config.d_model, 1)
    kernel = jnp.zeros(shape) if key is None else jax.random.normal(key, shape) * (config.d_model + 1) ** -0.5
    trained, frozen = split(params)
    return {**join(jax.tree.map(jnp.copy, trained), frozen), "head": {"kernel": kernel}}
