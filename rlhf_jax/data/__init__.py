"""From files and data sets to batches of numpy arrays.

Names load on first use: reading TFDS needs tensorflow-datasets and grain, and tokenizing needs tokenizers, but packing
and JSONL need neither.
"""

from __future__ import annotations

import importlib
from typing import Any

_NAMES = {
    "bpe": ("train_tokenizer",),
    "chat": ("ChatTemplate",),
    "encode": (
        "chosen_first",
        "encode_prompts",
        "encode_rows",
        "rated_groups",
    ),
    "errors": ("DataError",),
    "gguf_tokenizer": ("write_tokenizer",),
    "huggingface": ("read_huggingface",),
    "human_sentiment": ("HumanSentiment",),
    "hutto": (
        "PROMPTS",
        "Sentence",
    ),
    "jsonl": (
        "read_jsonl",
        "write_jsonl",
    ),
    "layouts": (),  # its functions are called by its name: layouts.comparison
    "order": ("epoch_order",),
    "packing": (
        "Example",
        "pack",
        "pad",
        "plan",
    ),
    "pairs": ("parse_comparison",),
    "parse": (
        "parse_alpaca",
        "parse_demonstration",
        "parse_dialogue",
        "parse_labelled",
        "parse_prompt",
        "parse_rated",
        "parse_text",
    ),
    "preparing": ("prepared",),
    "rows": (
        "Chat",
        "Comparison",
        "Demonstration",
        "Dialogue",
        "LabelledResponse",
        "Message",
        "Prompt",
        "PromptRow",
        "RatedResponse",
        "prompt_field",
        "prompt_text",
    ),
    "tfds": ("read_tfds",),
    "tokenizer": ("Tokenizer",),
    "turns": (),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_HOME, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"rlhf_jax.data.{_HOME[name]}"), name)
    if name in _NAMES:
        return importlib.import_module(f"rlhf_jax.data.{name}")
    raise AttributeError(f"module 'rlhf_jax.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
