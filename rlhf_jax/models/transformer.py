"""The transformer as NNX modules: the one description of the network. Nothing outside models/ sees these classes.

Every block has the same shape, so blocks are stored stacked (leading axis: layer) and run by ``jax.lax.scan``: compile
time does not grow with depth, and a sharding rule speaks of all layers at once.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.heads import ScalarHead


class Cache(NamedTuple):
    """Keys and values of all layers, and which columns hold a real token."""

    k: jax.Array  # [layers, B, C, kv_heads, head_dim]
    v: jax.Array  # [layers, B, C, kv_heads, head_dim]
    valid: jax.Array  # bool [B, C]


def _normal(key: jax.Array, shape: tuple[int, ...], scale: float) -> nnx.Param:
    return nnx.Param(jax.random.normal(key, shape, jnp.float32) * scale)


def _rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    x32 = x.astype(jnp.float32)
    unit = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (unit * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(x.dtype)


def _rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding (Su et al. 2021) of ``x [B, T, H, Dh]`` at ``positions [B, T]``."""
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * frequency.reshape(1, 1, 1, half)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention; projections are plain matrices so that a path rule can shard them."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        d, dh = config.d_model, config.head_dim
        scale = 0.02
        self.query = _normal(rngs.params(), (d, config.n_heads * dh), scale)
        self.key = _normal(rngs.params(), (d, config.n_kv_heads * dh), scale)
        self.value = _normal(rngs.params(), (d, config.n_kv_heads * dh), scale)
        # Residual branches start smaller with depth, so that the stream's variance does not grow (GPT-2).
        self.out = _normal(rngs.params(), (config.n_heads * dh, d), scale / (2 * config.n_layers) ** 0.5)

    def project(self, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values of ``x [B, T, D]``, rotated: ``[B, T, heads, Dh]``."""
        c = self.config
        shape = (*x.shape[:-1], -1, c.head_dim)
        q = (x @ self.query[...].astype(x.dtype)).reshape(shape)
        k = (x @ self.key[...].astype(x.dtype)).reshape(shape)
        v = (x @ self.value[...].astype(x.dtype)).reshape(shape)
        return _rotate(q, positions, c.rope_theta), _rotate(k, positions, c.rope_theta), v

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        """Attention of ``q [B, T, H, Dh]`` over ``k, v [B, C, Hkv, Dh]`` where ``mask [B, T, C]``."""
        # A query with nothing to see (padding) gets a finite uniform average, which no mask ever counts.
        mixed = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
        return mixed.reshape(*mixed.shape[:-2], -1) @ self.out[...].astype(mixed.dtype)


class MLP(nnx.Module):
    """Gated MLP, ``down(silu(gate x) * up x)`` (Shazeer 2020)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        d, f = config.d_model, config.d_ff
        self.gate = _normal(rngs.params(), (d, f), 0.02)
        self.up = _normal(rngs.params(), (d, f), 0.02)
        self.down = _normal(rngs.params(), (f, d), 0.02 / (2 * config.n_layers) ** 0.5)

    def __call__(self, x: jax.Array) -> jax.Array:
        """``x [..., D]`` -> ``[..., D]``."""
        gate = jax.nn.silu(x @ self.gate[...].astype(x.dtype))
        return (gate * (x @ self.up[...].astype(x.dtype))) @ self.down[...].astype(x.dtype)


class Block(nnx.Module):
    """One pre-norm layer."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.eps = config.norm_eps
        self.attention_norm = nnx.Param(jnp.ones((config.d_model,), jnp.float32))
        self.attention = Attention(config, rngs)
        self.mlp_norm = nnx.Param(jnp.ones((config.d_model,), jnp.float32))
        self.mlp = MLP(config, rngs)

    def full(self, x: jax.Array, positions: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """All tokens at once; returns the stream and this layer's keys and values."""
        q, k, v = self.attention.project(_rms_norm(x, self.attention_norm[...], self.eps), positions)
        x = x + self.attention.attend(q, k, v, mask)
        return x + self.mlp(_rms_norm(x, self.mlp_norm[...], self.eps)), k, v

    def step(
        self, x: jax.Array, positions: jax.Array, cache: Cache, layer: jax.Array, column: jax.Array, live: int
    ) -> tuple[jax.Array, Cache]:
        """One token a row: writes its key and value at ``column`` of ``layer``, reads the first ``live`` columns."""
        q, k, v = self.attention.project(_rms_norm(x, self.attention_norm[...], self.eps), positions)
        keys = jax.lax.dynamic_update_slice(cache.k, k[None].astype(cache.k.dtype), (layer, 0, column, 0, 0))
        values = jax.lax.dynamic_update_slice(cache.v, v[None].astype(cache.v.dtype), (layer, 0, column, 0, 0))
        size = (1, x.shape[0], live, *keys.shape[3:])
        seen_k = jax.lax.dynamic_slice(keys, (layer, 0, 0, 0, 0), size)[0]
        seen_v = jax.lax.dynamic_slice(values, (layer, 0, 0, 0, 0), size)[0]
        x = x + self.attention.attend(q, seen_k, seen_v, cache.valid[:, None, :live])
        x = x + self.mlp(_rms_norm(x, self.mlp_norm[...], self.eps))
        return x, Cache(keys, values, cache.valid)


class Transformer(nnx.Module):
    """Embedding, stacked blocks, final norm, and (by the config) an untied output head and a scalar head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.embedding = _normal(rngs.params(), (config.vocab_size, config.d_model), 0.02)
        layer_keys = jax.random.split(rngs.params(), config.n_layers)
        self.blocks = nnx.vmap(lambda key: Block(config, nnx.Rngs(key)))(layer_keys)
        self.final_norm = nnx.Param(jnp.ones((config.d_model,), jnp.float32))
        if not config.tie_embeddings:
            self.unembedding = _normal(rngs.params(), (config.d_model, config.vocab_size), 0.02)
        if config.scalar_head:
            self.head = ScalarHead(config.d_model, rngs)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Rows of the embedding table, in the compute type."""
        return jnp.take(self.embedding[...], tokens, axis=0).astype(self.config.compute_dtype)

    def output_matrix(self) -> jax.Array:
        """The matrix [D, V] that turns hidden states into logits: tied by calling, never by sharing a module."""
        return self.embedding[...].T if self.config.tie_embeddings else self.unembedding[...]

    def __call__(self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """Hidden states [B, S, D] of whole sequences; a token sees its own segment's tokens up to itself."""
        mask = causal_mask(segment_ids)
        graph, stacked = nnx.split(self.blocks)

        def layer(x: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(graph, params).full(x, positions, mask)[0], None

        body = jax.checkpoint(layer) if self.config.remat else layer
        x, _ = jax.lax.scan(body, self.embed(tokens), stacked)
        return _rms_norm(x, self.final_norm[...], self.config.norm_eps)

    def prefill(
        self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Run prompts [B, P] and fill the first P columns of an empty cache."""
        mask = causal_mask(segment_ids)
        graph, stacked = nnx.split(self.blocks)

        def layer(x: jax.Array, params: nnx.State) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            x, k, v = nnx.merge(graph, params).full(x, positions, mask)
            return x, (k, v)

        x, (k, v) = jax.lax.scan(layer, self.embed(tokens), stacked)
        cache = Cache(
            jax.lax.dynamic_update_slice(cache.k, k.astype(cache.k.dtype), (0, 0, 0, 0, 0)),
            jax.lax.dynamic_update_slice(cache.v, v.astype(cache.v.dtype), (0, 0, 0, 0, 0)),
            jax.lax.dynamic_update_slice(cache.valid, segment_ids > 0, (0, 0)),
        )
        return _rms_norm(x, self.final_norm[...], self.config.norm_eps), cache

    def decode(
        self, tokens: jax.Array, positions: jax.Array, cache: Cache, column: jax.Array, live: int
    ) -> tuple[jax.Array, Cache]:
        """One token a row, ``tokens [B]`` at ``positions [B]``; its cache column is the same for all rows.

        The stacked cache rides in the scan's carry, so that only the new token's slice is written: with the cache
        as a scanned input and output, XLA copies all of it every step.
        """
        batch = tokens.shape[0]
        valid = jax.lax.dynamic_update_slice(cache.valid, jnp.ones((batch, 1), bool), (0, column))
        graph, stacked = nnx.split(self.blocks)

        def layer(
            carry: tuple[jax.Array, Cache], scanned: tuple[nnx.State, jax.Array]
        ) -> tuple[tuple[jax.Array, Cache], None]:
            params, index = scanned
            x, held = carry
            return nnx.merge(graph, params).step(x, positions[:, None], held, index, column, live), None

        start = (self.embed(tokens[:, None]), Cache(cache.k, cache.v, valid))
        (x, cache), _ = jax.lax.scan(layer, start, (stacked, jnp.arange(self.config.n_layers)))
        return _rms_norm(x[:, 0], self.final_norm[...], self.config.norm_eps), cache


def causal_mask(segment_ids: jax.Array) -> jax.Array:
    """Who sees whom, ``bool [B, S, S]``: the same segment (0 is padding and sees nothing), and not the future."""
    length = segment_ids.shape[-1]
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] > 0)
    return same & jnp.tril(jnp.ones((1, length, length), bool))
