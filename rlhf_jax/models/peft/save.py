"""Writing adapters so that PEFT loads them: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax.files import CheckpointError, atomic_folder, write_json
from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.huggingface.families import FAMILIES
from rlhf_jax.models.huggingface.layout import Leaf
from rlhf_jax.models.huggingface.save import TOKENIZER, SavesTokenizer
from rlhf_jax.models.peft.layout import ADAPTER_CONFIG, ADAPTER_MODEL, HEAD, PREFIX, Site, matrix_sites, to_file
from rlhf_jax.models.weights import TensorInfo, write_safetensors
from rlhf_jax.types import Params


def save_peft(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    params: Params,
    *,
    base: str = "",
    tokenizer: SavesTokenizer | None = None,
) -> None:
    """Write a model's adapters, and its scalar head where it has one, so that ``peft`` loads them.

    The folder appears whole or not at all. ``PeftModel.from_pretrained(transformers_model, folder)`` then computes what
    our model does. If the trunk is held in 8 bits, the two differ by what its rounding changed, because PEFT puts the
    adapters on the model as it was.

    Args:
        folder: where to write; an adapter that is there is replaced, anything else is left alone.
        config: the model's, with ``lora``.
        params: its weights; only adapters and head are written.
        base: name or path of the model below the adapters, which ``AutoPeftModel`` looks for.
        tokenizer: its files go beside the adapters.

    Raises:
        CheckpointError: something that is not an adapter is at ``folder``.
        ValueError: there are no adapters, they do not fit the config, or belong to several ensemble members.

    Example:
        >>> import tempfile
        >>> from rlhf_jax.models import LoRAConfig, add_adapters, build
        >>> from rlhf_jax.models.peft import load_peft
        >>> config = ModelConfig(vocab_size=32, d_model=8, n_layers=1, n_heads=2, n_kv_heads=2, head_dim=4, d_ff=16)
        >>> params = build(config).init(jax.random.key(0))
        >>> adapted = add_adapters(config, params, LoRAConfig(rank=2, targets="query$"), jax.random.key(1))
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     save_peft(f"{parent}/adapter", *adapted)
        ...     read_config, read_params = load_peft(f"{parent}/adapter", config, params)
        >>> read_config.lora.rank, read_config.lora.targets
        (2, '^(blocks/attention/query)$')
        >>> ours, theirs = (p["blocks"]["attention"]["query"]["lora_a"] for p in (adapted[1], read_params))
        >>> bool((ours == theirs).all())
        True
    """
    folder = Path(folder)
    if not config.lora.rank:
        raise ValueError("this model has no adapters; save_pretrained writes it")
    _check_replaceable(folder)
    tensors: dict[str, np.ndarray] = {}
    adapted: list[tuple[Site, int]] = []
    for site in matrix_sites(config):
        if not any(config.lora.adapts(path) for path in site.paths):
            continue
        pairs = [_pair(config, params, leaf, path) for leaf, path in zip(site.parts, site.paths, strict=True)]
        adapted.append((site, len(pairs)))
        for layer, module in enumerate(site.modules):
            a, b = to_file(site.parts[0].places[layer], [(a[layer], b[layer]) for a, b in pairs])
            tensors |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
    if config.scalar_head:
        tensors[HEAD] = _host("head/kernel", params["head"]["kernel"], (config.d_model, 1)).T
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
        "target_modules": list(dict.fromkeys(names)),
        "task_type": "SEQ_CLS" if config.scalar_head else "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    with atomic_folder(folder) as scratch:
        infos = {name: TensorInfo(values.shape, values.dtype.name) for name, values in tensors.items()}
        write_safetensors(scratch / ADAPTER_MODEL, infos, tensors.__getitem__)
        write_json(scratch / ADAPTER_CONFIG, fields, sort_keys=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)


def _check_replaceable(folder: Path) -> None:
    if not folder.exists():
        return
    names = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else [folder.name]
    ours = (ADAPTER_CONFIG, ADAPTER_MODEL, "README.md", *TOKENIZER)
    foreign = [name for name in names if name not in ours]
    if foreign or (names and ADAPTER_CONFIG not in names):
        raise CheckpointError(f"{folder} is not an adapter (it holds {(foreign or names)[0]}); give another folder")


def _pair(config: ModelConfig, params: Params, leaf: Leaf, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Take A [L, in, r] and B [L, r, out] of one matrix; zeros where it has no adapter."""
    (layers, inputs, outputs), rank = leaf.shape, config.lora.rank
    a, b = (layers, inputs, rank), (layers, rank, outputs)
    if not config.lora.adapts(path):
        return np.zeros(a, np.float32), np.zeros(b, np.float32)
    node = params
    for key in leaf.path[:-1]:
        node = node[key]
    if "lora_a" not in node:
        raise ValueError(f"params lack {path}/lora_a, which lora.targets {config.lora.targets!r} asks for")
    blocks = len(node["kernel"])
    if blocks > layers:
        raise ValueError(
            f"the model uses {layers} of its trunk's {blocks} blocks, and PEFT would use all of them: save the whole "
            "model, its adapters folded in (models.merge, save_pretrained)"
        )
    return _host(f"{path}/lora_a", node["lora_a"], a), _host(f"{path}/lora_b", node["lora_b"], b)


def _host(name: str, leaf: Any, shape: tuple[int, ...]) -> np.ndarray:
    if tuple(leaf.shape[1:]) == shape:
        raise ValueError(f"{leaf.shape[0]} models are stacked here; save them one at a time")
    if tuple(leaf.shape) != shape:
        raise ValueError(f"params: {name} has shape {tuple(leaf.shape)}, but the config says {shape}")
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        raise ValueError(f"{name} lies on the devices of several processes; restore the checkpoint in one and save")
    return np.asarray(leaf)


def _modules(config: ModelConfig) -> set[str]:
    """List the names of all modules with a weight."""
    family = FAMILIES[config.family]
    spellings = [*(family.tensor_names(module)[0] for module in family.modules), *family.output_names, "score"]
    return {spelling.format(layer=layer) for spelling in spellings for layer in range(config.n_layers)}


def _suffix(module: str, others: Collection[str]) -> str:
    """Find the shortest end of a module's name that no module without an adapter has: PEFT looks for ends."""
    words = module.split(".")
    ends = [".".join(words[-n:]) for n in range(1, len(words) + 1)]
    return next(end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others))
