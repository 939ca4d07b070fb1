"""What GGUF files say of a model beside its tensors, as the fields of config.json that Hugging Face would have.

Some files lack a number that the network needs (Gemma's query scale). llama.cpp then finds it in its code by the number
of layers, and so does this file.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.files import CheckpointError


class Sizes(NamedTuple):
    """The sizes that a model's shapes are made of."""

    d: int  # width of the residual stream
    f: int  # width of the MLP
    v: int  # vocabulary
    p: int  # longest sequence
    h: int  # width of one head
    layers: int
    heads: int
    kv_heads: int

    def of(self, axis: str) -> int:
        """Look up the length of an axis: d, f, v, p, h are the fields; q, k, t queries, keys and all three together."""
        q, k = self.heads * self.h, self.kv_heads * self.h
        return {"d": self.d, "f": self.f, "v": self.v, "p": self.p, "h": self.h, "q": q, "k": k, "t": q + 2 * k}[axis]


class Metadata:
    """The key-value pairs of a GGUF file, with errors that name the file and the key.

    Args:
        where: the file, for errors.
        arch: the architecture, which is the first part of its keys.
        values: all pairs, without the tokenizer's long arrays.
    """

    def __init__(self, where: str, arch: str, values: dict[str, Any]):
        self.where, self.arch, self._values = where, arch, values

    def get(self, key: str, default: Any = None) -> Any:
        """Look up ``ARCH.key``, or take the default; float32 numbers come as they were written in config.json."""
        value = self._values.get(f"{self.arch}.{key}", default)
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def token(self, kind: str) -> int | None:
        """Look up the id of a special token: bos, padding, and eos, eot, eom, which end a text, a turn, a message."""
        value = self._values.get(f"tokenizer.ggml.{kind}_token_id")
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise CheckpointError(
                f"{self.where}: tokenizer.ggml.{kind}_token_id: expected a number, found {value!r:.80}"
            )
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """Look up a whole number; a list with one entry a layer must have the same one everywhere."""
        value = self.get(key, default)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise CheckpointError(f"{self.where}: {self.arch}.{key}: expected one whole number, found {value!r:.80}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Look up a number."""
        value = self.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise CheckpointError(f"{self.where}: {self.arch}.{key}: expected a finite number, found {value!r:.80}")
        return float(value)


def rope_scaling(meta: Metadata) -> dict[str, Any] | None:
    """Make Hugging Face's rope_scaling, as far as the key-value pairs say it."""
    kind = meta.get("rope.scaling.type", "none")
    factor = meta.number("rope.scaling.factor", 0.0) or meta.number("rope.scale_linear", 0.0) or 1.0
    if kind == "none":
        kind = "linear" if meta.number("rope.scale_linear", 0.0) else "none"
    if kind == "none" or (kind == "linear" and factor == 1):
        return None
    scaling = {"rope_type": kind, "factor": factor}
    original = meta.integer("rope.scaling.original_context_length", 0)
    return {**scaling, "original_max_position_embeddings": original} if original else scaling


def llama3_scaling(factors: np.ndarray, theta: float, original: int) -> dict[str, Any] | None:
    """Find the llama3 scaling whose factors, one a frequency, llama.cpp has stored as ``rope_freqs.weight``.

    ``1 / factor_i = s_i + (1 - s_i) / F``, ``s_i = clip((L / wavelength_i - low) / (high - low), 0, 1)``. The file has
    neither L nor low and high; every Llama has 8192, 1 and 4, and the factors show whether that is so.

    Args:
        factors: [head_dim / 2], what each frequency is divided by.
        theta: base of the frequencies.
        original: L, context of pretraining, tokens.

    Returns:
        Hugging Face's rope_scaling, or None where no such scaling gives these factors.

    Example:
        >>> factors = np.array([1.0, 1.0, 2.6946, 8.0], np.float32)
        >>> llama3_scaling(factors, theta=5.0e5, original=8192)["factor"]
        8.0
    """
    low, high, largest = 1.0, 4.0, float(factors.max())
    wavelength = 2 * math.pi * theta ** (np.arange(len(factors)) / len(factors))
    smooth = np.clip((original / wavelength - low) / (high - low), 0, 1)
    if not np.allclose(factors, 1 / (smooth + (1 - smooth) / largest), rtol=1e-3):
        return None
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def _common(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    return {
        "hidden_size": sizes.d,
        "intermediate_size": sizes.f,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.h,
        "max_position_embeddings": sizes.p,
        "rms_norm_eps": meta.number("attention.layer_norm_rms_epsilon", 1e-6),
        "rope_theta": meta.number("rope.freq_base", 10_000.0),
        "rope_scaling": rope_scaling(meta),
        "hidden_act": "silu",
    }


def llama_config(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    """The config of Llama, or of Mistral, which llama.cpp calls Llama too and which has a window."""
    window = meta.get("attention.sliding_window")
    if not window:
        return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], **_common(meta, sizes)}
    fields = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": window}
    return {**fields, **_common(meta, sizes)}


def qwen2_config(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    """The config of Qwen2 and Qwen2.5."""
    fields = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}
    return {**fields, **_common(meta, sizes)}


def qwen3_config(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    """The config of Qwen3."""
    fields = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "attention_bias": False}
    return {**fields, **_common(meta, sizes), "use_sliding_window": False}


def olmo2_config(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    """The config of OLMo 2; OLMo 3 has the same name in GGUF, and a sliding window."""
    if meta.get("attention.sliding_window"):
        raise CheckpointError(f"{meta.where}: OLMo 3 (olmo2 with a sliding window) is not supported; OLMo 2 is")
    fields = {"model_type": "olmo2", "architectures": ["Olmo2ForCausalLM"], "attention_bias": False}
    return {**fields, **_common(meta, sizes)}


def _gemma(meta: Metadata, sizes: Sizes, *, largest: int) -> dict[str, Any]:
    """The config of any Gemma; all but the one of ``largest`` layers (27B) scale queries by the head's width."""
    return {
        **_common(meta, sizes),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": sizes.d // sizes.heads if sizes.layers == largest else sizes.h,
        "attn_logit_softcapping": meta.get("attn_logit_softcapping"),
        "final_logit_softcapping": meta.get("final_logit_softcapping"),
    }


def _layer_types(meta: Metadata, sizes: Sizes, every: int) -> list[str]:
    """Say which layers have the window: those the file lists, or all but every n-th."""
    pattern = meta.get("attention.sliding_window_pattern", every)
    if not isinstance(pattern, list):
        pattern = max(1, meta.integer("attention.sliding_window_pattern", every))
        pattern = [(i + 1) % pattern != 0 for i in range(sizes.layers)]
    return ["sliding_attention" if windowed else "full_attention" for windowed in pattern]


def gemma2_config(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    """The config of Gemma 2: every other layer has a window."""
    return {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        **_gemma(meta, sizes, largest=46),
        "sliding_window": meta.integer("attention.sliding_window", 4096),
        "layer_types": _layer_types(meta, sizes, every=2),
    }


def gemma3_config(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    """The config of Gemma 3's text model: five layers of six have a window, with rotary frequencies of their own."""
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        **_gemma(meta, sizes, largest=62),
        "rope_theta": meta.number("rope.freq_base", 1_000_000.0),
        "rope_local_base_freq": meta.number("rope.freq_base_swa", 10_000.0),
        "sliding_window": meta.integer("attention.sliding_window"),
        "layer_types": _layer_types(meta, sizes, every=6),
    }


def gpt2_config(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    """The config of GPT-2."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": sizes.d,
        "n_layer": sizes.layers,
        "n_head": sizes.heads,
        "n_positions": sizes.p,
        "n_inner": sizes.f,
        "layer_norm_epsilon": meta.number("attention.layer_norm_epsilon", 1e-5),
        "activation_function": "gelu_new",
    }


def gptneox_config(meta: Metadata, sizes: Sizes) -> dict[str, Any]:
    """The config of GPT-NeoX and Pythia."""
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": sizes.d,
        "intermediate_size": sizes.f,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "max_position_embeddings": sizes.p,
        "layer_norm_eps": meta.number("attention.layer_norm_epsilon", 1e-5),
        "rotary_pct": meta.integer("rope.dimension_count", sizes.h) / sizes.h,
        "rotary_emb_base": meta.number("rope.freq_base", 10_000.0),
        "use_parallel_residual": bool(meta.get("use_parallel_residual", True)),
        "hidden_act": "gelu",
        "attention_bias": True,
    }
