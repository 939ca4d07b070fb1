"""From ``ModelConfig`` to ``config.json`` of Hugging Face.

Rotary positions are written as ``rope_theta`` with ``rope_scaling`` (transformers 4), because both versions read it.
What is written is read back and compared, so that no network is saved as another.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rlhf_jax.models.config import ModelConfig
from rlhf_jax.models.huggingface.config import LAYER_TYPES, model_config
from rlhf_jax.models.huggingface.families import FAMILIES
from rlhf_jax.models.huggingface.family import Family

# What a file of weights does not settle, or settles by being there: how to compute, what is added on top, and which ids
# the tokenizer has no token for.
_NOT_OF_THE_TRUNK = ("compute_dtype", "attention", "remat", "lora", "int8", "scalar_head", "tokenless")


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """Make the ``config.json`` that transformers reads as this network.

    Args:
        config: the model's.

    Returns:
        The fields, ready for JSON.

    Raises:
        ValueError: the family has no way to say what the config says; the message names the field.

    Example:
        >>> fields = hf_config(ModelConfig(vocab_size=32))
        >>> fields["architectures"], fields["hidden_size"], fields["hidden_act"]
        (['LlamaForCausalLM'], 128, 'silu')
    """
    if config.family not in FAMILIES:
        raise ValueError(f"family {config.family!r} is not one of {', '.join(FAMILIES)}")
    family = FAMILIES[config.family]
    fields: dict[str, Any] = {
        "architectures": [family.classifier if config.scalar_head else family.causal],
        "model_type": family.name,
    }
    fields |= {key: _written(config, family, field) for field, key in family.keys.items()}
    if not config.max_length:
        del fields[family.keys["max_length"]]
    fields |= _windows(config, family) | _rope(config, family)
    if config.scalar_head:
        # A regression: without that word vLLM puts a score through a sigmoid.
        fields |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
    _check_same(config, model_config(fields, family.name))
    return fields


def _written(config: ModelConfig, family: Family, field: str) -> Any:
    value, key = getattr(config, field), family.keys[field]
    if field == "activation":
        return family.activation_name if value == "gelu_tanh" else value
    if key == "query_pre_attn_scalar":
        return round(_query_scale(config) ** -2)  # transformers takes whole numbers only
    if key == "scale_attn_weights":
        return value != 1.0
    if field in ("logit_softcap", "attention_softcap"):
        return value or None
    return value


def _windows(config: ModelConfig, family: Family) -> dict[str, Any]:
    windowed = config.windowed
    types = {"layer_types": [LAYER_TYPES[local] for local in windowed]}
    window = config.sliding_window if any(windowed) else None
    match family.windows:
        case "none":
            return {}
        case "all":
            return {"sliding_window": window}
        case "pattern":
            return {"sliding_window": window or family.defaults["sliding_window"], **types}
        case "upper":
            first = windowed.index(True) if any(windowed) else config.n_layers
            used = {"use_sliding_window": window is not None, "sliding_window": window, "max_window_layers": first}
            return {**used, **types}


def _rope(config: ModelConfig, family: Family) -> dict[str, Any]:
    if config.positions == "learned":
        return {}
    scaling = config.rope_scaling
    found: dict[str, Any] = {family.rope_theta_key: config.rope_theta}
    if scaling.kind != "none":
        found["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        found["rope_scaling"] |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    if family.rope_fraction_key:
        found[family.rope_fraction_key] = config.rope_fraction
    if family.local_rope_theta:
        found["rope_local_base_freq"] = config.local_rope_theta or config.rope_theta
    return found


def _query_scale(config: ModelConfig) -> float:
    return config.query_scale or config.head_dim**-0.5


def _network(config: ModelConfig) -> dict[str, Any]:
    """Take what the config says of the trunk; fields that nothing reads, or that say the same, are made equal."""
    found = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_OF_THE_TRUNK}
    found["query_scale"] = _query_scale(config)
    found["local_layers"] = config.windowed
    local_theta = found.pop("local_rope_theta") or config.rope_theta
    # With no base of its own a windowed layer's frequencies are scaled like everybody's, with one they are not.
    scaled = config.rope_scaling.kind != "none" and not config.local_rope_theta
    found["sliding_window"] = config.sliding_window if any(config.windowed) else 0
    found["local_rope_theta"] = (local_theta, scaled) if any(config.windowed) else None
    if config.rope_scaling.kind != "llama3":
        found["rope_scaling"] = (config.rope_scaling.kind, config.rope_scaling.factor)
    if config.rope_scaling.kind == "none":
        found["rope_scaling"] = "none"
    if config.positions == "learned":
        for name in ("rope_theta", "rope_fraction", "rope_scaling", "local_rope_theta"):
            found.pop(name)
    if not config.max_length:
        found.pop("max_length")
    if config.scalar_head:
        found.pop("tie_embeddings")
    return found


def _check_same(config: ModelConfig, read_back: ModelConfig) -> None:
    """Check that what is written says the same network when it is read: what a family cannot say is found here."""
    ours, theirs = _network(config), _network(read_back)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"a checkpoint of family {config.family!r} cannot say {name} = {value!r}, it would be read as "
                f"{theirs[name]!r}; choose the family that has it"
            )
