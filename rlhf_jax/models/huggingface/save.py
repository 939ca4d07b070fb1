"""Writing a checkpoint that transformers and vLLM load: whole or not at all, one tensor at a time."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from rlhf_jax.files import CheckpointError, atomic_folder, write_json
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.huggingface.config_save import hf_config
from rlhf_jax.models.huggingface.layout import Leaf, leaves, sharing_tensors
from rlhf_jax.models.weights import (
    CONFIG,
    FLOATS,
    INDEX,
    SINGLE,
    SMALL,
    TensorInfo,
    read_object,
    slabs,
    write_safetensors,
)
from rlhf_jax.types import Params

GENERATION = "generation_config.json"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
_SAVED_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".jinja")


class SavesTokenizer(Protocol):
    """What saving needs of a tokenizer: the ids that config.json repeats, and its own files."""

    pad_id: int
    bos_id: int | None
    eos_id: int

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> object:
        """Write tokenizer.json and its companions into a folder."""
        ...


@runtime_checkable
class KnowsEnds(Protocol):
    """A tokenizer that knows every token which ends a response, the first being the one that it writes."""

    end_ids: Sequence[int]


def save_pretrained(
    path: str | os.PathLike[str],
    config: ModelConfig,
    params: Params,
    *,
    tokenizer: SavesTokenizer | None = None,
    generation_config: Mapping[str, Any] | None = None,
    source: str | os.PathLike[str] | None = None,
    max_shard_bytes: int = 5 * 2**30,
) -> None:
    """Write a checkpoint that transformers and vLLM load.

    The folder appears whole or not at all. With ``scalar_head`` it is a sequence classifier with one label, which has
    no output head, so an untied one is left out.

    Args:
        path: the folder; a checkpoint that is there is replaced, anything else is left alone.
        config: the model's.
        params: its weights, written in the types that they have.
        tokenizer: its files go beside the weights, and config.json repeats its special ids. A reward model needs
            one, because transformers finds the last token of a padded text by the id of padding.
        generation_config: fields of ``generation_config.json``.
        source: the checkpoint folder that the model was loaded from: its tokenizer, generation config and special ids
            are kept, unless others are given.
        max_shard_bytes: weights above this size go into several files with an index.

    Raises:
        CheckpointError: something that is not a checkpoint is at ``path``.
        ValueError: the weights do not fit the config, belong to several ensemble members, carry adapters or are held
            in 8 bits, or the family cannot say what the config says.

    Example:
        >>> import tempfile
        >>> from rlhf_jax.models import build, load_pretrained
        >>> config = ModelConfig(vocab_size=32, d_model=8, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16)
        >>> params = build(config).init(jax.random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pretrained(f"{folder}/model", config, params)
        ...     read_config, read_params = load_pretrained(f"{folder}/model")
        >>> read_config == config, bool((read_params["embedding"] == params["embedding"]).all())
        (True, True)
    """
    path = Path(path)
    _check_replaceable(path)
    kept = _kept(Path(source), tokenizer, generation_config) if source is not None else {}
    fields = hf_config(config) | _token_ids(tokenizer, generation_config, source)
    plan = [leaf for leaf in leaves(config) if not (config.scalar_head and leaf.path == ("unembedding",))]
    values = _values(config, plan, params)
    # The name that transformers had until version 5, which reads it too.
    fields["torch_dtype"] = values["embedding"].dtype.name
    if config.scalar_head and fields.get("pad_token_id") is None:
        warnings.warn(
            f"{path}: a reward model without pad_token_id: transformers can score one text at a time only; pass "
            "tokenizer=",
            stacklevel=2,
        )
    with atomic_folder(path) as scratch:
        _write_weights(scratch, plan, values, max_shard_bytes)
        write_json(scratch / CONFIG, fields, sort_keys=True)
        if generation_config is not None:
            write_json(scratch / GENERATION, generation_config, sort_keys=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        for name, file in kept.items():
            shutil.copyfile(file, scratch / name)


def _kept(
    source: Path, tokenizer: SavesTokenizer | None, generation_config: Mapping[str, Any] | None
) -> dict[str, Path]:
    """List the files of a checkpoint that say nothing of its weights, by name."""
    names = (*(TOKENIZER if tokenizer is None else ()), *((GENERATION,) if generation_config is None else ()))
    return {name: source / name for name in names if (source / name).is_file()}


def _check_replaceable(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise CheckpointError(f"{path} is a file; give the name of a folder")
    names = sorted(file.name for file in path.iterdir())
    foreign = [name for name in names if not name.endswith(_SAVED_SUFFIXES) or (path / name).is_dir()]
    if names and (foreign or CONFIG not in names):
        raise CheckpointError(f"{path} is not a checkpoint (it holds {(foreign or names)[0]}); give another folder")


def _values(config: ModelConfig, plan: Sequence[Leaf], params: Params) -> dict[str, Any]:
    """List the leaves by name, and check that every one is there and has its shape."""
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    for name, leaf in found.items():
        if name.endswith(("/lora_a", "/lora_b", "/kernel_scale")):
            raise ValueError(f"{name}: adapters and 8-bit matrices have no place in this format; models.merge first")
        if name == "head/kernel" and leaf.ndim == 3:
            raise ValueError(f"{leaf.shape[0]} reward models are stacked here; save them one at a time")
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            raise ValueError(f"{name} lies on the devices of several processes; restore the checkpoint in one and save")
    names = {leaf.name for leaf in plan}
    expected = names | ({"unembedding"} if config.scalar_head and not config.tie_embeddings else set())
    for name in sorted(expected ^ set(found)):
        raise ValueError(f"params {'lack' if name in expected else 'have an unknown'} {name}: not of this config")
    for leaf in plan:
        shape = tuple(found[leaf.name].shape)
        if shape != leaf.shape:
            raise ValueError(f"params: {leaf.name} has shape {shape}, but the config says {leaf.shape}")
        if found[leaf.name].dtype.name not in FLOATS:
            raise ValueError(f"params: {leaf.name} is {found[leaf.name].dtype}, expected one of {', '.join(FLOATS)}")
    return found


def _token_ids(
    tokenizer: SavesTokenizer | None,
    generation_config: Mapping[str, Any] | None,
    source: str | os.PathLike[str] | None,
) -> dict[str, int | list[int] | None]:
    ids: dict[str, int | list[int] | None] = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if tokenizer is not None:
        ends = list(tokenizer.end_ids) if isinstance(tokenizer, KnowsEnds) else [tokenizer.eos_id]
        ids = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": ends if len(ends) > 1 else ends[0],
            "pad_token_id": tokenizer.pad_id,
        }
    for said in (generation_config or {}, read_object(Path(source) / CONFIG) if source is not None else {}):
        ids |= {name: said.get(name) for name, known in ids.items() if known is None}
    return ids


def _write_weights(folder: Path, plan: Sequence[Leaf], values: Mapping[str, Any], max_shard_bytes: int) -> None:
    names: dict[str, TensorInfo] = {}
    makers: dict[str, Callable[[], np.ndarray]] = {}
    for group in sharing_tensors(plan):
        first = plan[group[0]]
        shape = first.shape[1:] if first.stacked else first.shape
        parts = [values[plan[i].name] for i in group]
        dtypes = {part.dtype.name for part in parts}
        if len(dtypes) > 1:
            raise ValueError(f"params: {first.name} shares a tensor with others of another type: {sorted(dtypes)}")
        for layer, place in enumerate(first.places):
            # Fused parts lie in the order query, key, value, whatever the order of leaves.
            ordered = sorted(zip(group, parts, strict=True), key=lambda pair: plan[pair[0]].places[0].part)
            names[place.tensor] = TensorInfo(place.file_shape(shape), parts[0].dtype.name)
            at = layer if first.stacked else None
            makers[place.tensor] = partial(
                lambda place, leaves, at: place.join([_fetch(leaf, at) for leaf in leaves]),
                place,
                [leaf for _, leaf in ordered],
                at,
            )

    def read(name: str) -> np.ndarray:
        return makers[name]()

    shards = _shards(names, max_shard_bytes)
    if len(shards) == 1:
        write_safetensors(folder / SINGLE, names, read)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, {name: names[name] for name in shard}, read)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(info.nbytes for info in names.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map}, sort_keys=True)


def _shards(names: Mapping[str, TensorInfo], max_shard_bytes: int) -> list[list[str]]:
    """Cut the names into runs of at most so many bytes; a tensor that is larger has a file of its own."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in names.items():
        if shards[-1] and size + info.nbytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    return shards


def _fetch(leaf: Any, layer: int | None) -> np.ndarray:
    """Copy a leaf, or one layer of it, to the host.

    A jax array keeps the numpy copy that was once made of it, so a large one is copied in slices, which then go away.
    Each device's part is sliced by itself, because a slice of the whole would be made on every device.
    """
    if not isinstance(leaf, jax.Array) or leaf.nbytes <= SMALL:  # on the host, or on the disk, which is read here
        return np.asarray(leaf) if layer is None else np.asarray(leaf[layer])
    out = np.empty(leaf.shape if layer is None else leaf.shape[1:], leaf.dtype)
    for shard in leaf.addressable_shards:
        if shard.replica_id:
            continue
        if layer is None:
            mine = out[shard.index]
            for rows in slabs(mine.shape, mine.itemsize):
                mine[rows] = jax.lax.dynamic_slice_in_dim(shard.data, rows.start, rows.stop - rows.start)
            continue
        start, stop, _ = shard.index[0].indices(leaf.shape[0])
        if start <= layer < stop:
            out[shard.index[1:]] = jax.lax.dynamic_index_in_dim(shard.data, layer - start, keepdims=False)
    return out
