"""From files and data sets to batches of numpy arrays.

Rows come through ``readers`` in any of the ``layouts`` and become the types of ``rows``; ``reading`` joins the three
for a ``DataConfig``, ``one_file`` for a file; ``tokenizer`` and ``encode`` make token ids of them, ``packing`` and
``batches`` a run's batches.

Names load on first use: reading TFDS needs tensorflow-datasets and grain, and tokenizing needs tokenizers, but packing
and JSONL need neither.
"""

from __future__ import annotations

import importlib
from typing import Any

from rlhf_jax.renamed import renamed

_NAMES = {
    "batches": ("PackedEpochs",),
    "config": ("DataConfig",),
    "degenerate": (),
    "encode": ("EncodedPrompt", "chosen_first", "encode_prompts", "encode_rows", "rated_groups"),
    "equal": (),
    "errors": ("DataError",),
    "human_sentiment": ("HumanSentiment",),
    "hutto": ("PROMPTS", "Sentence"),
    "layouts": (),  # its functions are called by its name: layouts.comparison
    "layouts.pairs": ("parse_comparison",),
    "layouts.parse": (
        "parse_alpaca",
        "parse_demonstration",
        "parse_dialogue",
        "parse_labelled",
        "parse_prompt",
        "parse_rated",
        "parse_text",
    ),
    "near_duplicates": (),
    "one_file": (),
    "order": ("epoch_order", "evenly"),
    "packing": ("Example", "pack", "pad", "plan"),
    "preparing": ("prepared",),
    "raters": ("LabelTable", "label_table"),
    "readers": (),
    "readers.huggingface": ("read_huggingface",),
    "readers.jsonl": ("read_jsonl", "write_jsonl"),
    "readers.tfds": ("read_tfds",),
    "reading": (),
    "rows": (
        "Chat",
        "Comparison",
        "Demonstration",
        "Dialogue",
        "LabelledResponse",
        "Message",
        "Prompt",
        "PromptRow",
        "Provenance",
        "RatedResponse",
        "prompt_field",
        "prompt_text",
    ),
    "tokenizer": ("Tokenizer",),
    "tokenizer.bpe": ("train_tokenizer",),
    "tokenizer.chat_template": ("ChatTemplate",),
    "tokenizer.gguf": ("write_tokenizer",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = [module for module in _NAMES if "." not in module]

__all__ = [*_HOME, *_MODULES]

_renamed = renamed(
    __name__,
    {
        "atomic_text": "files.atomic_text",
        "bpe": "data.tokenizer.bpe",
        "chat": "data.tokenizer.chat_template",
        "gguf_tokenizer": "data.tokenizer.gguf",
        "huggingface": "data.readers.huggingface",
        "jsonl": "data.readers.jsonl",
        "pairs": "data.layouts.pairs",
        "parse": "data.layouts.parse",
        "tfds": "data.readers.tfds",
        "turns": "data.layouts.turns",
    },
    stacklevel=3,
)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"rlhf_jax.data.{_HOME[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"rlhf_jax.data.{name}")
    return _renamed(name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
