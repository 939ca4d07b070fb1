"""Reading a checkpoint: everything that can be wrong with it is found first, then tensors come in one at a time.

Every name, shape and type in the file is compared with the model that ``config.json`` describes before anything is
allocated. Then the parameters are filled where they are to lie. Host memory above the parameters is one tensor of the
file, and some tens of MiB for what is under way.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.files import CheckpointError
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.huggingface.config import model_config
from rlhf_jax.models.huggingface.families import FAMILIES
from rlhf_jax.models.huggingface.layout import Leaf, leaves, sharing_tensors
from rlhf_jax.models.weights import (
    CONFIG,
    FLOATS,
    SMALL,
    TensorInfo,
    TensorSource,
    read_object,
    safetensors_source,
    slabs,
)
from rlhf_jax.types import Array, Params

_NAMED = 5  # tensors that a message names before it counts the rest

Shardings = Callable[[Any], Any]


def load_pretrained(
    path: str | os.PathLike[str], *, shardings: Shardings | None = None, dtype: str | None = None
) -> tuple[ModelConfig, Params]:
    """Load a model from a Hugging Face checkpoint.

    Args:
        path: a folder with ``config.json`` and safetensors (one file, or shards with an index), or a ``.gguf`` file.
        shardings: where every leaf goes: a function from a tree of ``jax.ShapeDtypeStruct`` to the same tree of
            shardings (``functools.partial(parallel.param_shardings, mesh=mesh)``). None: the default device.
        dtype: ``float32``, ``bfloat16`` or ``float16`` for all weights; None keeps the file's.

    Returns:
        The config, and the parameters that ``build(config)`` takes. Sequence classifiers with one label come with
        ``scalar_head``.

    Raises:
        CheckpointError: the architecture is not supported, a tensor is missing, unknown or of the wrong shape, or a
            file is truncated; all of this is found before the model is allocated.
    """
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype is one of {', '.join(FLOATS)} or None, found {dtype!r}")
    fields, source, where = _open(Path(path))
    config = model_config(fields, where)
    names = source.names()
    plan = leaves(config, names)
    _check(source.where, config, plan, names)
    types = [dtype or _common_type(leaf, names) for leaf in plan]
    structs = [jax.ShapeDtypeStruct(leaf.shape, kind) for leaf, kind in zip(plan, types, strict=True)]
    places: list[Any] = [None] * len(plan)
    if shardings is not None:
        # Both trees are flattened by jax, so they agree on the order of leaves.
        places = jax.tree.leaves(shardings(_nested(plan, structs)))
    filled: dict[str, Array] = {}
    for group in sharing_tensors(plan):
        made = _fill(source, [plan[i] for i in group], [structs[i] for i in group], [places[i] for i in group])
        filled |= dict(zip([plan[i].name for i in group], made, strict=True))
    params = _nested(plan, [filled[leaf.name] for leaf in plan])
    if config.tie_embeddings:
        _check_tied(source, config, names, params["embedding"])
    return config, params


def _open(path: Path) -> tuple[Mapping[str, Any], TensorSource, str]:
    if path.suffix == ".gguf" and path.is_file():
        from rlhf_jax.models.gguf.read import read_gguf

        fields, source = read_gguf(path)
        return fields, source, str(path)
    if path.is_file():
        raise CheckpointError(f"{path} is a file; give the folder that holds {CONFIG} and the weights, or a .gguf file")
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder or .gguf file; download the checkpoint first")
    return read_object(path / CONFIG), safetensors_source(path), str(path / CONFIG)


# ---- what can be wrong with a checkpoint ----------------------------------------------------------------------------


def _check(where: str, config: ModelConfig, plan: Sequence[Leaf], names: Mapping[str, TensorInfo]) -> None:
    expected: dict[str, tuple[int, ...]] = {}
    for leaf in plan:
        shape = leaf.shape[1:] if leaf.stacked else leaf.shape
        expected |= {place.tensor: place.file_shape(shape) for place in leaf.places}
    missing = [name for name in expected if name not in names]
    if missing:
        raise CheckpointError(f"{where}: {_some(missing)} missing; a {config.family} model with these sizes has it")
    family = FAMILIES[config.family]
    # A copy of the embedding among these is compared with it once that is read.
    copies = [f"{name}.weight" for name in family.output_names if config.tie_embeddings and not config.scalar_head]
    unknown = [name for name in names if name not in expected and name not in copies]
    extra = [name for name in unknown if not re.search(family.harmless, name)]
    if extra:
        raise CheckpointError(f"{where}: {_some(extra)} unknown; a {config.family} model with these sizes lacks it")
    for name, wanted in expected.items():
        shape, dtype = names[name]
        if tuple(shape) != wanted:
            raise CheckpointError(
                f"{where}: tensor {name} has shape {list(shape)}, but {CONFIG} says {list(wanted)}; one of them is "
                "of another model"
            )
        if dtype not in FLOATS:
            raise CheckpointError(
                f"{where}: tensor {name} is {dtype}, only {', '.join(FLOATS)} are read; convert it, or load a "
                "checkpoint that is not quantised"
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"tensor {shown} is" if len(names) == 1 else f"tensors {shown} are"


def _check_tied(source: TensorSource, config: ModelConfig, names: Mapping[str, TensorInfo], embedding: Array) -> None:
    """Check that an output head in the file is a copy of the embedding, as the config says."""
    for spelling in FAMILIES[config.family].output_names:
        name = f"{spelling}.weight"
        if name not in names:
            continue
        output = source.read(name)
        shards = embedding.addressable_shards
        same = output.shape == embedding.shape and all(
            np.array_equal(np.asarray(shard.data[row]), output[shard.index][row].astype(embedding.dtype))
            for shard in shards
            for row in slabs(shard.data.shape, embedding.dtype.itemsize)
        )
        if not same:
            raise CheckpointError(
                f"{source.where}: tensor {name} is not the embedding, although {CONFIG} says that they are tied; set "
                "tie_word_embeddings to false"
            )


def _common_type(leaf: Leaf, names: Mapping[str, TensorInfo]) -> str:
    """Find the type that holds every layer's values exactly."""
    kinds = {names[place.tensor].dtype for place in leaf.places}
    return kinds.pop() if len(kinds) == 1 else "float32"


# ---- from a file to its place ---------------------------------------------------------------------------------------


def _nested(plan: Sequence[Leaf], values: Sequence[Any]) -> Params:
    tree: dict[str, Any] = {}
    for leaf, value in zip(plan, values, strict=True):
        node = tree
        for key in leaf.path[:-1]:
            node = node.setdefault(key, {})
        node[leaf.path[-1]] = value
    return tree


def _fill(
    source: TensorSource, group: Sequence[Leaf], structs: Sequence[jax.ShapeDtypeStruct], places: Sequence[Any]
) -> list[Array]:
    """Fill the leaves that share tensors layer by layer: a stacked leaf is never held twice."""
    targets = [_Target(leaf, struct, place) for leaf, struct, place in zip(group, structs, places, strict=True)]
    for layer in range(len(group[0].places)):
        values = source.read(group[0].places[layer].tensor)
        for leaf, target in zip(group, targets, strict=True):
            target.put(layer, leaf.places[layer].take(values))
        del values  # before the next one is read
    return [target.array() for target in targets]


class _Target:
    """Where one leaf is put together, on each of this process's devices.

    A leaf goes to its device in slabs, as it is read, and is never whole on the host. Small ones are put together
    there, because every shape of a slab is a program to compile.
    """

    def __init__(self, leaf: Leaf, struct: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding | None):
        self.leaf, self.struct, self.sharding = leaf, struct, sharding
        whole = (slice(None),) * len(struct.shape)
        indices = {None: whole} if sharding is None else sharding.addressable_devices_indices_map(struct.shape)
        self.spans: dict[Any, list[tuple[int, int]]] = {}
        self.buffers: dict[Any, Array | np.ndarray] = {}
        for device, index in indices.items():
            spans = [part.indices(n)[:2] for part, n in zip(index or whole, struct.shape, strict=True)]
            shape = [stop - start for start, stop in spans]
            small = math.prod(shape) * struct.dtype.itemsize <= SMALL
            self.spans[device] = spans
            if small:
                self.buffers[device] = np.zeros(shape, struct.dtype)
            else:
                # By itself jnp.zeros makes them on the default device and then copies them.
                place = None if device is None else jax.sharding.SingleDeviceSharding(device)
                zeros = jax.jit(partial(jnp.zeros, shape, struct.dtype), out_shardings=place)
                self.buffers[device] = zeros().block_until_ready()

    def put(self, layer: int, values: np.ndarray) -> None:
        """Put one layer's values in place, or all of a leaf that is not stacked."""
        values = values[None] if self.leaf.stacked else values
        for device, spans in self.spans.items():
            origin, rest = 0, list(spans)
            if self.leaf.stacked:
                start, stop = spans[0]
                if not start <= layer < stop:
                    continue
                origin, rest[0] = layer - start, (0, 1)
            mine = values[tuple(slice(*span) for span in rest)]
            buffer = self.buffers[device]
            if isinstance(buffer, np.ndarray):
                buffer[origin : origin + len(mine)] = mine
                continue
            axis = 1 if self.leaf.stacked else 0
            for rows in slabs(mine.shape[axis:], mine.itemsize):
                slab = mine[:, rows] if self.leaf.stacked else mine[rows]
                offset = (origin, rows.start) if self.leaf.stacked else (rows.start,)
                padded = np.asarray([*offset, *(0,) * (mine.ndim - len(offset))], np.int32)
                # One at a time: what is under way is held by the runtime a second time.
                buffer = _write(buffer, slab, padded).block_until_ready()
            self.buffers[device] = buffer

    def array(self) -> Array:
        """The finished leaf."""
        placed = [jax.device_put(buffer, device) for device, buffer in self.buffers.items()]
        if self.sharding is None:
            return placed[0]
        return jax.make_array_from_single_device_arrays(self.struct.shape, self.sharding, placed)


@partial(jax.jit, donate_argnums=0)
def _write(buffer: Array, values: Array, offset: Array) -> Array:
    return jax.lax.dynamic_update_slice(buffer, values.astype(buffer.dtype), list(offset))
