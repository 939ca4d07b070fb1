"""What the tensors of each architecture are called in GGUF, and how they lie there.

GGUF's names are llama.cpp's. Its converter also moves rows, transposes matrices and shifts norms: this file says where,
and ``read`` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.models.gguf import configs as configs
from rlhf_jax.models.gguf.configs import Metadata, Sizes

RowOrder = Callable[[Sizes], np.ndarray]


class GGUFPlace(NamedTuple):
    """Where a tensor of a GGUF file belongs: ``blk.{}.attn_q`` is the place of ``blk.3.attn_q.weight``.

    ``axes`` are those of the weight as the file has it, output first; a bias has the first one.
    """

    gguf: str
    name: str
    axes: str
    rows: RowOrder | None = None  # row i of Hugging Face's is row order[i] of the file's
    transposed: bool = False
    offset: float = 0.0  # the file holds the number plus this


def interleaved(heads: Callable[[Sizes], int]) -> RowOrder:
    """Order the rows of rotated heads, which llama.cpp and Hugging Face pair in different ways.

    llama.cpp turns neighbouring rows of a head together, Hugging Face a row of the first half with one of the second.

    Example:
        >>> sizes = Sizes(d=8, f=16, v=4, p=32, h=8, layers=1, heads=1, kv_heads=1)
        >>> interleaved(lambda s: s.heads)(sizes).tolist()
        [0, 2, 4, 6, 1, 3, 5, 7]
    """

    def order(sizes: Sizes) -> np.ndarray:
        n = heads(sizes)
        return np.arange(n * sizes.h).reshape(n, sizes.h // 2, 2).swapaxes(1, 2).ravel()

    return order


def by_head(sizes: Sizes) -> np.ndarray:
    """Order the rows of a fused matrix head by head.

    llama.cpp has all queries, then all keys, then all values; GPT-NeoX has the three of one head together.
    """
    return np.arange(3 * sizes.heads * sizes.h).reshape(3, sizes.heads, sizes.h).swapaxes(0, 1).ravel()


_LAYER, _BLOCK = "model.layers.{}", "blk.{}"


def _blocks(*rows: GGUFPlace) -> tuple[GGUFPlace, ...]:
    return tuple(row._replace(gguf=f"{_BLOCK}.{row.gguf}", name=f"{_LAYER}.{row.name}") for row in rows)


_ENDS = (
    GGUFPlace("token_embd", "model.embed_tokens", "vd"),
    GGUFPlace("output", "lm_head", "vd"),
    GGUFPlace("output_norm", "model.norm", "d"),
)
_MLP = _blocks(
    GGUFPlace("attn_v", "self_attn.v_proj", "kd"),
    GGUFPlace("attn_output", "self_attn.o_proj", "dq"),
    GGUFPlace("ffn_gate", "mlp.gate_proj", "fd"),
    GGUFPlace("ffn_up", "mlp.up_proj", "fd"),
    GGUFPlace("ffn_down", "mlp.down_proj", "df"),
)
_QK = _blocks(GGUFPlace("attn_q", "self_attn.q_proj", "qd"), GGUFPlace("attn_k", "self_attn.k_proj", "kd"))
_LLAMA_QK = (
    _QK[0]._replace(rows=interleaved(lambda s: s.heads)),
    _QK[1]._replace(rows=interleaved(lambda s: s.kv_heads)),
)
_PRE_NORMS = _blocks(
    GGUFPlace("attn_norm", "input_layernorm", "d"), GGUFPlace("ffn_norm", "post_attention_layernorm", "d")
)
_HEAD_NORMS = _blocks(
    GGUFPlace("attn_q_norm", "self_attn.q_norm", "h"), GGUFPlace("attn_k_norm", "self_attn.k_norm", "h")
)
_POST_NORMS = _blocks(
    GGUFPlace("post_attention_norm", "post_attention_layernorm", "d"),
    GGUFPlace("post_ffw_norm", "post_feedforward_layernorm", "d"),
)
_GEMMA_NORMS = _blocks(
    GGUFPlace("attn_norm", "input_layernorm", "d"), GGUFPlace("ffn_norm", "pre_feedforward_layernorm", "d")
)


def _plus_one(places: Sequence[GGUFPlace]) -> tuple[GGUFPlace, ...]:
    """Shift the norms: Gemma stores their scales around 0, llama.cpp around 1."""
    return tuple(place._replace(offset=1.0) if place.name.endswith("norm") else place for place in places)


LLAMA = (*_ENDS, *_LLAMA_QK, *_MLP, *_PRE_NORMS)
QWEN2 = (*_ENDS, *_QK, *_MLP, *_PRE_NORMS)
QWEN3 = (*QWEN2, *_HEAD_NORMS)
GEMMA2 = _plus_one((*_ENDS, *_QK, *_MLP, *_GEMMA_NORMS, *_POST_NORMS))
GEMMA3 = (*GEMMA2, *_plus_one(_HEAD_NORMS))
OLMO2 = (
    *_ENDS,
    *_QK,
    *_MLP,
    *_POST_NORMS,
    *_blocks(GGUFPlace("attn_q_norm", "self_attn.q_norm", "q"), GGUFPlace("attn_k_norm", "self_attn.k_norm", "k")),
)
GPT2 = (
    GGUFPlace("token_embd", "transformer.wte", "vd"),
    GGUFPlace("position_embd", "transformer.wpe", "pd"),
    GGUFPlace("output", "lm_head", "vd"),
    GGUFPlace("output_norm", "transformer.ln_f", "d"),
    GGUFPlace("blk.{}.attn_norm", "transformer.h.{}.ln_1", "d"),
    GGUFPlace("blk.{}.attn_qkv", "transformer.h.{}.attn.c_attn", "td", transposed=True),
    GGUFPlace("blk.{}.attn_output", "transformer.h.{}.attn.c_proj", "dq", transposed=True),
    GGUFPlace("blk.{}.ffn_norm", "transformer.h.{}.ln_2", "d"),
    GGUFPlace("blk.{}.ffn_up", "transformer.h.{}.mlp.c_fc", "fd", transposed=True),
    GGUFPlace("blk.{}.ffn_down", "transformer.h.{}.mlp.c_proj", "df", transposed=True),
)
GPTNEOX = (
    GGUFPlace("token_embd", "gpt_neox.embed_in", "vd"),
    GGUFPlace("output", "embed_out", "vd"),
    GGUFPlace("output_norm", "gpt_neox.final_layer_norm", "d"),
    GGUFPlace("blk.{}.attn_norm", "gpt_neox.layers.{}.input_layernorm", "d"),
    GGUFPlace("blk.{}.attn_qkv", "gpt_neox.layers.{}.attention.query_key_value", "td", rows=by_head),
    GGUFPlace("blk.{}.attn_output", "gpt_neox.layers.{}.attention.dense", "dq"),
    GGUFPlace("blk.{}.ffn_norm", "gpt_neox.layers.{}.post_attention_layernorm", "d"),
    GGUFPlace("blk.{}.ffn_up", "gpt_neox.layers.{}.mlp.dense_h_to_4h", "fd"),
    GGUFPlace("blk.{}.ffn_down", "gpt_neox.layers.{}.mlp.dense_4h_to_h", "df"),
)


class GGUFLayout(NamedTuple):
    """One architecture: how its config is read and where its tensors belong."""

    config: Callable[[Metadata, Sizes], dict[str, Any]]
    places: tuple[GGUFPlace, ...]


LAYOUTS = {
    "llama": GGUFLayout(configs.llama_config, LLAMA),
    "qwen2": GGUFLayout(configs.qwen2_config, QWEN2),
    "qwen3": GGUFLayout(configs.qwen3_config, QWEN3),
    "gemma2": GGUFLayout(configs.gemma2_config, GEMMA2),
    "gemma3": GGUFLayout(configs.gemma3_config, GEMMA3),
    "olmo2": GGUFLayout(configs.olmo2_config, OLMO2),
    "gpt2": GGUFLayout(configs.gpt2_config, GPT2),
    "gptneox": GGUFLayout(configs.gptneox_config, GPTNEOX),
}
