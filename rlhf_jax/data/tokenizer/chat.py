"""Tokens of a chat: the text that a chat template wrote is cut where the assistant begins and ends to speak.

A model is given the prompt alone and answers it, so the boundary between them must be a boundary between tokens. Where
it is one anyway, as in nearly every template, the ids are those of the whole text tokenised at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf_jax.data.rows import Message, Prompt, assistants
from rlhf_jax.data.tokenizer.chat_template import BREAK, ChatTemplate, Rendered, any_of
from rlhf_jax.data.tokenizer.native import decoded, encoded
from rlhf_jax.data.tokenizer.plain import continued
from rlhf_jax.data.tokenizer.special_tokens import token_id

if TYPE_CHECKING:
    import tokenizers


class ChatTokens:
    """Chats as tokens: special tokens that the template writes are special, those that a message spells are text."""

    def __init__(self, backend: tokenizers.Tokenizer, chat: ChatTemplate):
        import tokenizers

        self._text_only = backend  # takes special tokens for text
        self._backend = tokenizers.Tokenizer.from_str(backend.to_str())  # which does not
        self._chat = chat
        self._controls = re.compile(f"({any_of(chat.controls).pattern})")  # a group, so that split keeps what it finds
        self.joint = chat.joint
        if chat.joint.strip():  # tags may be special tokens, which decoding drops
            self.joint = decoded(backend, self._after(chat.opening, chat.joint))
        self.space = chat.end.removesuffix(chat.end.lstrip())
        self.eos_id = token_id(backend, chat.end.strip())

    def prompt(self, prompt: Prompt) -> np.ndarray:
        """Encode the turns so far, and open the assistant's next one.

        Args:
            prompt: the turns, or the text of one turn of the user.

        Returns:
            int32 [n_tokens].

        Raises:
            DataError: if the template refuses the turns.
        """
        turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
        return self._rendered(self._chat.prompt(turns), ())[0]

    def dialogue(self, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
        """Encode a whole chat.

        Args:
            messages: the turns.

        Returns:
            Tokens int32 [n_tokens], and bool [n_tokens]: True on the assistant's turns that stand there as they would
            be sampled, their end token included. Where none does, the prompt and the answer of the last one.

        Raises:
            DataError: if the template refuses the turns, or what the assistant said cannot be found.
        """
        rendered = self._chat.dialogue(messages)
        said = assistants(messages)
        if rendered.spoken or not said:
            return self._rendered(rendered, rendered.spoken)
        return self._apart(messages, said[-1])

    def dialogues(self, messages: Sequence[Message], learned: Collection[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode a chat as the sequences that teach the assistant's turns: the chat, and turns it shows otherwise.

        Args:
            messages: the turns.
            learned: which messages are targets, all of them the assistant's.

        Returns:
            Tokens and targets as from ``dialogue``, up to the last target. Every message of ``learned`` is a target in
            one of the sequences, after the tokens that it would be sampled from.

        Raises:
            DataError: as for ``dialogue``.
        """
        rendered = self._chat.dialogue(messages)
        together = [index for index in rendered.spoken if index in learned]
        apart = [self._apart(messages, index) for index in sorted(learned) if index not in rendered.spoken]
        if not together:
            return apart
        ids, mask = self._rendered(rendered, together)
        size = int(np.flatnonzero(mask)[-1]) + 1  # what follows the last target teaches nothing
        return [(ids[:size], mask[:size]), *apart]

    def response(self, text: str) -> np.ndarray:
        """Encode an answer and the token that ends it, as they stand after the generation prompt.

        Args:
            text: what the assistant says.

        Returns:
            int32 [n_tokens + 1].

        Raises:
            DataError: if the template refuses the answer.
        """
        return np.asarray(self._after(self._chat.opening, self._chat.answer(text)), np.int32)

    def _apart(self, messages: Sequence[Message], index: int) -> tuple[np.ndarray, np.ndarray]:
        """Encode one turn of the assistant after what it is sampled from, and nothing that follows it."""
        asked, said = self.prompt(tuple(messages[:index])), self.response(messages[index].content)
        return np.concatenate([asked, said]), np.arange(len(asked) + len(said)) >= len(asked)

    def _rendered(self, rendered: Rendered, learned: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
        text = rendered.text
        ids: list[int] = []
        mask: list[bool] = []
        context, place = "", 0
        for (start, end), index in zip(rendered.turns, rendered.spoken, strict=True):
            between = self._after(context, text[place:start])
            said = self._after(self._context(text, start), text[start:end])
            ids += between + said
            mask += [False] * len(between) + [index in learned] * len(said)
            context, place = self._context(text, end), end
        rest = self._after(context, text[place:])
        return np.asarray(ids + rest, np.int32), np.asarray(mask + [False] * len(rest), bool)

    def _context(self, text: str, place: int) -> str:
        """Take as much of the text before a place as decides what is a token after it."""
        for known in (self._chat.opening, self._chat.end):
            if known and text.endswith(known, 0, place):
                return known
        last = max((found.start() for found in self._controls.finditer(text, 0, place)), default=0)
        return text[last:place]

    def _after(self, context: str, piece: str) -> list[int]:
        """Encode text that follows other text, with a boundary between tokens where they meet."""
        known = self._encode(context)
        whole = self._encode(context + piece)
        if whole[: len(known)] == known:
            return whole[len(known) :]
        return continued(self._encode, piece)

    def _encode(self, text: str) -> list[int]:
        if BREAK not in text:
            return encoded(self._backend, text)
        ids: list[int] = []
        clean = ""
        for part in self._controls.split(text):
            if BREAK not in part:
                clean += part
                continue
            ids += encoded(self._backend, clean)
            ids += continued(self._as_text, part.replace(BREAK, ""))
            clean = ""
        return ids + encoded(self._backend, clean)

    def _as_text(self, text: str) -> list[int]:
        return encoded(self._text_only, text)
