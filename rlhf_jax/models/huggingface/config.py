"""From ``config.json`` of Hugging Face to ``ModelConfig``, for the families of ``families.py``.

Both spellings are read: ``rope_theta`` with ``rope_scaling`` (transformers 4) and ``rope_parameters`` (transformers 5).
A field that asks for what the network cannot do is an error, never ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlhf_jax.files import CheckpointError
from rlhf_jax.models.config import ModelConfig, RopeScaling
from rlhf_jax.models.huggingface.families import FAMILIES
from rlhf_jax.models.huggingface.family import Family

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
LAYER_TYPES = ("full_attention", "sliding_attention")
_MOST_LAYERS = 4096
_LARGEST_SIZE, _LARGEST_FLOAT = 2**31 - 1, 1e300
_DEFAULT = {field.name: field.default for field in dataclasses.fields(ModelConfig)}


def model_config(fields: Mapping[str, Any], where: str) -> ModelConfig:
    """Read which network a ``config.json`` describes.

    Args:
        fields: what config.json holds.
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
        rlhf_jax.files.CheckpointError: x/config.json: model_type 'bert' is not supported; supported are
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
        if not isinstance(kind, str) or kind not in FAMILIES:
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
        if found["n_layers"] > _MOST_LAYERS:  # which are listed one by one
            raise self.fail(family.keys["n_layers"], found["n_layers"], f"up to {_MOST_LAYERS}")
        for field in ("d_model", "n_heads"):  # by which others are divided, before the config looks at all of them
            if found[field] < 1:
                raise self.fail(family.keys[field], found[field], "1 or more")
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
        """Take the value as bool, int or float; 8.0 is no int and True no number."""
        fits = isinstance(value, bool) if kind is bool else isinstance(value, int) and not isinstance(value, bool)
        if kind is float and isinstance(value, float):
            fits = True
        if not fits:
            raise CheckpointError(f"{self.where}: {key} should be of type {kind.__name__}, found {value!r}")
        if not abs(value) <= (_LARGEST_SIZE if kind is int else _LARGEST_FLOAT):  # so written, also where it is nan
            raise self.fail(key, value, "finite numbers, and sizes below 2^31")
        return kind(value)

    def value(self, field: str, key: str) -> Any:
        """Read a field of ``ModelConfig``; 0 where ``null`` says that it follows from others, or that there is none."""
        value = self.get(key)
        if field == "activation":
            if not isinstance(value, str) or value not in ACTIVATIONS:
                raise self.fail(key, value, ", ".join(ACTIVATIONS))
            return ACTIVATIONS[value]
        if key == "query_pre_attn_scalar":
            if self.number(key, value, float) <= 0:
                raise self.fail(key, value, "numbers above 0")
            return value**-0.5
        if key == "scale_attn_weights":
            return 0.0 if self.number(key, value, bool) else 1.0
        if value is None and field in ("n_kv_heads", "head_dim", "d_ff", "logit_softcap", "attention_softcap"):
            return 0
        return self.number(key, value, type(_DEFAULT[field]))

    def windows(self, n_layers: int) -> dict[str, Any]:
        family, types = self.family, self.fields.get("layer_types")
        used = family.windows != "none"
        if family.windows == "upper":
            used = self.number("use_sliding_window", self.get("use_sliding_window"), bool)
        window = self.get("sliding_window") if used else None
        if window is not None and self.number("sliding_window", window, int) < 1:
            raise self.fail("sliding_window", window, "null, or 1 or more")
        if types is not None:
            if not isinstance(types, list) or len(types) != n_layers or any(kind not in LAYER_TYPES for kind in types):
                kinds = " or ".join(map(repr, LAYER_TYPES))
                raise self.fail("layer_types", types, f"{n_layers} entries, each {kinds}")
            local = tuple(kind == "sliding_attention" for kind in types)
        elif family.windows == "upper":
            first = self.number("max_window_layers", self.get("max_window_layers"), int)
            local = tuple(layer >= first for layer in range(n_layers))
        elif family.windows == "pattern":
            every = self.fields.get("sliding_window_pattern", family.window_pattern)
            if self.number("sliding_window_pattern", every, int) < 1:
                raise self.fail("sliding_window_pattern", every, "1 or more")
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
            "sliding_window": window,
            "local_layers": () if all(local) else local,
        }

    def rope(self, max_length: int) -> dict[str, Any]:
        family = self.family
        given = self.fields.get("rope_scaling") or self.fields.get("rope_parameters") or {}
        if not isinstance(given, dict):
            raise self.fail("rope_parameters", given, "an object")
        local: dict[str, Any] = {}
        if set(given) & set(LAYER_TYPES):
            if not family.local_rope_theta or set(given) - set(LAYER_TYPES):
                raise self.fail("rope_parameters", given, "one rotary embedding for all layers")
            given, local = (given.get(kind) or {} for kind in LAYER_TYPES)
            if not (isinstance(given, dict) and isinstance(local, dict)):
                raise self.fail("rope_parameters", [given, local], "an object for each kind of layer")
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

        def part(key: str, default: Any = None, of: type = float) -> Any:
            value = given.get(key, default)
            if value is None:
                raise CheckpointError(f"{self.where}: rope_scaling of type {kind!r} lacks {key!r}")
            return self.number(f"rope_scaling's {key}", value, of)

        if kind == "linear":
            return RopeScaling(kind="linear", factor=part("factor"))
        return RopeScaling(
            kind="llama3",
            factor=part("factor"),
            low_freq_factor=part("low_freq_factor"),
            high_freq_factor=part("high_freq_factor"),
            original_length=part("original_max_position_embeddings", max_length or None, int),
        )

    def classifies(self) -> bool:
        """Whether this is a reward model and not a language model."""
        family = self.family
        found = self.fields.get("architectures") or [family.causal]
        if not isinstance(found, list) or found[0] not in (family.causal, family.base, family.classifier):
            raise self.fail("architectures", found, f"[{family.causal!r}] or [{family.classifier!r}]")
        if found[0] != family.classifier:
            return False
        labels = self.fields.get("id2label")
        if not isinstance(labels, dict | None):
            raise self.fail("id2label", labels, "an object with one entry")
        n_labels = self.fields.get("num_labels", 2) if labels is None else len(labels)
        if n_labels != 1:
            raise self.fail("num_labels", n_labels, "1, the score of a reward model")
        return True
