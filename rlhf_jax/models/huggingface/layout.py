"""From the leaves of our parameters to the tensors of a file and back: names, axes, and fused matrices.

Our matrices are ``[in, out]`` and stacked over layers. Files hold a tensor a layer: ``[out, in]`` as torch's Linear has
it or ``[in, out]`` (GPT-2), with query, key and value on their own or fused into one matrix, third by third (GPT-2) or
head by head (GPT-NeoX).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.functional import build
from rlhf_jax.models.huggingface.families import FAMILIES
from rlhf_jax.models.huggingface.family import Family

_THIRDS = ("query", "key", "value")


class Place(NamedTuple):
    """Where the values of a leaf, or of one layer of it, lie in a file."""

    tensor: str
    form: Literal["same", "transposed", "thirds", "heads"]
    part: int = 0  # which part of a fused tensor: 0 query, 1 key, 2 value
    heads: int = 1

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Compute the shape of the tensor in the file from that of our leaf, or of one layer of it.

        Example:
            >>> Place("x", "transposed").file_shape((8, 24)), Place("x", "thirds").file_shape((8, 8))
            ((24, 8), (8, 24))
        """
        match self.form:
            case "same":
                return shape
            case "transposed":
                return shape[::-1]
            case "thirds":
                return (*shape[:-1], 3 * shape[-1])
            case "heads":
                return (3 * shape[-1], *shape[:-1])

    def take(self, values: np.ndarray) -> np.ndarray:
        """Take our values, those of one layer, out of the tensor in the file: a view where that is possible.

        Example:
            >>> rows = np.arange(12)  # two heads; each has query, key and value of width 2
            >>> Place("x", "heads", part=1, heads=2).take(rows)
            array([2, 3, 8, 9])
        """
        match self.form:
            case "same":
                return values
            case "transposed":
                return values.T
            case "thirds":
                return np.split(values, 3, axis=-1)[self.part]
            case "heads":
                rest = values.shape[1:]
                return values.reshape(self.heads, 3, -1, *rest)[:, self.part].reshape(-1, *rest).T

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Make the tensor in the file from ours, one or query, key and value: the inverse of ``take``."""
        match self.form:
            case "same":
                return parts[0]
            case "transposed":
                return parts[0].T
            case "thirds":
                return np.concatenate(parts, axis=-1)
            case "heads":
                rest = parts[0].T.shape[1:]
                split = [part.T.reshape(self.heads, -1, *rest) for part in parts]
                return np.stack(split, axis=1).reshape(-1, *rest)


class Leaf(NamedTuple):
    """One leaf of the parameters: ``places`` has one entry, or one a layer where the leaf is stacked."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool
    places: tuple[Place, ...]

    @property
    def name(self) -> str:
        """The path as text, `blocks/mlp/up/kernel`."""
        return "/".join(self.path)


def leaves(config: ModelConfig, names: Collection[str] = ()) -> list[Leaf]:
    """List every leaf of a model's parameters, with its place in a file.

    Args:
        config: the model's.
        names: the tensors in a file that is to be read; they decide where a family has several spellings. Without
            them, the names are those that transformers writes.

    Returns:
        Leaves in the order of ``jax.tree``.

    Example:
        >>> sizes = {"vocab_size": 32, "d_model": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4}
        >>> for leaf in leaves(ModelConfig(**sizes, d_ff=16))[:2]:
        ...     print(leaf.name, leaf.shape, leaf.places[-1].tensor)
        blocks/attention/key/kernel (2, 8, 8) model.layers.1.self_attn.k_proj.weight
        blocks/attention/out/kernel (2, 8, 8) model.layers.1.self_attn.o_proj.weight
    """
    family = FAMILIES[config.family]
    shapes = jax.eval_shape(build(config).init, jax.random.key(0))
    found = []
    for keys, leaf in jax.tree_util.tree_flatten_with_path(shapes)[0]:
        path = tuple(key.key for key in keys)
        stacked = path[0] == "blocks"
        layers = range(config.n_layers) if stacked else range(1)
        places = tuple(_place(family, config, path, layer, names) for layer in layers)
        found.append(Leaf(path, leaf.shape, stacked, places))
    return found


def sharing_tensors(plan: Sequence[Leaf]) -> list[list[int]]:
    """Group the leaves that come out of the same tensors, so that a fused tensor is read once."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, leaf in enumerate(plan):
        groups.setdefault(tuple(place.tensor for place in leaf.places), []).append(i)
    return list(groups.values())


def _place(family: Family, config: ModelConfig, path: tuple[str, ...], layer: int, names: Collection[str]) -> Place:
    module, tail = ("/".join(path[:-1]), path[-1]) if path[-1] in ("kernel", "bias", "scale") else (path[0], "")
    suffix = ".bias" if tail == "bias" else ".weight"
    modules = family.tensor_names(module)
    if module == "embedding" and config.tie_embeddings:
        modules += family.output_names  # safetensors' own save_model keeps one name of a shared tensor, this one
    spellings = [spelling.format(layer=layer) + suffix for spelling in modules]
    tensor = next((spelling for spelling in spellings if spelling in names), spellings[0])
    last = module.split("/")[-1]
    if last in _THIRDS and family.fused != "none":
        return Place(tensor, family.fused, _THIRDS.index(last), config.n_heads)
    if module in ("unembedding", "head"):
        return Place(tensor, "transposed")
    return Place(tensor, "transposed" if tail == "kernel" and family.matrices == "out_in" else "same")
