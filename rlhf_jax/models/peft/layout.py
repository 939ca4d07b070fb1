"""Where our adapters lie in a file of PEFT's: names, axes, and matrices that are fused there.

PEFT keeps ``lora_A`` [r, in] and ``lora_B`` [out, r] for a matrix of a layer; ours are stacked over layers and
transposed. Where query, key and value are one matrix in the file (GPT-2, GPT-NeoX), their adapters are one of three
times the rank whose B is made of blocks: it changes the matrix in exactly the same way. On the way back the three share
A, and each takes its rows of B.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from rlhf_jax.models.config import LoRAConfig, ModelConfig
from rlhf_jax.models.huggingface.layout import Leaf, Place, leaves, sharing_tensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_MODEL = "adapter_model.safetensors"
PREFIX = "base_model.model."
HEAD = f"{PREFIX}score.weight"


class Site(NamedTuple):
    """A matrix of the file, in all layers, and which of our kernels are in it: one, or query, key and value."""

    parts: tuple[Leaf, ...]

    @property
    def modules(self) -> list[str]:
        """What the file calls it in each layer."""
        return [place.tensor.removesuffix(".weight") for place in self.parts[0].places]

    @property
    def paths(self) -> list[str]:
        """What we call its parts: `blocks/attention/query`."""
        return ["/".join(leaf.path[:-1]) for leaf in self.parts]


def matrix_sites(config: ModelConfig, modules: Collection[str] = ()) -> list[Site]:
    """List every matrix that can have an adapter.

    Args:
        config: the model's; whether it has adapters or 8-bit matrices changes nothing.
        modules: the names in a file; they decide where a family has several spellings.

    Example:
        >>> config = ModelConfig(n_layers=1, family="gpt_neox", gated_mlp=False)
        >>> for site in matrix_sites(config):
        ...     print(site.modules[0], [path.split("/")[-1] for path in site.paths])
        gpt_neox.layers.0.attention.query_key_value ['query', 'key', 'value']
        gpt_neox.layers.0.attention.dense ['out']
        gpt_neox.layers.0.mlp.dense_4h_to_h ['down']
        gpt_neox.layers.0.mlp.dense_h_to_4h ['up']
    """
    names = {f"{module}.weight" for module in modules}
    plain = dataclasses.replace(config, lora=LoRAConfig(), int8=False)
    kernels = [leaf for leaf in leaves(plain, names) if leaf.stacked and leaf.path[-1] == "kernel"]
    groups = [[kernels[i] for i in group] for group in sharing_tensors(kernels)]
    return [Site(tuple(sorted(group, key=lambda leaf: leaf.places[0].part))) for group in groups]


def to_file(place: Place, pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Make one layer's lora_A and lora_B of a matrix: its parts' A one below the other, and B with a block for each.

    Args:
        place: where the matrix lies.
        pairs: A [in, r] and B [r, out] for each of its n parts.

    Returns:
        lora_A [n r, in] and lora_B [all out, n r].
    """
    rank, parts = pairs[0][0].shape[1], len(pairs)
    a = np.concatenate([a.T for a, _ in pairs])
    wide = [np.pad(b, ((i * rank, (parts - 1 - i) * rank), (0, 0))) for i, (_, b) in enumerate(pairs)]
    return a, _turned(place, place.join(wide))


def part_of_b(place: Place, lora_b: np.ndarray) -> np.ndarray:
    """Take one part's B [n r, out] out of a matrix's lora_B [all out, n r]."""
    return place.take(_turned(place, lora_b))


def _turned(place: Place, lora_b: np.ndarray) -> np.ndarray:
    """Turn lora_B, which is always [out, r], the way its matrix lies in the file, or back."""
    return lora_b.T if place.form in ("same", "thirds") else lora_b
