"""From NNX modules to pure functions: a ``Model`` over plain-dict parameters.

Plain dicts through ``jax.jit`` dispatch several times faster than modules, donate safely and shard by path, so nothing
outside models/ ever holds a module.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.decoder import make_decoder
from rlhf_jax.models.lora import join, split
from rlhf_jax.models.output_head import output_head
from rlhf_jax.models.token_stats import token_stats
from rlhf_jax.models.transformer import Transformer
from rlhf_jax.types import Array, MaybeArray, Model, Params


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

    def bind(params: Params) -> Transformer:
        return nnx.merge(graph, params)

    def init(key: Array) -> Params:
        return nnx.to_pure_dict(nnx.split(Transformer(config, nnx.Rngs(key)))[1])

    def apply(params: Params, tokens: Array, positions: Array, segment_ids: Array, key: Array | None = None) -> Array:
        return bind(params)(tokens, positions, segment_ids, key)

    def logits(params: Params, hidden: Array) -> Array:
        return bind(params).logits(hidden)

    def stats(
        params: Params, hidden: Array, targets: Array, *, temperature: float = 1.0, mask: MaybeArray = None
    ) -> tuple[Array, Array]:
        return token_stats(hidden, output_head(config, params), targets, temperature=temperature, mask=mask)

    def values(params: Params, hidden: Array) -> Array:
        if not config.scalar_head:
            raise ValueError("this model has no scalar head: build it with ModelConfig(scalar_head=True)")
        return bind(params).head(hidden)

    def scores(params: Params, hidden: Array, last: Array) -> Array:
        return values(params, jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0])

    def in_int8(*, cache: bool) -> Model:
        return model._replace(**make_decoder(config, int8_weights=True, int8_cache=cache)._asdict())

    model = Model(
        init,
        apply,
        logits,
        stats,
        values,
        scores,
        *make_decoder(config),
        in_int8,
        dropout=config.lora.dropout > 0,
        max_length=config.max_length,
    )
    return model


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
