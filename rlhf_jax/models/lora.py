"""Adapters beside frozen weights: adding them, and telling them apart from the trunk.

The parameters of an adapted model are one nested dict in which some matrices have ``lora_a`` and ``lora_b`` beside
their ``kernel``. Several models (a policy, its reference, a critic, a reward model) share one trunk by holding the very
same arrays in their dicts; only adapters and heads are their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rlhf_jax.models.config import LoRAConfig, ModelConfig
from rlhf_jax.models.int8 import round_to_int8
from rlhf_jax.types import Array, Params

ADAPTER_LEAVES = ("lora_a", "lora_b")
OWN = (*ADAPTER_LEAVES, "head")  # what an adapted model trains; everything else is the frozen trunk


def add_adapters(config: ModelConfig, params: Params, lora: LoRAConfig, key: Array) -> tuple[ModelConfig, Params]:
    """Add fresh adapters to a model, which change no output yet; the trunk's arrays are shared, not copied.

    Args:
        config: the config of a model without adapters.
        params: its weights.
        lora: rank, alpha and which matrices.
        key: a random key. A is normal with variance 1 / inputs, and B is zero (Hu et al. 2021, section 4.1).

    Returns:
        The config with ``lora``, and the parameters with float32 ``lora_a`` [L, in, r] and ``lora_b`` [L, r, out].

    Raises:
        ValueError: when the model has adapters already, ``lora.rank`` is 0, or no matrix's path matches.

    Example:
        >>> from rlhf_jax.models import build
        >>> config = ModelConfig(vocab_size=32, d_model=8, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16)
        >>> params = build(config).init(jax.random.key(0))
        >>> lora = LoRAConfig(rank=2, targets="query$")
        >>> config, params = add_adapters(config, params, lora, jax.random.key(1))
        >>> {name: x.shape for name, x in params["blocks"]["attention"]["query"].items()}
        {'kernel': (2, 8, 8), 'lora_a': (2, 8, 2), 'lora_b': (2, 2, 8)}
    """
    if config.lora.rank:
        raise ValueError("this model has adapters already: merge them first (models.merge)")
    if not lora.rank:
        raise ValueError("lora.rank is 0: there is nothing to add")
    found = [path for path, _ in matrices(params["blocks"], "blocks")]
    chosen = [path for path in found if lora.adapts(path)]
    if not chosen:
        raise ValueError(f"lora.targets {lora.targets!r} matches none of the matrices: {', '.join(found)}")
    keys = dict(zip(chosen, jax.random.split(key, len(chosen)), strict=True))

    def adapt(path: str, leaves: Params) -> Params:
        if path not in keys:
            return leaves
        layers, (_, inputs, outputs) = config.n_layers, leaves["kernel"].shape
        a = jax.random.normal(keys[path], (layers, inputs, lora.rank), jnp.float32) * inputs**-0.5
        return {**leaves, "lora_a": a, "lora_b": jnp.zeros((layers, lora.rank, outputs), jnp.float32)}

    blocks = map_matrices(params["blocks"], adapt, "blocks")
    return dataclasses.replace(config, lora=lora), {**params, "blocks": blocks}


def has_adapters(params: Params) -> bool:
    """Whether any matrix of a model's parameters has an adapter."""
    return any("lora_a" in leaves for _, leaves in matrices(params, ""))


def split(params: Params) -> tuple[Params, Params]:
    """Part what is trained (adapters and head) from the frozen trunk; without adapters everything is trained.

    ``join(*split(params))`` is ``params`` again, with the same arrays.

    Args:
        params: the parameters of one model.

    Returns:
        What is trained and what is frozen: two nested dicts without a path in common.
    """
    if not has_adapters(params):
        return params, {}
    return _select(params, OWN, True), _select(params, OWN, False)


def join(trained: Params, frozen: Params) -> Params:
    """Join the two parts that ``split`` makes of a model's parameters, or of those of models by role.

    Example:
        >>> join({"a": {"lora_a": 1}}, {"a": {"kernel": 2}, "b": 3})
        {'a': {'kernel': 2, 'lora_a': 1}, 'b': 3}
    """
    if not isinstance(trained, Mapping):
        return trained
    both = {name: join(x, frozen.get(name, {})) for name, x in trained.items()}
    return {**frozen, **both}


def adapter_off(params: Params) -> Params:
    """Switch the adapters off without changing any shape: B becomes zero, the trunk's arrays are the same ones."""
    return map_matrices(params, lambda _, x: {**x, "lora_b": jnp.zeros_like(x["lora_b"])} if "lora_b" in x else x, "")


def quantise(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Hold the blocks' matrices in 8 bits: ``W ~ scale * round(W / scale)`` with ``scale = max |W| / 127`` an output.

    This is meant for a frozen trunk under adapters (Dettmers et al. 2023 use 4 bits). Embeddings, norms and biases stay
    as they are.

    Args:
        config: the config of a model without adapters.
        params: its weights.

    Returns:
        The config with ``int8``, and int8 kernels with a float32 ``kernel_scale`` [L, out].

    Raises:
        ValueError: when the model has adapters.
    """
    if config.lora.rank:
        raise ValueError("quantise the trunk before it gets adapters")

    return dataclasses.replace(config, int8=True), {**params, "blocks": quantise_blocks(params["blocks"])}


def quantise_blocks(blocks: Params) -> Params:
    """Round the matrices of stacked blocks to 8 bits, each with its ``kernel_scale``.

    Adapters stay as they are, and so do matrices that are in 8 bits already.
    """
    return map_matrices(
        blocks, lambda _, leaves: leaves if "kernel_scale" in leaves else _round_to_int8(leaves), "blocks"
    )


@jax.jit
def _round_to_int8(leaves: Params) -> Params:
    whole, scale = round_to_int8(leaves["kernel"], axis=-2)
    return {**leaves, "kernel": whole, "kernel_scale": scale}


def first_layers(config: ModelConfig, layers: int) -> ModelConfig:
    """Stop a model after its first blocks; its weights may be those of the whole model, whose trunk it then shares.

    Middle layers describe a text better than the last, which describes the next token (Skean et al. 2025,
    arXiv:2502.02013), and they cost less.

    Args:
        config: the whole model's.
        layers: how many blocks; at most ``config.n_layers``.

    Returns:
        The config with ``n_layers`` replaced.

    Raises:
        ValueError: when there are not that many.

    Example:
        >>> first_layers(ModelConfig(n_layers=6), 4).n_layers
        4
    """
    if not 1 <= layers <= config.n_layers:
        raise ValueError(f"layers must lie between 1 and the model's {config.n_layers}, found {layers}")
    return dataclasses.replace(config, n_layers=layers, local_layers=config.local_layers[:layers])


def matrices(tree: Params, path: str) -> list[tuple[str, Params]]:
    """List every dict that holds a ``kernel``, a block's or a head's, with its path."""
    if not isinstance(tree, Mapping):
        return []
    if "kernel" in tree or "lora_a" in tree:
        return [(path, tree)]
    return [found for name, x in tree.items() for found in matrices(x, f"{path}/{name}" if path else name)]


def map_matrices(tree: Params, change: Callable[[str, Params], Params], path: str) -> Params:
    """Put ``change(path, leaves)`` in place of the leaves of every matrix of a block."""
    if not isinstance(tree, Mapping):
        return tree
    if "kernel" in tree and path != "head":
        return change(path, dict(tree))
    return {name: map_matrices(x, change, f"{path}/{name}" if path else name) for name, x in tree.items()}


def _select(tree: Params, names: tuple[str, ...], inside: bool) -> Params:
    """Select the leaves below one of these names, or all others; branches that are left empty are dropped."""
    kept = {}
    for name, x in tree.items():
        if name in names:
            if inside:
                kept[name] = x
        elif isinstance(x, Mapping):
            below = _select(x, names, inside)
            if below:
                kept[name] = below
        elif not inside:
            kept[name] = x
    return kept
