"""GGUF files (llama.cpp's): their config and their tensors, under the names and in the layout of Hugging Face.

Opening a file reads none of its tensors, and finds everything that can be wrong with names, types and shapes. Reading
one tensor allocates that tensor in float32 and a few rows more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from rlhf_jax.files import CheckpointError
from rlhf_jax.gguf_file import PLAIN, key_values, open_gguf
from rlhf_jax.models.gguf.configs import Metadata, Sizes, llama3_scaling
from rlhf_jax.models.gguf.layouts import LAYOUTS, GGUFPlace
from rlhf_jax.models.weights import TensorInfo

ROPE_FACTORS = "rope_freqs.weight"
_MOST_LAYERS = 4096  # which are listed one by one
_SLAB = 1 << 18  # numbers that are dequantised at once


def read_gguf(path: str | os.PathLike[str]) -> tuple[dict[str, Any], GGUFSource]:
    """Open a GGUF file: the config.json that its model would have, and its tensors.

    Args:
        path: the file.

    Returns:
        The fields of config.json, and a source of tensors with Hugging Face's names and layout.

    Raises:
        CheckpointError: when the file is cut short or is not GGUF, when its architecture or the type of a tensor is
            not supported, and when a tensor is unknown or has the wrong shape. It names the file and the tensor.
        FileNotFoundError: when there is no file.
    """
    where = os.fspath(path)
    reader = open_gguf(where)
    # Vocabularies are for the tokenizer, and unpacking them takes seconds.
    pairs = key_values(reader, where, longest=10_000)
    arch = pairs.get("general.architecture")
    if not isinstance(arch, str) or arch not in LAYOUTS:
        raise CheckpointError(
            f"{where}: architecture {arch!r} is not supported; supported are {', '.join(sorted(LAYOUTS))}"
        )
    _whole_and_dense(where, arch, pairs)
    meta, layout = Metadata(where, arch, pairs), LAYOUTS[arch]
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    sizes = _sizes(meta, tensors)
    config = layout.config(meta, sizes)
    places = _places(where, layout.places, sizes, tensors)
    if ROPE_FACTORS in tensors and "rope_scaling" in config and config["rope_scaling"] is None:
        config["rope_scaling"] = _stored_scaling(meta, tensors[ROPE_FACTORS], config["rope_theta"])
    if arch == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in tensors
    named = (meta.token(kind) for kind in ("eos", "eot", "eom"))
    ends = list(dict.fromkeys(end for end in named if end is not None))
    config |= {
        "vocab_size": sizes.v,
        "tie_word_embeddings": "output.weight" not in tensors,
        "bos_token_id": meta.token("bos"),
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": meta.token("padding"),
    }
    return config, GGUFSource(where, places, sizes)


class _Found(NamedTuple):
    place: GGUFPlace
    tensor: Any  # gguf.ReaderTensor, mapped, not read
    info: TensorInfo


class GGUFSource:
    """The tensors of one GGUF file; ``read_gguf`` makes it.

    Args:
        where: the file.
        found: the tensors by Hugging Face's name, each with what is to be undone.
        sizes: the model's.
    """

    def __init__(self, where: str, found: Mapping[str, _Found], sizes: Sizes):
        self.where, self._found, self._sizes = where, found, sizes

    def names(self) -> Mapping[str, TensorInfo]:
        """List every tensor's shape and type, without reading any."""
        return {name: found.info for name, found in self._found.items()}

    def read(self, name: str) -> np.ndarray:
        """Read one tensor, dequantised, as Hugging Face has it.

        Args:
            name: one of ``names()``.

        Returns:
            An array of its own, of the shape and type that ``names()`` says.
        """
        place, tensor, info = self._found[name]
        rows = place.rows(self._sizes) if place.rows else slice(None)
        array = _dequantise(tensor, np.dtype(info.dtype), rows)
        if place.offset:
            array -= np.asarray(place.offset, array.dtype)
        return np.ascontiguousarray(array.T) if place.transposed else array


def _dequantise(tensor: Any, dtype: np.dtype, rows: np.ndarray | slice) -> np.ndarray:
    """Unpack a tensor into its final place, a few rows at a time and its rows in the given order."""
    import gguf

    data = tensor.data
    if tensor.tensor_type.name == "BF16":
        data = data.view(ml_dtypes.bfloat16)
    if tensor.tensor_type.name in PLAIN:
        return np.array(data[rows], dtype)
    out = np.empty(_shape(tensor), dtype)
    order = np.arange(len(data))[rows]
    step = max(1, _SLAB * len(out) // out.size)
    for i in range(0, len(out), step):
        out[i : i + step] = gguf.quants.dequantize(data[order[i : i + step]], tensor.tensor_type)
    return out


def _shape(tensor: Any) -> tuple[int, ...]:
    """Reverse the axes: GGUF counts them from the fastest one."""
    return tuple(int(n) for n in reversed(tensor.shape))


# ---- what can be wrong with a file --------------------------------------------------------------------------------


def _whole_and_dense(where: str, arch: str, pairs: Mapping[str, Any]) -> None:
    if pairs.get("split.count", 1) not in (0, 1):
        raise CheckpointError(
            f"{where}: one of {pairs['split.count']!r} parts; join them with llama.cpp's `llama-gguf-split --merge`"
        )
    if pairs.get(f"{arch}.expert_count", 0):
        raise CheckpointError(f"{where}: mixtures of experts are not supported")


def _sizes(meta: Metadata, tensors: Mapping[str, Any]) -> Sizes:
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise CheckpointError(f"{meta.where}: expected a matrix token_embd.weight, found {sorted(tensors)[:5]} ...")
    width, heads = meta.integer("embedding_length"), meta.integer("attention.head_count")
    if not heads or (width % heads and meta.get("attention.key_length") is None):
        raise CheckpointError(f"{meta.where}: {heads} heads do not divide a width of {width}")
    head = meta.integer("attention.key_length", width // heads)
    layers = meta.integer("block_count")
    if not head or layers > _MOST_LAYERS:
        raise CheckpointError(f"{meta.where}: heads of width {head} in {layers} layers, of at most {_MOST_LAYERS}")
    if meta.integer("attention.value_length", head) != head:
        raise CheckpointError(f"{meta.where}: keys and values of different widths are not supported")
    return Sizes(
        d=width,
        f=meta.integer("feed_forward_length"),
        v=meta.integer("vocab_size", _shape(embedding)[0]),
        p=meta.integer("context_length"),
        h=head,
        layers=layers,
        heads=heads,
        kv_heads=meta.integer("attention.head_count_kv", heads),
    )


def _places(where: str, places: Iterable[GGUFPlace], sizes: Sizes, tensors: Mapping[str, Any]) -> dict[str, _Found]:
    """Find every tensor of the file by Hugging Face's name, known and of the right shape."""
    known = {place.gguf: place for place in places}
    found = {}
    for name, tensor in tensors.items():
        if name == ROPE_FACTORS:
            continue
        match = re.fullmatch(r"(?:blk\.(\d{1,9})\.)?(\w+)\.(weight|bias)", name)
        layer, stem, suffix = match.groups() if match else (None, "", "")
        place = known.get(f"blk.{{}}.{stem}" if layer else stem)
        if place is None or (layer and int(layer) >= sizes.layers):
            raise CheckpointError(f"{where}: {name}: no such tensor in this architecture with {sizes.layers} layers")
        axes = place.axes if suffix == "weight" else place.axes[0]
        expected, shape = tuple(sizes.of(axis) for axis in axes), _shape(tensor)
        if shape != expected:
            raise CheckpointError(f"{where}: {name}: expected shape {expected} by the metadata, found {shape}")
        dtype = PLAIN.get(tensor.tensor_type.name, "float32")
        transposed = place.transposed and suffix == "weight"
        shifted = place.offset and suffix == "weight"
        info = TensorInfo(shape[::-1] if transposed else shape, "float32" if shifted else dtype)
        here = place._replace(transposed=transposed, offset=place.offset if shifted else 0.0)
        found[f"{place.name.format(layer)}.{suffix}"] = _Found(here, tensor, info)
    return found


def _stored_scaling(meta: Metadata, tensor: Any, theta: float) -> dict[str, Any] | None:
    if tensor.tensor_type.name != "F32" or len(tensor.shape) != 1 or not tensor.data.size:
        raise CheckpointError(f"{meta.where}: {ROPE_FACTORS}: expected a list of float32 numbers")
    factors = np.asarray(tensor.data, np.float32)
    if not (np.isfinite(factors).all() and factors.min() > 0 and theta > 0):
        raise CheckpointError(f"{meta.where}: {ROPE_FACTORS}: expected factors above 0, for a base above 0")
    if np.all(factors == 1):
        return None
    original = meta.integer("rope.scaling.original_context_length", 8192)
    scaling = llama3_scaling(factors, theta, original)
    if scaling is None:
        raise CheckpointError(f"{meta.where}: {ROPE_FACTORS}: not Llama 3's scaling, the only one that is known")
    return scaling
