"""Adapters and the matrices that they change: folding them in, taking them out again, making one of two."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.models.config import LoRAConfig, ModelConfig
from rlhf_jax.models.lora import ADAPTER_LEAVES, map_matrices, matrices
from rlhf_jax.types import Array, Params


def merge(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Fold adapters into their matrices, ``W + (alpha / rank) A B``; 8-bit matrices become float32.

    Args:
        config: any model's; a model without adapters and 8-bit matrices comes back as it is.
        params: its weights.

    Returns:
        A model without adapters and the same outputs, up to rounding.
    """

    def fold(_: str, leaves: Params) -> Params:
        kernel = leaves["kernel"]
        if "kernel_scale" in leaves:
            kernel = kernel.astype(jnp.float32) * leaves["kernel_scale"][..., None, :]
        if "lora_a" in leaves:
            kernel = (kernel.astype(jnp.float32) + _change(leaves, config.lora)).astype(kernel.dtype)
        rest = {name: x for name, x in leaves.items() if name not in (*ADAPTER_LEAVES, "kernel", "kernel_scale")}
        return {"kernel": kernel, **rest}

    if not (config.lora.rank or config.int8):
        return config, params
    params = {**params, "blocks": jax.tree.map(lambda x: x[: config.n_layers], params["blocks"])}
    return dataclasses.replace(config, lora=LoRAConfig(), int8=False), map_matrices(params, fold, "")


def unmerge(config: ModelConfig, params: Params, lora: LoRAConfig, adapters: Params) -> tuple[ModelConfig, Params]:
    """Take adapters out of the matrices they were folded into: the inverse of ``merge``, up to rounding.

    Args:
        config: the merged model's.
        params: its weights.
        lora: the config that the adapters were trained with.
        adapters: the first part of ``split``.

    Returns:
        The model with its trunk and its adapters apart.
    """

    def take_out(path: str, leaves: Params) -> Params:
        own = adapters
        for name in path.split("/"):
            own = own.get(name, {})
        if "lora_a" not in own:
            return leaves
        kernel = leaves["kernel"]
        return {**leaves, **own, "kernel": (kernel.astype(jnp.float32) - _change(own, lora)).astype(kernel.dtype)}

    return dataclasses.replace(config, lora=lora), map_matrices(params, take_out, "")


def concatenate_adapters(
    config: ModelConfig, params: Params, below: ModelConfig, below_params: Params
) -> tuple[ModelConfig, Params]:
    """Join two layers of adapters into one, on the trunk of the lower model.

    ``W + s A B + s' A' B' = W + [A A'] [s B; s' B']``, with ``s = alpha / rank``: ranks add up, and the new scale is 1.

    The lower model's adapters were folded into its matrices, and the result became the trunk of the upper model. What
    both layers of adapters change can then be said by one, and the lower model's trunk serves both.

    Args:
        config: the upper model's.
        params: its weights; only adapters and head are read.
        below: the config of the lower model, from which ``merge`` made the upper one's trunk.
        below_params: the lower model's weights, with its adapters apart.

    Returns:
        One model with the outputs of the upper one, up to rounding. Where only one of the two adapts a matrix, the
        part of the other is zero.

    Example:
        >>> from rlhf_jax.models import add_adapters, build
        >>> config = ModelConfig(vocab_size=32, d_model=8, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16)
        >>> params = build(config).init(jax.random.key(0))
        >>> lower = add_adapters(config, params, LoRAConfig(rank=2, targets="query$"), jax.random.key(1))
        >>> upper = add_adapters(*merge(*lower), LoRAConfig(rank=3, targets="query$|up$"), jax.random.key(2))
        >>> both, both_params = concatenate_adapters(*upper, *lower)
        >>> both.lora.rank, both.lora.alpha, both_params["blocks"]["mlp"]["up"]["lora_a"].shape
        (5, 5.0, (2, 8, 5))
    """
    rank = config.lora.rank + below.lora.rank
    upper, adapted = dict(matrices(params, "")), []

    def both(path: str, leaves: Params) -> Params:
        pairs = [(leaves, below.lora), (upper[path], config.lora)]
        pairs = [(own, lora) for own, lora in pairs if "lora_a" in own]
        if not pairs:
            return leaves
        adapted.append(path)
        layers = slice(config.n_layers)  # the upper model may stop before the lower one
        a = jnp.concatenate([own["lora_a"][layers] for own, _ in pairs], axis=2)
        b = jnp.concatenate([own["lora_b"][layers] * (lora.alpha / lora.rank) for own, lora in pairs], axis=1)
        left = rank - a.shape[2]
        a, b = jnp.pad(a, ((0, 0), (0, 0), (0, left))), jnp.pad(b, ((0, 0), (0, left), (0, 0)))
        return {**leaves, "lora_a": a, "lora_b": b}

    trunk = map_matrices({name: x for name, x in below_params.items() if name != "head"}, both, "")
    head = {"head": params["head"]} if "head" in params else {}
    lora = dataclasses.replace(config.lora, rank=rank, alpha=float(rank), targets=f"^({'|'.join(adapted)})$")
    return dataclasses.replace(config, lora=lora), {**trunk, **head}


def _change(leaves: Params, lora: LoRAConfig) -> Array:
    return jnp.einsum("lir,lro->lio", leaves["lora_a"], leaves["lora_b"]) * (lora.alpha / lora.rank)
