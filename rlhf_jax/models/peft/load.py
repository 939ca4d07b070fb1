"""Reading adapters that PEFT saved: what is wrong with them is found before any of them is put onto a model."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlhf_jax.files import CheckpointError
from rlhf_jax.models.config import LoRAConfig, ModelConfig
from rlhf_jax.models.lora import join
from rlhf_jax.models.peft.layout import ADAPTER_CONFIG, ADAPTER_MODEL, HEAD, PREFIX, Site, matrix_sites, part_of_b
from rlhf_jax.models.weights import FLOATS, TensorSource, read_object, safetensors_file
from rlhf_jax.types import Params

_MERGE = "merge it into its model with peft (merge_and_unload) and load that"

# Fields of adapter_config.json that are read, or say nothing about what the adapter computes. Any other that is set
# (DoRA, adapters for some layers, trainable tokens, what a later version of PEFT adds) is refused.
_KNOWN = frozenset(
    """alpha_pattern auto_mapping base_model_name_or_path bias ensure_weight_tying eva_config exclude_modules
    fan_in_fan_out inference_mode init_lora_weights layers_pattern lora_alpha lora_dropout megatron_core modules_to_save
    peft_type peft_version qalora_group_size r rank_pattern revision target_modules task_type use_rslora""".split()  # noqa: SIM905
)
# What a pattern may be made of. Others can take longer than anybody waits to be looked for, and this one is foreign.
_PATTERN = re.compile(r"\^?(?:\.\*|[\w.-]|\\\.|\\d\+?|\[[\d-]+\]\+?|\((?:[\w|-]|\\\.)+\))*\$?")
_LARGEST = 2**20  # for ranks and alphas
# Fields with few right values. Other ways to initialise (PiSSA, OLoRA, LoftQ) change the model below the adapter.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", "SEQ_CLS", "FEATURE_EXTRACTION", None),
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}


class _Fields(NamedTuple):
    """What adapter_config.json says."""

    file: Path
    rank: int
    alpha: float
    dropout: float
    rslora: bool
    ranks: Mapping[str, float]  # patterns of module names, and what these have in place of the above
    alphas: Mapping[str, float]
    targets: Sequence[str]  # names of modules; empty where a pattern says which

    def of(self, module: str) -> tuple[int, float]:
        """Look up rank and alpha of a module."""
        found = [
            next((value for end, value in patterns.items() if re.match(rf"(.*\.)?({end})$", module)), default)
            for patterns, default in ((self.ranks, self.rank), (self.alphas, self.alpha))
        ]
        return int(found[0]), float(found[1])


class _Adapters(NamedTuple):
    """Adapters of parts of one matrix, by our paths: A [L, in, r] and B [L, r, out]."""

    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    rank: int
    alpha: float


def load_peft(folder: str | os.PathLike[str], config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Put an adapter that PEFT saved onto a model.

    Args:
        folder: where ``adapter_config.json`` and ``adapter_model.safetensors`` are.
        config: the config of the model below, without adapters.
        params: its weights, which the result shares.

    Returns:
        The config with a ``lora`` that names exactly the matrices with adapters, and the parameters with float32
        adapters. Both have a scalar head where the adapter brings one.

    Raises:
        CheckpointError: a file is missing or damaged, belongs to another model, or says what cannot be represented
            here; the message names the field or the tensor.
        ValueError: the model has adapters already.

    Example:
        See ``save_peft``.
    """
    if config.lora.rank:
        raise ValueError("this model has adapters already: merge them first (models.merge)")
    fields = _read_fields(Path(folder) / ADAPTER_CONFIG)
    source = _open(Path(folder))
    names = source.names()
    adapted = {name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in names if ".lora_" in name}
    sites = matrix_sites(config, adapted)
    there = [site for site in sites if adapted & set(site.modules)]
    _check(source, fields, config, there)
    _check_targets(source, fields, sites, adapted)
    read = [_read(source, fields, site) for site in there]
    rank, alpha = _common(fields, read)
    own: dict[str, Any] = {}
    for path, (a, b) in ((path, pair) for adapters in read for path, pair in adapters.pairs.items()):
        node = own
        for key in path.split("/"):
            node = node.setdefault(key, {})
        node |= {"lora_a": jnp.asarray(a), "lora_b": jnp.asarray(b)}
    if HEAD in names:
        own["head"] = {"kernel": jnp.asarray(source.read(HEAD).astype(np.float32).T)}
    targets = "|".join(path for adapters in read for path in adapters.pairs)
    lora = LoRAConfig(rank=rank, alpha=alpha, targets=f"^({targets})$", dropout=fields.dropout, int8_trunk=config.int8)
    return dataclasses.replace(config, lora=lora, scalar_head=config.scalar_head or HEAD in names), join(own, params)


def _open(folder: Path) -> TensorSource:
    file = folder / ADAPTER_MODEL
    if file.is_file():
        return safetensors_file(file)
    if (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder}: only adapter_model.bin is there, a pickle, which can run code when it is opened and is never "
            "read here; save it anew with peft, which writes safetensors"
        )
    raise CheckpointError(f"{file}: no such file; copy it beside {ADAPTER_CONFIG}")


def _read_fields(file: Path) -> _Fields:
    found = read_object(file)
    for name, value in found.items():
        if name in _ONLY and value not in _ONLY[name]:
            allowed = ", ".join(map(repr, _ONLY[name]))
            raise CheckpointError(f"{file}: field {name} is {value!r}, only {allowed} can be loaded; {_MERGE}")
        if name not in _KNOWN and value:
            raise CheckpointError(f"{file}: field {name} is set, which cannot be represented here; {_MERGE}")
    if "peft_type" not in found:
        raise CheckpointError(f"{file}: field peft_type is missing; this is not the config of an adapter")
    dropout, targets = found.get("lora_dropout", 0.0), found.get("target_modules")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise CheckpointError(f"{file}: field lora_dropout is {dropout!r}, expected a number of at least 0 and below 1")
    return _Fields(
        file,
        int(_positive(file, "r", found.get("r"))),
        _positive(file, "lora_alpha", found.get("lora_alpha")),
        float(dropout),
        bool(found.get("use_rslora")),
        _patterns(file, "rank_pattern", found.get("rank_pattern")),
        _patterns(file, "alpha_pattern", found.get("alpha_pattern")),
        # Where modules were left out, the names of those that were asked for do not say which are there.
        targets if isinstance(targets, list) and not found.get("exclude_modules") else [],
    )


def _positive(file: Path, field: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 < value <= _LARGEST or isinstance(value, bool):
        raise CheckpointError(f"{file}: field {field} is {value!r:.80}, expected a positive number up to {_LARGEST:,}")
    return float(value)


def _patterns(file: Path, field: str, value: Any) -> dict[str, float]:
    patterns = value or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{file}: field {field} is {value!r}, expected an object")
    for pattern in patterns:
        if len(pattern) > 500 or pattern.count("*") > 2 or not _PATTERN.fullmatch(pattern):
            raise CheckpointError(
                f"{file}: field {field}: {pattern!r:.80} is no pattern that is followed; names, \\., \\d+, [0-9]+, "
                "(a|b) and up to two .* are: write the names of the modules"
            )
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckpointError(f"{file}: field {field}: {pattern!r} is no pattern: {error}") from error
    return {pattern: _positive(file, f"{field}.{pattern}", number) for pattern, number in patterns.items()}


def _check(source: TensorSource, fields: _Fields, config: ModelConfig, there: Sequence[Site]) -> None:
    """Check that every tensor has a place in this model, none is missing, and all have the right shape."""
    names, where = source.names(), source.where
    expected: dict[str, tuple[int, ...]] = {HEAD: (1, config.d_model)} if HEAD in names else {}
    for site in there:
        inputs, outputs = site.parts[0].shape[1], sum(leaf.shape[2] for leaf in site.parts)
        rank, _ = common = fields.of(site.modules[0])
        for module in site.modules:
            if fields.of(module) != common:
                raise CheckpointError(
                    f"{fields.file}: field rank_pattern or alpha_pattern has others for {module} than for "
                    f"{site.modules[0]}, but here all layers have the same; {_MERGE}"
                )
            expected[f"{PREFIX}{module}.lora_A.weight"] = (rank, inputs)
            expected[f"{PREFIX}{module}.lora_B.weight"] = (outputs, rank)
    for name in sorted(set(names) - set(expected)):
        raise CheckpointError(f"{where}: tensor {name} {_why_unknown(name, config)}; {_MERGE}")
    for name in sorted(set(expected) - set(names)):
        raise CheckpointError(
            f"{where}: tensor {name} is missing: an adapter has both halves, in every layer; copy the file anew, or, "
            f"if the adapter is for some layers only, {_MERGE}"
        )
    for name, wanted in expected.items():
        if tuple(names[name].shape) != wanted:
            raise CheckpointError(
                f"{where}: tensor {name} has shape {list(names[name].shape)}, but {ADAPTER_CONFIG} and the model say "
                f"{list(wanted)}; one of them is of another model"
            )
        if names[name].dtype not in FLOATS:
            raise CheckpointError(f"{where}: tensor {name} is {names[name].dtype}, only {', '.join(FLOATS)} are read")


def _why_unknown(name: str, config: ModelConfig) -> str:
    if "lora_magnitude" in name:
        return "is of DoRA, which cannot be represented here"
    if ".lora_" not in name:
        return "is no adapter, and of modules that were trained whole only a score head can be represented here"
    if re.search(r"\.\d+\.", name):
        return f"is on a matrix that a {config.family} model with these sizes lacks"
    return "is on an embedding or an output head, which have no adapters here"


def _check_targets(source: TensorSource, fields: _Fields, sites: Sequence[Site], adapted: set[str]) -> None:
    """Check that the file has everything that the config asks for and this model has."""
    for module in (module for site in sites for module in site.modules if module not in adapted):
        for target in fields.targets:
            if f".{module}".endswith(f".{target}"):
                raise CheckpointError(
                    f"{source.where}: tensor {PREFIX}{module}.lora_A.weight is missing, although field target_modules "
                    f"of {ADAPTER_CONFIG} names {target}; copy the file anew"
                )
    if not adapted:
        raise CheckpointError(f"{source.where}: there is no adapter in it; copy the file anew")


def _read(source: TensorSource, fields: _Fields, site: Site) -> _Adapters:
    """Read the adapters of one matrix; one made of blocks, as ``save_peft`` writes fused ones, is taken apart."""
    rank, alpha = fields.of(site.modules[0])
    # Ours is always alpha / rank; rank-stabilised LoRA divides by the root.
    alpha = alpha * math.sqrt(rank) if fields.rslora else alpha
    a, all_b = (
        [source.read(f"{PREFIX}{module}.lora_{half}.weight").astype(np.float32) for module in site.modules]
        for half in "AB"
    )
    stacked = np.stack([x.T for x in a])
    pairs = {
        path: (stacked, np.stack([part_of_b(place, x) for place, x in zip(leaf.places, all_b, strict=True)]))
        for path, leaf in zip(site.paths, site.parts, strict=True)
    }
    if len(pairs) == 1 or rank != len(pairs) * fields.rank:
        return _Adapters(pairs, rank, alpha)
    rows = {path: slice(i * fields.rank, (i + 1) * fields.rank) for i, path in enumerate(pairs)}
    if any(np.delete(b, rows[path], axis=1).any() for path, (_, b) in pairs.items()):
        return _Adapters(pairs, rank, alpha)
    own = {path: (a[..., rows[path]], b[:, rows[path]]) for path, (a, b) in pairs.items()}
    # A block that is all zero belongs to a part without an adapter.
    own = {path: (a, b) for path, (a, b) in own.items() if a.any() or b.any()}
    return _Adapters(own, fields.rank, alpha / len(pairs))


def _common(fields: _Fields, read: Sequence[_Adapters]) -> tuple[int, float]:
    """Find one rank and alpha for all adapters."""
    first = read[0]
    for other in read[1:]:
        if other.rank != first.rank or not math.isclose(other.alpha, first.alpha):
            field = "rank_pattern" if other.rank != first.rank else "alpha_pattern"
            raise CheckpointError(
                f"{fields.file}: field {field}: {next(iter(first.pairs))} and {next(iter(other.pairs))} have ranks "
                f"{first.rank} and {other.rank}, alphas {first.alpha:g} and {other.alpha:g}, but here all adapters of "
                f"a model have the same; {_MERGE}"
            )
    return first.rank, first.alpha
