"""How long texts are: in the tokens of a run's or a model's tokenizer where there is one, else in characters."""

from __future__ import annotations

from typing import Any

from rlhf_jax.data import Tokenizer
from rlhf_jax.data.encode import encode_all
from rlhf_jax.data.rows import PromptRow, RatedResponse, texts_of


class Lengths:
    """What measures texts and rows, each text once.

    Args:
        tokenizer: counts tokens; None counts characters.
    """

    def __init__(self, tokenizer: Tokenizer | None = None):
        self._tokenizer = tokenizer
        self._known: dict[str, int] = {}

    @property
    def unit(self) -> str:
        """The unit, "characters" or "tokens"."""
        return "characters" if self._tokenizer is None else "tokens"

    def of(self, text: str) -> float:
        """Measure one text.

        Args:
            text: any text.
        """
        if self._tokenizer is None:
            return len(text)
        if text not in self._known:
            self._known[text] = len(self._tokenizer.encode(text))
        return self._known[text]

    def of_row(self, row: Any) -> float:
        """Measure a row: its longest sequence as it would be trained on, or all of its characters.

        Args:
            row: one of the types of ``data.rows``.

        Raises:
            DataError: if a chat template refuses the row.
        """
        if self._tokenizer is None:
            texts = texts_of(row)
            return sum(map(len, texts))
        if isinstance(row, PromptRow):
            return len(self._tokenizer.encode_prompt(row.prompt))
        if isinstance(row, RatedResponse):
            asked = len(self._tokenizer.encode_prompt(row.prompt))
            return asked + len(self._tokenizer.encode_response(row.response))
        return max(len(tokens) for example in encode_all(row, self._tokenizer) for tokens in example.tokens)
