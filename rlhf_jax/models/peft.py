"""Adapters in PEFT's format: ``adapter_config.json`` beside ``adapter_model.safetensors``.

PEFT keeps ``lora_A`` [r, in] and ``lora_B`` [out, r] for a matrix of a layer; ours are stacked over layers and
transposed. Where query, key and value are one matrix in the file (GPT-2, GPT-NeoX), their adapters are one of three
times the rank whose B is made of blocks: exactly the same change of the matrix. Going the other way, the three share A,
and the rows of B are dealt out.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import shutil
import uuid
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.models.config import LoRAConfig, ModelConfig
from rlhf_jax.models.families import FAMILIES
from rlhf_jax.models.hf_layout import Leaf, Place, leaves, sharing_tensors
from rlhf_jax.models.hf_save import _replace, _write_json
from rlhf_jax.models.lora import join
from rlhf_jax.models.weights import (
    FLOATS,
    CheckpointError,
    TensorInfo,
    TensorSource,
    _entries,
    _Safetensors,
    read_json,
    write_safetensors,
)
from rlhf_jax.types import Params

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_MODEL = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_HEAD = f"{_PREFIX}score.weight"
_MERGE = "merge it into its model with peft (merge_and_unload) and load that"

# Fields of adapter_config.json that are read, or say nothing about what the adapter computes. Any other that is set
# (DoRA, adapters for some layers, trainable tokens, what a later version of PEFT adds) is refused.
_KNOWN = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path bias ensure_weight_tying eva_config exclude_modules "
    "fan_in_fan_out inference_mode init_lora_weights layers_pattern lora_alpha lora_dropout megatron_core "
    "modules_to_save peft_type peft_version qalora_group_size r rank_pattern revision target_modules task_type "
    "use_rslora".split()
)
# Fields with few right values. Other ways to initialise (PiSSA, OLoRA, LoftQ) change the model below the adapter.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION", None),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}


class _Site(NamedTuple):
    """A matrix of the file, in all layers, and the kernels of ours in it: one, or query, key and value."""

    parts: tuple[Leaf, ...]

    @property
    def modules(self) -> list[str]:
        """What the file calls it in each layer."""
        return [place.tensor.removesuffix(".weight") for place in self.parts[0].places]

    @property
    def paths(self) -> list[str]:
        """What we call its parts: `blocks/attention/query`."""
        return ["/".join(leaf.path[:-1]) for leaf in self.parts]


class _Fields(NamedTuple):
    """What adapter_config.json says."""

    file: Path
    rank: int
    alpha: float
    dropout: float
    rslora: bool
    ranks: Mapping[str, Any]  # patterns of module names, and what they have in place of the above
    alphas: Mapping[str, Any]
    targets: list[str]  # names of modules, empty where a pattern says which

    def of(self, module: str) -> tuple[int, float]:
        """Rank and alpha of a module."""
        rank = self._patterned("rank_pattern", self.ranks, module, self.rank)
        return int(rank), float(self._patterned("alpha_pattern", self.alphas, module, self.alpha))

    def _patterned(self, field: str, patterns: Mapping[str, Any], module: str, default: float) -> float:
        for pattern, value in patterns.items():
            try:
                found = re.match(rf"(.*\.)?({pattern})$", module)
            except re.error as error:
                raise CheckpointError(f"{self.file}: field {field}: {pattern!r} is no pattern: {error}") from error
            if found:
                if not isinstance(value, int | float) or value <= 0:
                    raise CheckpointError(f"{self.file}: field {field}: {pattern!r} is {value!r}, not a positive number")
                return value
        return default


def save_peft(folder: str | os.PathLike[str], config: ModelConfig, params: Params, *, base: str = "") -> None:
    """Write a model's adapters, and its scalar head where it has one, so that ``peft`` loads them.

    The folder appears whole or not at all. ``PeftModel.from_pretrained(transformers_model, folder)`` then computes what
    our model does; of an 8-bit trunk up to what its rounding changed, because PEFT puts the adapters on the model as it
    was.

    Args:
        folder: an adapter that is there is replaced, anything else is left alone.
        config: the model's, with ``lora``.
        params: its weights; only adapters and head are written.
        base: name or path of the model below the adapters, which ``AutoPeftModel`` looks for.

    Raises:
        FileExistsError: something that is not an adapter is at ``folder``.
        ValueError: there are no adapters, they do not fit the config, or belong to several ensemble members.

    Example:
        >>> import tempfile
        >>> from rlhf_jax.models import add_adapters, build, split
        >>> config = ModelConfig(vocab_size=32, d_model=8, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16)
        >>> params = build(config).init(jax.random.key(0))
        >>> adapted = add_adapters(config, params, LoRAConfig(rank=2, targets="query$"), jax.random.key(1))
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     save_peft(f"{parent}/adapter", *adapted)
        ...     read_config, read_params = load_peft(f"{parent}/adapter", config, params)
        >>> read_config.lora.rank, read_config.lora.targets
        (2, '^(blocks/attention/query)$')
        >>> bool((split(read_params)[0]["blocks"]["attention"]["query"]["lora_a"] != 0).all())
        True
    """
    folder = Path(folder)
    if not config.lora.rank:
        raise ValueError("this model has no adapters; save_pretrained writes it")
    _check_replaceable(folder)
    sites = _sites(config)
    tensors: dict[str, np.ndarray] = {}
    adapted: list[tuple[_Site, int]] = []
    for site in sites:
        if not any(config.lora.adapts(path) for path in site.paths):
            continue
        pairs = [_pair(config, params, leaf, path) for leaf, path in zip(site.parts, site.paths, strict=True)]
        adapted.append((site, len(pairs)))
        for layer, module in enumerate(site.modules):
            a, b = _to_file(site.parts[0].places[layer], [(a[layer], b[layer]) for a, b in pairs])
            tensors |= {f"{_PREFIX}{module}.lora_A.weight": a, f"{_PREFIX}{module}.lora_B.weight": b}
    if config.scalar_head:
        tensors[_HEAD] = _host("head/kernel", params["head"]["kernel"], (config.d_model, 1)).T
    others = _modules(config) - {module for site, _ in adapted for module in site.modules}
    names = [_suffix(site.modules[0], others) for site, _ in adapted]
    fused = {name: parts for name, (_, parts) in zip(names, adapted, strict=True) if parts > 1}
    alpha = int(config.lora.alpha) if config.lora.alpha == int(config.lora.alpha) else config.lora.alpha
    fields = {
        "alpha_pattern": {name: parts * alpha for name, parts in fused.items()},
        "base_model_name_or_path": base or None,
        "bias": "none",
        "fan_in_fan_out": FAMILIES[config.family].matrices == "in_out",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": config.lora.dropout,
        "modules_to_save": ["score"] if config.scalar_head else None,
        "peft_type": "LORA",
        "r": config.lora.rank,
        "rank_pattern": {name: parts * config.lora.rank for name, parts in fused.items()},
        "target_modules": names,
        "task_type": "SEQ_CLS" if config.scalar_head else "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    try:
        scratch.mkdir()
        infos = {name: TensorInfo(values.shape, values.dtype.name) for name, values in tensors.items()}
        write_safetensors(scratch / ADAPTER_MODEL, infos, tensors.__getitem__)
        _write_json(scratch / ADAPTER_CONFIG, fields)
        _replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)  # gone already where all went well


def load_peft(folder: str | os.PathLike[str], config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Put an adapter that PEFT saved onto a model.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        config: of the model below, without adapters.
        params: its weights, which the result shares.

    Returns:
        The config with a ``lora`` that names exactly the matrices with adapters, and the parameters with float32
        adapters; with a scalar head where the adapter brings one.

    Raises:
        CheckpointError: a file is missing or damaged, belongs to another model, or says what cannot be represented
            here; the message names the field or the tensor.
        ValueError: the model has adapters already.
    """
    if config.lora.rank:
        raise ValueError("this model has adapters already: merge them first (models.merge)")
    folder = Path(folder)
    fields = _read_fields(folder / ADAPTER_CONFIG)
    source = _open(folder)
    infos = source.names()
    adapted = {name.rsplit(".lora_", 1)[0].removeprefix(_PREFIX) for name in infos if ".lora_" in name}
    sites = [site for site in _sites(config, {f"{m}.weight" for m in adapted}) if adapted & set(site.modules)]
    _check(source, fields, config, sites)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    shapes: dict[str, tuple[int, float]] = {}
    for site in sites:
        pairs, times = _from_file(source, fields, site)
        found |= pairs
        rank, alpha = fields.of(site.modules[0])
        # Ours is always alpha / rank; rank-stabilised LoRA divides by the root.
        scaled = alpha * math.sqrt(rank) if fields.rslora else alpha
        shapes |= dict.fromkeys(pairs, (rank // times, scaled / times))
    (first, (rank, alpha)), *rest = shapes.items()
    for path, (other_rank, other_alpha) in rest:
        if other_rank != rank or not math.isclose(other_alpha, alpha):
            field = "rank_pattern" if other_rank != rank else "alpha_pattern"
            raise CheckpointError(
                f"{fields.file}: field {field}: {first} and {path} have rank {rank} and {other_rank}, alpha {alpha:g} "
                f"and {other_alpha:g}, but here all adapters of a model have the same; {_MERGE}"
            )
    own: dict[str, Any] = {}
    for path, (a, b) in found.items():
        node = own
        for key in path.split("/"):
            node = node.setdefault(key, {})
        node |= {"lora_a": jnp.asarray(a), "lora_b": jnp.asarray(b)}
    if _HEAD in infos:
        own["head"] = {"kernel": jnp.asarray(source.read(_HEAD).astype(np.float32).T)}
    lora = LoRAConfig(
        rank=rank,
        alpha=alpha,
        targets=f"^({'|'.join(found)})$",
        dropout=fields.dropout,
        int8_trunk=config.int8,
    )
    return dataclasses.replace(config, lora=lora, scalar_head=config.scalar_head or _HEAD in infos), join(own, params)


def _sites(config: ModelConfig, names: Collection[str] = ()) -> list[_Site]:
    plain = dataclasses.replace(config, lora=LoRAConfig(), int8=False)
    kernels = [leaf for leaf in leaves(plain, names) if leaf.stacked and leaf.path[-1] == "kernel"]
    groups = [[kernels[i] for i in group] for group in sharing_tensors(kernels)]
    return [_Site(tuple(sorted(group, key=lambda leaf: leaf.places[0].part))) for group in groups]


# ---- writing --------------------------------------------------------------------------------------------------------


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else [folder.name]
    foreign = [name for name in names if name not in (ADAPTER_CONFIG, ADAPTER_MODEL, "README.md")]
    if foreign:
        raise FileExistsError(f"{folder} is not an adapter (it holds {foreign[0]}); give another folder")


def _pair(config: ModelConfig, params: Params, leaf: Leaf, path: str) -> tuple[np.ndarray, np.ndarray]:
    """A [L, in, r] and B [L, r, out] of one matrix; zeros where it has no adapter."""
    (layers, inputs, outputs), rank = leaf.shape, config.lora.rank
    a, b = (layers, inputs, rank), (layers, rank, outputs)
    if not config.lora.adapts(path):
        return np.zeros(a, np.float32), np.zeros(b, np.float32)
    node = params
    for key in leaf.path[:-1]:
        node = node[key]
    if "lora_a" not in node:
        raise ValueError(f"params lack {path}/lora_a, which lora.targets {config.lora.targets!r} asks for")
    return _host(f"{path}/lora_a", node["lora_a"], a), _host(f"{path}/lora_b", node["lora_b"], b)


def _host(name: str, leaf: Any, shape: tuple[int, ...]) -> np.ndarray:
    if tuple(leaf.shape[1:]) == shape:
        raise ValueError(f"{leaf.shape[0]} models are stacked here; save them one at a time")
    if tuple(leaf.shape) != shape:
        raise ValueError(f"params: {name} has shape {tuple(leaf.shape)}, but the config says {shape}")
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise ValueError(f"{name} lies on the devices of several processes; restore the checkpoint in one and save")
    return np.asarray(leaf)


def _to_file(place: Place, pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """lora_A and lora_B of one layer: the parts' A one below the other, and B with a block for each."""
    rank, parts = pairs[0][0].shape[1], len(pairs)
    a = np.concatenate([a.T for a, _ in pairs])
    wide = [np.pad(b, ((i * rank, (parts - 1 - i) * rank), (0, 0))) for i, (_, b) in enumerate(pairs)]
    return a, _turned(place, place.join(wide))


def _turned(place: Place, matrix: np.ndarray) -> np.ndarray:
    """lora_B, always [out, r], as the file's own matrix lies, or back."""
    return matrix.T if place.form in ("same", "thirds") else matrix


def _modules(config: ModelConfig) -> set[str]:
    """What every module with a weight is called."""
    plain = dataclasses.replace(config, lora=LoRAConfig(), int8=False)
    tensors = [place.tensor for leaf in leaves(plain) for place in leaf.places]
    return {tensor.rsplit(".", 1)[0] for tensor in tensors} | set(FAMILIES[config.family].output_names)


def _suffix(module: str, others: Collection[str]) -> str:
    """The shortest end of a module's name that no module without an adapter has: PEFT looks for ends."""
    words = module.split(".")
    ends = [".".join(words[-n:]) for n in range(1, len(words) + 1)]
    return next(end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others))


# ---- reading --------------------------------------------------------------------------------------------------------


def _read_fields(file: Path) -> _Fields:
    found = read_json(file)
    for name, value in found.items():
        if name in _ONLY and value not in _ONLY[name]:
            allowed = ", ".join(map(repr, _ONLY[name]))
            raise CheckpointError(f"{file}: field {name} is {value!r}, only {allowed} can be loaded; {_MERGE}")
        if name not in _KNOWN and value:
            raise CheckpointError(f"{file}: field {name} is set, which cannot be represented here; {_MERGE}")
    rank, alpha, dropout = found.get("r"), found.get("lora_alpha"), found.get("lora_dropout", 0.0)
    if not isinstance(rank, int) or rank < 1:
        raise CheckpointError(f"{file}: field r is {rank!r}, expected a positive whole number")
    if not isinstance(alpha, int | float) or alpha <= 0:
        raise CheckpointError(f"{file}: field lora_alpha is {alpha!r}, expected a positive number")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise CheckpointError(f"{file}: field lora_dropout is {dropout!r}, expected a number of at least 0 and below 1")
    targets = found.get("target_modules")
    # Modules that were left out are not known by the names of those that were asked for.
    listed = targets if isinstance(targets, list) and not found.get("exclude_modules") else []
    return _Fields(
        file,
        rank,
        float(alpha),
        float(dropout),
        bool(found.get("use_rslora")),
        found.get("rank_pattern") or {},
        found.get("alpha_pattern") or {},
        listed,
    )


def _open(folder: Path) -> TensorSource:
    file = folder / ADAPTER_MODEL
    if file.is_file():
        return _Safetensors(str(file), _entries(file))
    if (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder}: only adapter_model.bin is there, a pickle, which can run code when it is opened and is never "
            "read here; save it anew with peft, which writes safetensors"
        )
    raise CheckpointError(f"{file}: no such file; copy it beside {ADAPTER_CONFIG}")


def _check(source: TensorSource, fields: _Fields, config: ModelConfig, sites: list[_Site]) -> None:
    """Every tensor is one that this model has a place for, none is missing, and all shapes are right."""
    infos, where = source.names(), source.where
    expected: dict[str, tuple[int, ...]] = {}
    for site in sites:
        inputs, outputs = site.parts[0].shape[1], sum(leaf.shape[2] for leaf in site.parts)
        for module in site.modules:
            rank = fields.of(module)[0]
            if fields.of(module) != fields.of(site.modules[0]):
                raise CheckpointError(
                    f"{fields.file}: fields rank_pattern and alpha_pattern give {module} others than "
                    f"{site.modules[0]}, but here all layers have the same; {_MERGE}"
                )
            expected[f"{_PREFIX}{module}.lora_A.weight"] = (rank, inputs)
            expected[f"{_PREFIX}{module}.lora_B.weight"] = (outputs, rank)
    if _HEAD in infos:
        expected[_HEAD] = (1, config.d_model)
    for name in sorted(set(infos) - set(expected)):
        raise CheckpointError(f"{where}: tensor {name} {_why_unknown(name, config)}; {_MERGE}")
    for name in sorted(set(expected) - set(infos)):
        raise CheckpointError(
            f"{where}: tensor {name} is missing, although its matrix has an adapter elsewhere: both halves have to be "
            "there, in every layer; copy the file anew, or, if the adapter is for some layers only, " + _MERGE
        )
    for site in _sites(config, {name.removesuffix(".lora_A.weight").removeprefix(_PREFIX) for name in infos}):
        asked = [t for t in fields.targets if any(f".{module}".endswith(f".{t}") for module in site.modules)]
        if asked and site.paths not in [other.paths for other in sites]:
            raise CheckpointError(
                f"{where}: tensor {_PREFIX}{site.modules[0]}.lora_A.weight is missing, although field target_modules of "
                f"{ADAPTER_CONFIG} names {asked[0]}; copy the file anew"
            )
    if not sites:
        raise CheckpointError(f"{where}: there are no adapters in it; copy the file anew")
    for name, wanted in expected.items():
        shape, dtype = infos[name]
        if tuple(shape) != wanted:
            raise CheckpointError(
                f"{where}: tensor {name} has shape {list(shape)}, but {ADAPTER_CONFIG} and the model say "
                f"{list(wanted)}; one of them is of another model"
            )
        if dtype not in FLOATS:
            raise CheckpointError(f"{where}: tensor {name} is {dtype}, only {', '.join(FLOATS)} are read")


def _why_unknown(name: str, config: ModelConfig) -> str:
    if "lora_magnitude" in name:
        return "is DoRA's, which cannot be represented here"
    if ".lora_" in name and any(re.search(rf"layers?\.\d+\.|\bh\.\d+\.", name) for _ in (0,)):
        return f"is on a matrix that a {config.family} model with these sizes lacks"
    if ".lora_" in name:
        return "is on an embedding or an output head, which have no adapters here"
    return "is no adapter; modules that were trained whole, beside a score head, cannot be represented here"


def _from_file(
    source: TensorSource, fields: _Fields, site: _Site
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """A and B of a matrix's parts by path, and how many times their own rank the file's is."""
    a_file, b_file = (
        [source.read(f"{_PREFIX}{module}.lora_{which}.weight").astype(np.float32) for module in site.modules]
        for which in "AB"
    )
    a = np.stack([x.T for x in a_file])
    bs = [
        np.stack([place.take(_turned(place, x)) for place, x in zip(leaf.places, b_file, strict=True)])
        for leaf in site.parts
    ]
    parts, rank = len(bs), fields.of(site.modules[0])[0]
    own = [slice(i * fields.rank, (i + 1) * fields.rank) for i in range(parts)]
    blocks = parts > 1 and rank == parts * fields.rank
    if not blocks or any(np.delete(b, np.r_[rows], axis=1).any() for b, rows in zip(bs, own, strict=True)):
        return {path: (a, b) for path, b in zip(site.paths, bs, strict=True)}, 1
    pairs = {path: (a[..., rows], b[:, rows]) for path, b, rows in zip(site.paths, bs, own, strict=True)}
    # A block that is zero altogether is a part without an adapter.
    return {path: pair for path, pair in pairs.items() if pair[0].any() or pair[1].any()}, parts
