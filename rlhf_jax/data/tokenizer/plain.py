"""Tokens of prompts, responses and chats without a chat template: text as it is, ended by the end-of-sequence token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from rlhf_jax.data.rows import ANSWER, Message, Prompt, plain_turn


class PlainTokens:
    """``[bos] + text`` for a prompt, ``" " + text + [eos]`` for a response.

    A chat is written as in hh-rlhf: ``\\n\\nHuman: ...\\n\\nAssistant:``, every answer being a response of its own.
    """

    joint = " "  # stands between a prompt and its response
    space = ""  # stands between a response and the token that ends it

    def __init__(self, encode: Callable[[str], list[int]], *, first: int | None, eos_id: int, otherwise: int):
        """Take the parts.

        Args:
            encode: the function from a text on its own to its ids, without special tokens.
            first: the id that begins every prompt, if any.
            eos_id: the id of the token that ends a response.
            otherwise: the id that begins a prompt which would else be empty, so that a response has something before
                it.
        """
        self._encode, self._first, self._otherwise, self.eos_id = encode, first, otherwise, eos_id

    def prompt(self, prompt: Prompt) -> np.ndarray:
        """Encode a prompt; in a chat, the assistant's next turn is opened.

        Args:
            prompt: a text, or the turns so far.

        Returns:
            int32 [n_tokens], at least one.
        """
        if isinstance(prompt, str):
            return np.asarray(self._begin(prompt), np.int32)
        return self._turns([*prompt, None])[0]

    def response(self, text: str) -> np.ndarray:
        """Encode a response.

        Args:
            text: what the response says.

        Returns:
            int32 [n_tokens + 1].
        """
        return np.asarray([*continued(self._encode, self.joint + text), self.eos_id], np.int32)

    def dialogue(self, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
        """Encode a whole chat.

        Args:
            messages: the turns.

        Returns:
            Tokens int32 [n_tokens], and bool [n_tokens]: True on the assistant's turns, their end token included.
        """
        return self._turns(messages)

    def dialogues(self, messages: Sequence[Message], learned: Collection[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode a chat as the sequences that teach some of the assistant's turns: here there is one.

        Args:
            messages: the turns.
            learned: which messages are targets, all of them the assistant's.

        Returns:
            Tokens and targets as from ``dialogue``, up to the last target.
        """
        return [self._turns(messages[: max(learned) + 1], learned)] if learned else []

    def _begin(self, text: str) -> list[int]:
        ids = [] if self._first is None else [self._first]
        return [*ids, *self._encode(text)] or [self._otherwise]

    def _turns(
        self, messages: Sequence[Message | None], learned: Collection[int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encode turns; ``None`` stands for a turn of the assistant that is only opened."""
        ids: list[int] = []
        mask: list[bool] = []
        text = ""
        for index, message in enumerate(messages):
            said = message is not None and message.role == "assistant"
            text += ANSWER if message is None or said else plain_turn(message, first=index == 0)
            if not said and index < len(messages) - 1:
                continue
            asked = continued(self._encode, text) if ids else self._begin(text)
            answer = self.response(message.content).tolist() if message is not None and said else []
            ids += asked + answer
            mask += [False] * len(asked) + [learned is None or index in learned] * len(answer)
            text = ""
        return np.asarray(ids, np.int32), np.asarray(mask, bool)


def continued(encode: Callable[[str], list[int]], text: str) -> list[int]:
    """Encode text that goes on after other text, without the space that some tokenizers put before any text.

    Args:
        encode: the function from a text on its own to its ids.
        text: what follows.

    Returns:
        Its ids.

    Example:
        >>> continued(lambda text: [ord(c) for c in text], "ab")
        [97, 98]
        >>> continued(lambda text: [ord(c) for c in "_" + text], "ab")
        [97, 98]
    """
    if encode("\na") == encode("\n") + encode("a"):
        return encode(text)
    for before in ("\n", "a"):  # the text may merge with one of them, not with both
        known, whole = encode(before), encode(before + text)
        if whole[: len(known)] == known:
            return whole[len(known) :]
    return encode(text)
