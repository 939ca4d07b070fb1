"""The transformer as NNX modules: the one description of the network. Nothing outside models/ sees these classes.

Every block has the same shape, so blocks are stored stacked (leading axis: layer) and run by ``jax.lax.scan``: compile
time does not grow with depth, and one sharding rule holds for all layers. Layers that see a sliding window differ from
the others only in a flag, which is scanned beside the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.models.config import ModelConfig, RopeScaling
from rlhf_jax.models.heads import ScalarHead
from rlhf_jax.models.layers import ACTIVATIONS, Linear, Norm, attention, normal, rotary, rotate, softcap
from rlhf_jax.types import Cache


class View(NamedTuple):
    """What a layer is told about its tokens, beside the stream itself."""

    mask: jax.Array  # bool [B, T, C]; which columns a token sees
    sin: jax.Array  # float32 [B, T, 1, rotated / 2]
    cos: jax.Array


class Attention(nnx.Module):
    """Grouped-query attention with its four matrices, and norms of queries and keys where the config asks for them."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        d, queries, keys = config.d_model, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim

        def linear(name: str, sizes: tuple[int, int], bias: bool, scale: float = 0.02) -> Linear:
            return Linear(config, f"blocks/attention/{name}", sizes, bias=bias, scale=scale, rngs=rngs)

        self.query = linear("query", (d, queries), config.qkv_bias)
        self.key = linear("key", (d, keys), config.qkv_bias)
        self.value = linear("value", (d, keys), config.qkv_bias)
        # Residual branches start smaller with depth, so that the stream's variance does not grow (GPT-2).
        self.out = linear("out", (queries, d), config.out_bias, 0.02 / (2 * config.n_layers) ** 0.5)
        if config.qk_norm != "none":
            widths = (config.head_dim, config.head_dim) if config.qk_norm == "head" else (queries, keys)
            self.query_norm, self.key_norm = (Norm(config, width, "rms") for width in widths)

    def project(self, x: jax.Array, view: View, key: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute queries, keys and values of ``x [B, T, D]``, rotated: ``[B, T, heads, Dh]``."""
        c = self.config

        def heads(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:-1], -1, c.head_dim)

        q, k, v = self.query(x, key), self.key(x, key), heads(self.value(x, key))
        if c.qk_norm == "all":
            q, k = self.query_norm(q), self.key_norm(k)
        q, k = heads(q), heads(k)
        if c.qk_norm == "head":
            q, k = self.query_norm(q), self.key_norm(k)
        if c.positions == "rotary":
            q, k = rotate(q, (view.sin, view.cos)), rotate(k, (view.sin, view.cos))
        return q, k, v

    def attend(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Attend with ``q [B, T, H, Dh]`` to ``k, v [B, C, Hkv, Dh]`` where ``mask [B, T, C]``: ``[B, T, D]``."""
        c = self.config
        mixed = attention(q, k, v, mask, scale=c.query_scale or c.head_dim**-0.5, cap=c.attention_softcap)
        return self.out(mixed.reshape(*mixed.shape[:-2], -1), key)


class MLP(nnx.Module):
    """The MLP: ``down(f(gate x) * up x)`` (Shazeer 2020), or ``down(f(up x))``."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        d, f = config.d_model, config.d_ff
        self.activation = ACTIVATIONS[config.activation]

        def linear(name: str, sizes: tuple[int, int], scale: float) -> Linear:
            return Linear(config, f"blocks/mlp/{name}", sizes, bias=config.mlp_bias, scale=scale, rngs=rngs)

        if config.gated_mlp:
            self.gate = linear("gate", (d, f), 0.02)
        self.up = linear("up", (d, f), 0.02)
        self.down = linear("down", (f, d), 0.02 / (2 * config.n_layers) ** 0.5)

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """Map ``x [..., D]`` to ``[..., D]``."""
        up = self.up(x, key)
        inner = self.activation(self.gate(x, key)) * up if hasattr(self, "gate") else self.activation(up)
        return self.down(inner, key)


class Block(nnx.Module):
    """One layer: attention and MLP, each added to the stream."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.parallel = config.parallel_residual
        if config.norm_before:
            self.attention_norm, self.mlp_norm = Norm(config, config.d_model), Norm(config, config.d_model)
        if config.norm_after:
            self.attention_post_norm, self.mlp_post_norm = Norm(config, config.d_model), Norm(config, config.d_model)
        self.attention = Attention(config, rngs)
        self.mlp = MLP(config, rngs)

    def _combine(
        self, x: jax.Array, attend: Callable[[jax.Array], jax.Array], key: jax.Array | None = None
    ) -> jax.Array:
        """Compute the stream after this layer, given how attention is done."""
        mixed = attend(self.attention_norm(x) if hasattr(self, "attention_norm") else x)
        if hasattr(self, "attention_post_norm"):
            mixed = self.attention_post_norm(mixed)
        between = x + mixed
        read = x if self.parallel else between
        changed = self.mlp(self.mlp_norm(read) if hasattr(self, "mlp_norm") else read, key)
        if hasattr(self, "mlp_post_norm"):
            changed = self.mlp_post_norm(changed)
        return between + changed

    def full(
        self, x: jax.Array, view: View, key: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Run all tokens at once, and return the stream and this layer's keys and values."""
        seen: list[tuple[jax.Array, jax.Array]] = []

        def attend(h: jax.Array) -> jax.Array:
            q, k, v = self.attention.project(h, view, key)
            seen.append((k, v))
            return self.attention.attend(q, k, v, view.mask, key)

        x = self._combine(x, attend, key)
        return x, seen[0]

    def step(
        self, x: jax.Array, view: View, cache: Cache, layer: jax.Array, column: jax.Array, live: int
    ) -> tuple[jax.Array, Cache]:
        """Run one token a row: write its key and value at ``column`` of ``layer``, read the first ``live`` columns."""
        written: list[Cache] = []

        def attend(h: jax.Array) -> jax.Array:
            q, k, v = self.attention.project(h, view, None)
            keys = jax.lax.dynamic_update_slice(cache.k, k[None].astype(cache.k.dtype), (layer, 0, column, 0, 0))
            values = jax.lax.dynamic_update_slice(cache.v, v[None].astype(cache.v.dtype), (layer, 0, column, 0, 0))
            written.append(Cache(keys, values, cache.valid))
            size = (1, x.shape[0], live, *keys.shape[3:])
            seen_k = jax.lax.dynamic_slice(keys, (layer, 0, 0, 0, 0), size)[0]
            seen_v = jax.lax.dynamic_slice(values, (layer, 0, 0, 0, 0), size)[0]
            return self.attention.attend(q, seen_k, seen_v, view.mask)

        x = self._combine(x, attend)
        return x, written[0]


class Transformer(nnx.Module):
    """Embedding, stacked blocks, final norm, and (by the config) an untied output head and a scalar head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.config = config
        self.embedding = normal(rngs.params(), (config.vocab_size, config.d_model), 0.02)
        if config.positions == "learned":
            self.position_embedding = normal(rngs.params(), (config.max_length, config.d_model), 0.02)
        layer_keys = jax.random.split(rngs.params(), config.n_layers)
        self.blocks = nnx.vmap(lambda key: Block(config, nnx.Rngs(key)))(layer_keys)
        self.final_norm = Norm(config, config.d_model)
        if not config.tie_embeddings:
            self.unembedding = normal(rngs.params(), (config.d_model, config.vocab_size), 0.02)
        if config.scalar_head:
            self.head = ScalarHead(config.d_model)

    def _stacked(self) -> tuple[Any, nnx.State]:
        """Take the blocks as a definition and stacked weights, the first ``n_layers`` where the trunk is deeper."""
        graph, stacked = nnx.split(self.blocks)
        return graph, jax.tree.map(lambda x: x[: self.config.n_layers], stacked)

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Look up rows of the embedding table, in the compute type."""
        x = jnp.take(self.embedding[...], tokens, axis=0).astype(self.config.compute_dtype)
        if self.config.embedding_scale != 1.0:
            x = x * jnp.asarray(self.config.embedding_scale, x.dtype)
        if self.config.positions == "learned":
            x = x + jnp.take(self.position_embedding[...], positions, axis=0).astype(x.dtype)
        return x

    def output_matrix(self) -> jax.Array:
        """Take the matrix [D, V] from hidden states to logits: tied by calling this, never by sharing a module."""
        return self.embedding[...].T if self.config.tie_embeddings else self.unembedding[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Turn ``hidden [..., D]`` into logits, float32 ``[..., V]``."""
        # Added up in float32: the sampler's log-probabilities are compared with those of models/token_stats.py.
        matrix = self.output_matrix().astype(hidden.dtype)
        return softcap(jnp.matmul(hidden, matrix, preferred_element_type=jnp.float32), self.config.logit_softcap)

    def _views(self, positions: jax.Array, columns: jax.Array, mask: jax.Array) -> Callable[[jax.Array], View]:
        """Make the view of a layer by its flag; ``positions [B, T]`` look at columns whose positions are ``[B, C]``."""
        c = self.config
        everywhere = View(mask, *rotary(positions, c.rotary_width, c.rope_theta, c.rope_scaling))
        if not any(c.windowed):
            return lambda _: everywhere
        near = positions[:, :, None] - columns[:, None, :] < c.sliding_window
        local = everywhere._replace(mask=mask & near)
        if c.local_rope_theta:
            local = View(local.mask, *rotary(positions, c.rotary_width, c.local_rope_theta, RopeScaling()))
        if all(c.windowed):
            return lambda _: local
        return lambda flag: jax.tree.map(lambda a, b: jnp.where(flag, a, b), local, everywhere)

    def _run(
        self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array, key: jax.Array | None, keep: bool
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Run all layers over whole sequences; their keys and values are returned where they are to be kept."""
        # What stands at padding may be no token at all (-100); its row would be NaN, and weight 0 times NaN is NaN.
        tokens = jnp.where(segment_ids > 0, tokens, 0)
        view = self._views(positions, positions, causal_mask(segment_ids))
        graph, stacked = self._stacked()

        def layer(
            x: jax.Array, scanned: tuple[nnx.State, jax.Array, jax.Array | None]
        ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
            params, flag, own = scanned
            x, seen = nnx.merge(graph, params).full(x, view(flag), own)
            return x, seen if keep else None

        body = jax.checkpoint(layer) if self.config.remat and not keep else layer
        keys = None if key is None else jax.random.split(key, self.config.n_layers)
        x, seen = jax.lax.scan(body, self.embed(tokens, positions), (stacked, jnp.asarray(self.config.windowed), keys))
        return self.final_norm(x), seen

    def __call__(
        self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Compute hidden states [B, S, D] of whole sequences; a token sees its own segment's tokens up to itself."""
        return self._run(tokens, positions, segment_ids, key, keep=False)[0]

    def prefill(
        self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array, cache: Cache
    ) -> tuple[jax.Array, Cache]:
        """Run prompts [B, P] and fill the first P columns of an empty cache."""
        hidden, seen = self._run(tokens, positions, segment_ids, None, keep=True)
        assert seen is not None
        return hidden, Cache(
            jax.lax.dynamic_update_slice(cache.k, seen[0].astype(cache.k.dtype), (0, 0, 0, 0, 0)),
            jax.lax.dynamic_update_slice(cache.v, seen[1].astype(cache.v.dtype), (0, 0, 0, 0, 0)),
            jax.lax.dynamic_update_slice(cache.valid, segment_ids > 0, (0, 0)),
        )

    def decode(
        self, tokens: jax.Array, positions: jax.Array, cache: Cache, column: jax.Array, live: int
    ) -> tuple[jax.Array, Cache]:
        """Run one token a row, ``tokens [B]`` at ``positions [B]``; its cache column is the same for all rows.

        The stacked cache rides in the scan's carry, so that only the new token's slice is written: with the cache
        as a scanned input and output, XLA copies all of it every step.
        """
        batch = tokens.shape[0]
        valid = jax.lax.dynamic_update_slice(cache.valid, jnp.ones((batch, 1), bool), (0, column))
        seen = valid[:, :live]
        # Padding is never between real columns, so a column's position is how many real ones stand before it.
        view = self._views(positions[:, None], jnp.cumsum(seen, axis=-1) - 1, seen[:, None])
        graph, stacked = self._stacked()

        def layer(
            carry: tuple[jax.Array, Cache], scanned: tuple[nnx.State, jax.Array, jax.Array]
        ) -> tuple[tuple[jax.Array, Cache], None]:
            params, flag, index = scanned
            x, held = carry
            return nnx.merge(graph, params).step(x, view(flag), held, index, column, live), None

        start = (self.embed(tokens[:, None], positions[:, None]), Cache(cache.k, cache.v, valid))
        layers = jnp.arange(self.config.n_layers)
        (x, cache), _ = jax.lax.scan(layer, start, (stacked, jnp.asarray(self.config.windowed), layers))
        return self.final_norm(x[:, 0]), cache


def causal_mask(segment_ids: jax.Array) -> jax.Array:
    """Make the mask ``bool [B, S, S]``: tokens see their own segment up to themselves, and padding (0) sees none."""
    length = segment_ids.shape[-1]
    same = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids[:, None, :] > 0)
    return same & jnp.tril(jnp.ones((1, length, length), bool))
