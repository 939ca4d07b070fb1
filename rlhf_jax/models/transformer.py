"""The transformer as NNX modules: the one description of the network. Nothing outside models/ sees these classes.

Every block has the same shape, so blocks are stored stacked (leading axis: layer), and one sharding rule holds for all
layers. Training takes them off the stack (``models/depth.py``); decoding has them laid out each for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.models.ambient import HEADS, VOCABULARY, by_rows, by_width, platform
from rlhf_jax.models.attention import attention, cached_attention, laid, stored
from rlhf_jax.models.config import ModelConfig, RopeScaling
from rlhf_jax.models.decoding import decoding_kind
from rlhf_jax.models.depth import run_blocks
from rlhf_jax.models.heads import ScalarHead
from rlhf_jax.models.int8_cache import Int8Columns, append, int8_attention
from rlhf_jax.models.layers import ACTIVATIONS, Linear, Norm, normal, rotary, rotate
from rlhf_jax.models.lookup import look_up
from rlhf_jax.models.output_head import OutputHead
from rlhf_jax.types import Cache

KeysAndValues = tuple[Any, Any]  # a layer's, arrays or ``Int8Columns``


class View(NamedTuple):
    """What a layer is told about its tokens, beside the stream itself."""

    segment_ids: jax.Array  # int32 [B, T]; a token sees its own segment, up to itself
    sin: jax.Array  # float32 [B, T, 1, rotated / 2]
    cos: jax.Array
    window: int  # how many tokens a token sees, itself included; 0: all


class Attention(nnx.Module):
    """Grouped-query attention with its four matrices, and norms of queries and keys where the config asks for them."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, joined: bool = False):
        self.config = config
        d, queries, keys = config.d_model, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim

        def linear(name: str, sizes: tuple[int, int], bias: bool, scale: float = 0.02) -> Linear:
            return Linear(config, f"blocks/attention/{name}", sizes, bias=bias, scale=scale, rngs=rngs)

        if joined:
            self.qkv = linear("qkv", (d, queries + 2 * keys), config.qkv_bias)
        else:
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
            return by_rows(y.reshape(*y.shape[:-1], -1, c.head_dim), None, HEADS)

        if hasattr(self, "qkv"):
            ends = (c.n_heads * c.head_dim, (c.n_heads + c.n_kv_heads) * c.head_dim)
            q, k, v = jnp.split(self.qkv(x, key), ends, axis=-1)
        else:
            q, k, v = self.query(x, key), self.key(x, key), self.value(x, key)
        if c.qk_norm == "all":
            q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = heads(q), heads(k), heads(v)
        if c.qk_norm == "head":
            q, k = self.query_norm(q), self.key_norm(k)
        if c.positions == "rotary":
            q, k = rotate(q, (view.sin, view.cos)), rotate(k, (view.sin, view.cos))
        return q, k, v

    def __call__(self, x: jax.Array, view: View, key: jax.Array | None = None) -> tuple[jax.Array, KeysAndValues]:
        """Attend within whole rows ``x [B, T, D]``, and return their keys and values as well, ``[B, T, Hkv, Dh]``."""
        q, k, v = self.project(x, view, key)
        mixed = attention(q, k, v, view.segment_ids, window=view.window, kind=self.config.attention, **self._logits)
        return self.out(mixed.reshape(*x.shape[:-1], -1), key), (k, v)

    def step(
        self, x: jax.Array, view: View, held: KeysAndValues, lengths: jax.Array
    ) -> tuple[jax.Array, KeysAndValues]:
        """Attend with one token a row, ``x [N, 1, D]``, after writing its key and value behind a row's last column."""
        q, k, v = self.project(x, view, None)
        if isinstance(held[0], Int8Columns):
            seen, read = append(held[0], k[:, 0], lengths), append(held[1], v[:, 0], lengths)
            mixed = int8_attention(q[:, 0], seen, read, lengths + 1, window=view.window, **self._logits)
            return self.out(mixed.reshape(*x.shape[:-1], -1)), (seen, read)
        kind = decoding_kind(self.config)
        # A row whose columns are full is one that has ended, and what it writes is dropped.
        keys, values = (stored(cache, new[:, 0], lengths, kind) for cache, new in zip(held, (k, v), strict=True))
        mixed = cached_attention(q[:, 0], keys, values, lengths + 1, window=view.window, kind=kind, **self._logits)
        return self.out(mixed.reshape(*x.shape[:-1], -1)), (keys, values)

    @property
    def _logits(self) -> dict[str, float]:
        c = self.config
        return {"scale": c.query_scale or c.head_dim**-0.5, "cap": c.attention_softcap}


class MLP(nnx.Module):
    """The MLP: ``down(f(gate x) * up x)`` (Shazeer 2020), or ``down(f(up x))``."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, joined: bool = False):
        d, f = config.d_model, config.d_ff
        self.activation = ACTIVATIONS[config.activation]

        def linear(name: str, sizes: tuple[int, int], scale: float) -> Linear:
            return Linear(config, f"blocks/mlp/{name}", sizes, bias=config.mlp_bias, scale=scale, rngs=rngs)

        if joined and config.gated_mlp:
            self.gate_up = linear("gate_up", (d, 2 * f), 0.02)
        else:
            if config.gated_mlp:
                self.gate = linear("gate", (d, f), 0.02)
            self.up = linear("up", (d, f), 0.02)
        self.down = linear("down", (f, d), 0.02 / (2 * config.n_layers) ** 0.5)

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        """Map ``x [..., D]`` to ``[..., D]``."""
        if hasattr(self, "gate_up"):
            gate, up = jnp.split(self.gate_up(x, key), 2, axis=-1)
            return self.down(self.activation(gate) * up, key)
        up = self.up(x, key)
        # What stands between the products is cheap and as wide as the MLP: it is computed again, not kept.
        if hasattr(self, "gate"):
            inner = jax.checkpoint(lambda gate, up: self.activation(gate) * up)(self.gate(x, key), up)
        else:
            inner = jax.checkpoint(self.activation)(up)
        return self.down(inner, key)


class Block(nnx.Module):
    """One layer: attention and MLP, each added to the stream."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, joined: bool = False):
        self.parallel = config.parallel_residual
        if config.norm_before:
            self.attention_norm, self.mlp_norm = Norm(config, config.d_model), Norm(config, config.d_model)
        if config.norm_after:
            self.attention_post_norm, self.mlp_post_norm = Norm(config, config.d_model), Norm(config, config.d_model)
        self.attention = Attention(config, rngs, joined)
        self.mlp = MLP(config, rngs, joined)

    def __call__(self, x: jax.Array, view: View, key: jax.Array | None = None) -> tuple[jax.Array, KeysAndValues]:
        """Run whole rows ``x [B, T, D]``, and return the stream and this layer's keys and values."""
        x, kept = self._combine(by_rows(x), lambda h: self.attention(h, view, key), key)
        return by_rows(x), kept

    def step(
        self, x: jax.Array, view: View, held: KeysAndValues, lengths: jax.Array
    ) -> tuple[jax.Array, KeysAndValues]:
        """Run one token a row, ``x [N, 1, D]``, over what a cache holds of this layer, and return what it holds now."""
        x, kept = self._combine(by_width(x), lambda h: self.attention.step(h, view, held, lengths), None)
        return by_width(x), kept

    def _combine(
        self, x: jax.Array, attend: Callable[[jax.Array], tuple[jax.Array, KeysAndValues]], key: jax.Array | None
    ) -> tuple[jax.Array, KeysAndValues]:
        """Compute the stream after this layer, given how attention is done, and pass the keys and values on."""
        mixed, kept = attend(self.attention_norm(x) if hasattr(self, "attention_norm") else x)
        if hasattr(self, "attention_post_norm"):
            mixed = self.attention_post_norm(mixed)
        between = x + mixed
        read = x if self.parallel else between
        changed = self.mlp(self.mlp_norm(read) if hasattr(self, "mlp_norm") else read, key)
        if hasattr(self, "mlp_post_norm"):
            changed = self.mlp_post_norm(changed)
        return between + changed, kept


class Transformer(nnx.Module):
    """Embedding, blocks, final norm, and (by the config) an untied output head and a scalar head.

    Args:
        config: its sizes.
        rngs: keys for the first weights.
        apart: hold the blocks each for itself, as they are laid out for decoding, instead of stacked.
        joined: and in each of them the matrices that read the same input as one (``models/joined.py``).
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs, *, apart: bool = False, joined: bool = False):
        self.config = config
        self.embedding = normal(rngs.params(), (config.vocab_size, config.d_model), 0.02)
        if config.positions == "learned":
            self.position_embedding = normal(rngs.params(), (config.max_length, config.d_model), 0.02)
        layer_keys = jax.random.split(rngs.params(), config.n_layers)
        self.blocks: Any = (  # a list of blocks, or one whose weights are stacked
            nnx.List([Block(config, nnx.Rngs(key), joined) for key in layer_keys])
            if apart
            else nnx.vmap(lambda key: Block(config, nnx.Rngs(key)))(layer_keys)
        )
        self.final_norm = Norm(config, config.d_model)
        if not config.tie_embeddings:
            self.unembedding = normal(rngs.params(), (config.d_model, config.vocab_size), 0.02)
        if config.scalar_head:
            self.head = ScalarHead(config.d_model)

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Look up rows of the embedding table, in the compute type."""
        x = look_up(self.embedding[...], tokens, self.config.compute_dtype)
        if self.config.embedding_scale != 1.0:
            x = x * jnp.asarray(self.config.embedding_scale, x.dtype)
        if self.config.positions == "learned":
            x = x + look_up(self.position_embedding[...], positions, self.config.compute_dtype)
        return x

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Turn ``hidden [..., D]`` into logits, float32 ``[..., V]``, by the head that training reads as well."""
        c = self.config
        matrix = self.embedding if c.tie_embeddings else self.unembedding  # tied by reading it, never by sharing it
        logits = OutputHead(matrix[...], c.tie_embeddings, c.logit_softcap, c.tokenless).logits(hidden)
        return by_rows(logits, *(None,) * (logits.ndim - 2), VOCABULARY)

    def _views(self, positions: jax.Array, segment_ids: jax.Array) -> Callable[[bool], View]:
        """Make the view of a layer by whether it has the window; ``positions`` and ``segment_ids`` are [B, T]."""
        c = self.config
        everywhere = View(segment_ids, *rotary(positions, c.rotary_width, c.rope_theta, c.rope_scaling), 0)
        local = everywhere._replace(window=c.sliding_window)
        if c.local_rope_theta:
            sin, cos = rotary(positions, c.rotary_width, c.local_rope_theta, RopeScaling())
            local = local._replace(sin=sin, cos=cos)
        return lambda windowed: local if windowed else everywhere

    def __call__(
        self, tokens: jax.Array, positions: jax.Array, segment_ids: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Compute hidden states [B, S, D] of whole sequences; a token sees its own segment's tokens up to itself."""
        # What stands at padding may be no token at all (-100); its row would be NaN, and weight 0 times NaN is NaN.
        tokens = jnp.where(segment_ids > 0, tokens, 0)
        view = self._views(positions, segment_ids)
        graph, stacked = nnx.split(self.blocks)

        def block(x: jax.Array, params: nnx.State, own: jax.Array | None, windowed: bool) -> jax.Array:
            return nnx.merge(graph, params)(x, view(windowed), own)[0]

        if self.config.remat == "block":
            block = jax.checkpoint(block, static_argnums=3)
        elif self.config.remat == "dots":
            kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            block = jax.checkpoint(block, static_argnums=3, policy=kept)
        keys = None if key is None else jax.random.split(key, self.config.n_layers)
        # On a GPU the compiler keeps to the order in which unrolled blocks are computed again; elsewhere it does not.
        lean = self.config.int8 or (self.config.remat != "none" and platform() != "gpu")
        x = run_blocks(block, self.config.windowed, self.embed(tokens, positions), stacked, keys, lean=lean)
        return self.final_norm(x)

    def prefill(self, tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, Cache]:
        """Run prompts [B, P], padded on the right, with the blocks apart: the last tokens' logits, and P columns."""
        columns = jnp.arange(tokens.shape[1])[None]
        real = columns < lengths[:, None]
        # Padding may be no token, and reach beyond the positions that were learned: it is given what there is.
        tokens, positions = jnp.where(real, tokens, 0), jnp.minimum(columns, lengths[:, None] - 1)
        view = self._views(positions, real.astype(jnp.int32))
        x, kept = self.embed(tokens, positions), []
        for windowed, block in zip(self.config.windowed, self.blocks, strict=True):
            x, seen = block(x, view(windowed))
            kept.append([laid(held, decoding_kind(self.config)) for held in seen])
        last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
        keys, values = zip(*kept, strict=True)
        return self.logits(self.final_norm(last)), Cache(keys, values, lengths)

    def decode(self, tokens: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Run one token a row, ``tokens [N]``, with the blocks apart: logits [N, V], and the cache with this token."""
        positions = cache.lengths[:, None]
        view = self._views(positions, jnp.ones_like(positions))
        x, kept = self.embed(tokens[:, None], positions), []
        for windowed, block, *held in zip(self.config.windowed, self.blocks, cache.k, cache.v, strict=True):
            x, seen = block.step(x, view(windowed), (held[0], held[1]), cache.lengths)
            kept.append(seen)
        keys, values = zip(*kept, strict=True)
        return self.logits(self.final_norm(x[:, 0])), Cache(keys, values, cache.lengths + 1)
