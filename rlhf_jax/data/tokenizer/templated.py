"""Tokens of texts in which a chat template has been applied already: special tokens that they spell are special."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

import numpy as np

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.rows import Message, Prompt
from rlhf_jax.data.tokenizer.chat_template import ChatTemplate
from rlhf_jax.data.tokenizer.plain import continued


class TemplatedTokens:
    """Prompts and responses as they are, ``prompt + response``, with an end where the response has none."""

    joint = ""  # stands between a prompt and its response
    space = ""  # stands between a response and the token that ends it

    def __init__(
        self, encode: Callable[[str], list[int]], chat: ChatTemplate | None, *, first: int | None, end: tuple[str, int]
    ):
        """Take the parts.

        Args:
            encode: the function from a text to its ids, in which special tokens are special.
            chat: the template that was applied, if there is one.
            first: the id that begins every text, if any.
            end: the token that ends a response, as text and id.
        """
        self._encode, self._chat, self._first, self._end, self.eos_id = encode, chat, first, end[0], end[1]

    def prompt(self, prompt: Prompt) -> np.ndarray:
        """Encode a prompt as it is, after the token that begins every text.

        Args:
            prompt: the text, with the template applied.

        Returns:
            int32 [n_tokens], at least one.

        Raises:
            DataError: if it is a list of messages, or empty.
        """
        if not isinstance(prompt, str):
            _no_messages()
        ids = self._begun(prompt)
        if not ids:
            raise DataError("data.templated: the prompt is empty")
        return np.asarray(ids, np.int32)

    def response(self, text: str) -> np.ndarray:
        """Encode a response as it is, and end it where it does not end itself.

        Args:
            text: the response, whose end the template may have written.

        Returns:
            int32 [n_tokens].
        """
        return np.asarray(self._ended(continued(self._encode, self._cut(text)), text), np.int32)

    def text(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode a whole chat as it is; the assistant's turns are its targets, or everything where there are none.

        Args:
            text: the chat, as the template wrote it.

        Returns:
            Tokens int32 [n_tokens], and bool [n_tokens], True on the targets.
        """
        spans = [] if self._chat is None else self._chat.turns_in(text)
        if not spans:
            ids = self._ended(self._begun(self._cut(text)), text)
            return np.asarray(ids, np.int32), np.arange(len(ids)) > 0
        ids, mask, place = list[int](), list[bool](), 0
        for start, end in spans:
            asked = continued(self._encode, text[place:start]) if place else self._begun(text[:start])
            said = continued(self._encode, text[start:end])
            ids += asked + said
            mask += [False] * len(asked) + [True] * len(said)
            place = end
        return np.asarray(ids, np.int32), np.asarray(mask, bool)

    def dialogue(self, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
        """Refuse a list of messages, to which no template can have been applied."""
        _no_messages()

    def dialogues(self, messages: Sequence[Message], learned: Collection[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Refuse a list of messages, to which no template can have been applied."""
        _no_messages()

    def _begun(self, text: str) -> list[int]:
        ids = self._encode(text)
        return ids if self._first is None or ids[:1] == [self._first] else [self._first, *ids]

    def _cut(self, text: str) -> str:
        """Leave out the space that a template writes after the end of a turn."""
        return text.rstrip() if text.rstrip().endswith(self._end) else text

    def _ended(self, ids: list[int], text: str) -> list[int]:
        return ids if text.rstrip().endswith(self._end) else [*ids, self.eos_id]


def _no_messages() -> NoReturn:
    raise DataError(
        "data.templated: expected text with the chat template applied, found a list of messages, to which it will be: "
        "leave --data.templated out"
    )
