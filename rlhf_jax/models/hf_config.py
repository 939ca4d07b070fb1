"""``config.json`` of Hugging Face to ``ModelConfig`` and back, for the families of ``families.py``.

Both spellings are read: ``rope_theta`` with ``rope_scaling`` (transformers 4) and ``rope_parameters`` (transformers 5).
The first is written, because both versions read it. What the network cannot do is an error, never ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.models.config import ModelConfig, RopeScaling
from rlhf_jax.models.families import FAMILIES, Family
from rlhf_jax.models.weights import CheckpointError

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
# Keys of any family that would change the network, and the values that do not.
ONLY: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None,),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
}
# In rope_scaling and rope_parameters.
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "factor", "partial_rotary_factor"}
_LLAMA3_KEYS = {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}
_LAYER_TYPES = ("full_attention", "sliding_attention")
# What a file of weights does not settle, or settles by being there: how to compute, and what is added on top.
_NOT_OF_THE_TRUNK = ("compute_dtype", "remat", "lora", "int8", "scalar_head")


def model_config(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """The network that a ``config.json`` describes.

    Args:
        fields: of config.json.
        where: its path, for messages.

    Returns:
        The config. Sequence classifiers have ``scalar_head`` and, having no output head, ``tie_embeddings``.

    Raises:
        CheckpointError: the architecture is not supported, or a field is missing, of the wrong type, or says what this
            network cannot do.

    Example:
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
        >>> model_config({"model_type": "qwen2", "vocab_size": 32, **sizes, "num_key_value_heads": 1}, "x").qkv_bias
        True
        >>> model_config({"model_type": "bert"}, "x/config.json")
        Traceback (most recent call last):
        ...
        rlhf_jax.models.weights.CheckpointError: x/config.json: model_type 'bert' is not supported; supported are
        llama, mistral, qwen2, qwen3, olmo2, gemma2, gemma3_text, gpt2, gpt_neox
    """
    return _Reader(fields, where).config()


class _Reader:
    def __init__(self, fields: Mapping[str, Any], where: str):
        self.fields, self.where = fields, where
        self.family = self._family()

    def fail(self, key: str, value: Any, supported: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {key} {value!r} is not supported; supported: {supported}")

    def _family(self) -> Family:
        kind = self.fields.get("model_type")
        if kind not in FAMILIES:
            hint = ""
            if "auto_map" in self.fields:
                hint = "; it comes with code of its own (auto_map), which is never run"
            if kind == "gemma3":
                hint = "; save its language model alone: model_type gemma3_text, Gemma3ForCausalLM"
            names = ", ".join(FAMILIES)
            raise CheckpointError(f"{self.where}: model_type {kind!r} is not supported; supported are {names}{hint}")
        return FAMILIES[kind]

    def config(self) -> ModelConfig:
        family = self.family
        for key, allowed in {**ONLY, **family.only}.items():
            value = self.fields.get(key, allowed[0])
            if value not in allowed:
                raise self.fail(key, value, " or ".join(map(repr, allowed)))
        found = dict(family.network) | {field: self.value(field, key) for field, key in family.keys.items()}
        found["n_kv_heads"] = found.get("n_kv_heads") or found["n_heads"]
        if not found.get("head_dim"):
            if found["d_model"] % found["n_heads"]:
                raise self.fail("num_attention_heads", found["n_heads"], f"divisors of the width {found['d_model']}")
            found["head_dim"] = found["d_model"] // found["n_heads"]
        found["d_ff"] = found["d_ff"] or 4 * found["d_model"]
        if family.scaled_embedding:
            found["embedding_scale"] = found["d_model"] ** 0.5
        if found.get("query_scale") == found["head_dim"] ** -0.5:
            found["query_scale"] = 0.0
        found |= self.windows(found["n_layers"])
        if found.get("positions") != "learned":
            found |= self.rope(found["max_length"])
        if self.classifies():
            found |= {"scalar_head": True, "tie_embeddings": True}
        try:
            return ModelConfig(family=family.name, **found)
        except ValueError as error:
            raise CheckpointError(f"{self.where}: {error}") from error

    def get(self, key: str) -> Any:
        if key in self.fields:
            return self.fields[key]
        if key in self.family.defaults:
            return self.family.defaults[key]
        raise CheckpointError(f"{self.where}: field {key!r} is missing; copy the checkpoint anew")

    def number(self, key: str, value: Any, kind: type) -> Any:
        """The value as bool, int or float; 8.0 is no int and True no number."""
        fits = isinstance(value, bool) if kind is bool else isinstance(value, int) and not isinstance(value, bool)
        if kind is float and isinstance(value, float):
            fits = True
        if not fits:
            raise CheckpointError(f"{self.where}: {key} should be of type {kind.__name__}, found {value!r}")
        return kind(value)

    def value(self, field: str, key: str) -> Any:
        """One field of ``ModelConfig``; 0 where ``null`` says that it follows from others, or that there is none."""
        value = self.get(key)
        if field == "activation":
            if value not in ACTIVATIONS:
                raise self.fail(key, value, ", ".join(ACTIVATIONS))
            return ACTIVATIONS[value]
        if key == "query_pre_attn_scalar":
            return self.number(key, value, float) ** -0.5
        if key == "scale_attn_weights":
            return 0.0 if self.number(key, value, bool) else 1.0
        if value is None and field in ("n_kv_heads", "head_dim", "d_ff", "logit_softcap", "attention_softcap"):
            return 0
        return self.number(key, value, type(_DEFAULT[field]))

    def windows(self, n_layers: int) -> dict[str, Any]:
        family, types = self.family, self.fields.get("layer_types")
        if family.windows == "upper" and not self.get("use_sliding_window"):
            window = None
        else:
            window = None if family.windows == "none" else self.get("sliding_window")
        if types is not None:
            if not isinstance(types, list) or len(types) != n_layers or set(types) - set(_LAYER_TYPES):
                kinds = " or ".join(map(repr, _LAYER_TYPES))
                raise self.fail("layer_types", types, f"{n_layers} entries, each {kinds}")
            local = tuple(kind == "sliding_attention" for kind in types)
        elif family.windows == "upper":
            local = tuple(layer >= self.get("max_window_layers") for layer in range(n_layers))
        elif family.windows == "pattern":
            every = self.fields.get("sliding_window_pattern", family.window_pattern)
            local = tuple((layer + 1) % every != 0 for layer in range(n_layers))
        else:
            local = (window is not None,) * n_layers
        if types is not None and any(local) and window is None:
            raise self.fail("layer_types", types, "'full_attention' alone where there is no sliding_window")
        if types is not None and family.windows == "all" and not all(local) and window is not None:
            raise self.fail("layer_types", types, "'sliding_attention' alone where there is a sliding_window")
        if window is None or not any(local):
            return {}
        return {
            "sliding_window": self.number("sliding_window", window, int),
            "local_layers": () if all(local) else local,
        }

    def rope(self, max_length: int) -> dict[str, Any]:
        family = self.family
        given = self.fields.get("rope_scaling") or self.fields.get("rope_parameters") or {}
        if not isinstance(given, dict):
            raise self.fail("rope_parameters", given, "an object")
        local: dict[str, Any] = {}
        if set(given) & set(_LAYER_TYPES):
            if not family.local_rope_theta or set(given) - set(_LAYER_TYPES):
                raise self.fail("rope_parameters", given, "one rotary embedding for all layers")
            given, local = (given.get(kind) or {} for kind in _LAYER_TYPES)
        theta = given.get("rope_theta", self.fields.get(family.rope_theta_key, family.rope_theta))
        found = {
            "rope_theta": self.number("rope_theta", theta, float),
            "rope_scaling": self.scaling(given, max_length),
            "rope_fraction": 1.0,
        }
        fraction = given.get("partial_rotary_factor", self.fields.get("partial_rotary_factor"))
        if family.rope_fraction_key:
            fraction = self.get(family.rope_fraction_key) if fraction is None else fraction
            found["rope_fraction"] = self.number(family.rope_fraction_key, fraction, float)
        elif fraction not in (None, 1):
            raise self.fail("partial_rotary_factor", fraction, "1")
        if family.local_rope_theta:
            if self.scaling(local, max_length) != RopeScaling():
                raise self.fail("rope_parameters of windowed layers", local, "rope_type 'default'")
            theta = local.get("rope_theta", self.fields.get("rope_local_base_freq", family.local_rope_theta))
            found["local_rope_theta"] = self.number("rope_local_base_freq", theta, float)
        return found

    def scaling(self, given: Mapping[str, Any], max_length: int) -> RopeScaling:
        kind = given.get("rope_type", given.get("type", "default"))
        known = _ROPE_KEYS | (_LLAMA3_KEYS if kind == "llama3" else set())
        if kind not in ("default", "linear", "llama3"):
            raise self.fail("rope_type", kind, "'default', 'linear', 'llama3'")
        # An old length stands in configs of every kind since transformers 5, and only llama3 reads it.
        unknown = set(given) - known - _LLAMA3_KEYS
        if unknown:
            raise self.fail(f"rope_scaling's {min(unknown)}", given[min(unknown)], ", ".join(sorted(known)))
        if kind == "default":
            return RopeScaling()

        def part(key: str, default: Any = None) -> float:
            value = given.get(key, default)
            if value is None:
                raise CheckpointError(f"{self.where}: rope_scaling of type {kind!r} lacks {key!r}")
            return self.number(f"rope_scaling's {key}", value, float)

        if kind == "linear":
            return RopeScaling(kind="linear", factor=part("factor"))
        return RopeScaling(
            kind="llama3",
            factor=part("factor"),
            low_freq_factor=part("low_freq_factor"),
            high_freq_factor=part("high_freq_factor"),
            original_length=int(part("original_max_position_embeddings", max_length or None)),
        )

    def classifies(self) -> bool:
        """Whether this is a reward model and not a language model."""
        family = self.family
        found = self.fields.get("architectures") or [family.causal]
        if found[0] not in (family.causal, family.base, family.classifier):
            raise self.fail("architectures", found, f"[{family.causal!r}] or [{family.classifier!r}]")
        if found[0] != family.classifier:
            return False
        labels = self.fields.get("id2label")
        n_labels = self.fields.get("num_labels", 2) if labels is None else len(labels)
        if n_labels != 1:
            raise self.fail("num_labels", n_labels, "1, the score of a reward model")
        return True


_DEFAULT = {field.name: field.default for field in dataclasses.fields(ModelConfig)}


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """The ``config.json`` that transformers reads as this network.

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
        fields |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
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
    types = {"layer_types": [_LAYER_TYPES[local] for local in windowed]}
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
    """What the config says of the trunk; fields that nothing reads, or that say the same, are made equal."""
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
    """What is written says the same network when it is read: what a family cannot say is found here."""
    ours, theirs = _network(config), _network(read_back)
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"a checkpoint of family {config.family!r} cannot say {name} = {value!r}, it would be read as "
                f"{theirs[name]!r}; choose the family that has it"
            )
