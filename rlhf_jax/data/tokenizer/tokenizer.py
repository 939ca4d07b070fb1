"""Text, prompts, responses and chats to token ids and back, by a tokenizer trained here or a pretrained model's own.

A response has the same ids whatever prompt stands before it, so the boundary between them is always a boundary between
tokens. In the plain format it is ``[bos] + encode(prompt) + encode(" " + response) + [eos]``; in the chat format the
model's own template says what stands around them.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import os
import re
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_jax.data.errors import DataError
from rlhf_jax.data.rows import Message, Prompt, assistants
from rlhf_jax.data.tokenizer.chat import ChatTokens
from rlhf_jax.data.tokenizer.chat_template import ChatTemplate, any_of
from rlhf_jax.data.tokenizer.ends import added
from rlhf_jax.data.tokenizer.files import as_json, read_tokenizer, write_folder
from rlhf_jax.data.tokenizer.native import decoded, encoded, native
from rlhf_jax.data.tokenizer.plain import PlainTokens
from rlhf_jax.data.tokenizer.special_tokens import (
    FORMATS,
    OURS,
    SPECIALS,
    SpecialTokens,
    chat_template,
    mark_special,
    token_id,
)
from rlhf_jax.data.tokenizer.templated import TemplatedTokens
from rlhf_jax.data.tokenizer.token_bytes import token_bytes
from rlhf_jax.files import atomic_text

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """Text to token ids and back; made by ``train_tokenizer`` or ``Tokenizer.load``.

    Text that spells a special token is encoded as these characters: only ``encode_prompt``, ``encode_response`` and
    ``encode_dialogue`` put special tokens anywhere. A tokenizer trained here gives any text back as it went in.
    """

    pad_id: int
    """Id of the padding token, or where there is none, of the token that ends a text: masks are explicit."""
    bos_id: int | None
    """Id of the token that begins a text; None where there is none."""
    eos_id: int
    """Id of the token that ends a response; in the chat format, the one that ends the assistant's turn."""
    end_ids: tuple[int, ...]
    """Ids that end a response which is sampled: ``eos_id`` first, then the end-of-sequence token and those that a
    pretrained model's ``generation_config.json`` names."""
    stops: tuple[str, ...]
    """Texts that end one, whichever tokens write them: those that this file names."""
    vocab_size: int
    """One more than the largest id."""
    chat: ChatTemplate | None
    """The chat template; None where there is none."""
    format: str
    """How prompts and responses are written: "plain" or "chat"."""

    _writer: PlainTokens | ChatTokens | TemplatedTokens

    def __init__(self, backend: tokenizers.Tokenizer, special: SpecialTokens = OURS):
        if special == OURS:
            found = tuple(backend.id_to_token(i) for i in range(len(SPECIALS)))
            if found != SPECIALS:
                raise DataError(f"tokenizer: expected the first tokens to be {SPECIALS}, found {found}; train another")
            backend.post_processor = None  # that of an exported one adds <bos>, as encode_prompt does
        ids = {name: token_id(backend, text) for name, text in special.tokens.items()}
        self.stops = special.stops
        self._ends = [token_id(backend, text) for text in special.ends]
        mark_special(backend, added(backend, special.ends))
        self.chat = chat_template(backend, special)
        mark_special(backend, special.tokens.values())
        backend.encode_special_tokens = True  # "<eos>" inside a text is text
        self._backend, self._special = backend, special
        eos_id = ids["eos_token"]
        self.bos_id = ids.get("bos_token")
        self.pad_id = ids.get("pad_token", eos_id)
        self.vocab_size = max(backend.get_vocab().values()) + 1
        self._plain = PlainTokens(
            self._ids,
            first=self.bos_id if special.adds_bos else None,
            eos_id=eos_id,
            otherwise=eos_id if self.bos_id is None else self.bos_id,
        )
        self._set_format(special.format)

    def with_format(self, format: str) -> Tokenizer:
        """Make the same tokenizer with another format for prompts and responses.

        Args:
            format: "plain" for text as it is, "chat" for turns as the model's chat template writes them.

        Returns:
            A tokenizer; this one stays as it is.

        Raises:
            ValueError: if the format is neither, or "chat" without a chat template.
        """
        other = copy.copy(self)
        other._set_format(format)
        return other

    def templated(self) -> Tokenizer:
        """Make the same tokenizer for texts in which the chat template has been applied already.

        Returns:
            A tokenizer for which special tokens that a text spells are special, and that adds nothing but a first and
            a last token where a text has none; this one stays as it is.
        """
        import tokenizers

        special = tokenizers.Tokenizer.from_str(self._backend.to_str())
        special.post_processor = None
        other = copy.copy(self)
        other._writer = TemplatedTokens(
            functools.partial(encoded, special),
            self.chat,
            first=self.bos_id if self._special.adds_bos else None,
            end=(self._backend.id_to_token(self.eos_id) or "", self.eos_id),
        )
        return other

    def spells(self, text: str) -> str:
        """Find a special token that a text spells, as one does in which a chat template has been applied already.

        Args:
            text: what a row holds.

        Returns:
            The token; empty where there is none.
        """
        found = self._spelled.search(text)
        return found[0] if found else ""

    @functools.cached_property
    def _spelled(self) -> re.Pattern[str]:
        special = [token.content for token in self._backend.get_added_tokens_decoder().values() if token.special]
        return any_of([text for text in special if len(text) > 2])  # a sign of one or two characters is text

    def with_padding_apart(self) -> Tokenizer:
        """Make the same tokenizer with a padding token that ends nothing.

        Here masks are explicit, and padding may be the token that ends a text. Sequence classifiers of transformers
        look for the last token that is not padding, and would overlook the end of every text.

        Returns:
            A tokenizer that pads with its beginning-of-sequence token, or else with another special token; this one
            where it pads with such a token already.

        Raises:
            DataError: if every special token ends something.
        """
        ends = {self._plain.eos_id, *self.end_ids}
        if self.pad_id not in ends:
            return self
        named = [text for name, text in self._special.tokens.items() if name in ("bos_token", "unk_token")]
        special = [
            token.content for _, token in sorted(self._backend.get_added_tokens_decoder().items()) if token.special
        ]
        apart = [text for text in (*named, *special) if token_id(self._backend, text) not in ends]
        if not apart:
            raise DataError(
                "this tokenizer has no special token to pad with but those that end a text: add a pad token"
            )
        return Tokenizer(self._backend, self._special._replace(tokens={**self._special.tokens, "pad_token": apart[0]}))

    def _set_format(self, format: str) -> None:
        _check_format(format, self.chat is not None)
        self.format = format
        self._special = self._special._replace(format=format)
        self._writer = self._chat_writer if format == "chat" else self._plain
        self.eos_id = self._writer.eos_id
        self.end_ids = tuple(dict.fromkeys((self.eos_id, self._plain.eos_id, *self._ends)))

    def with_ends(self, ids: Sequence[int], stops: Sequence[str] = ()) -> Tokenizer:
        """Make the same tokenizer with more that ends a response.

        Args:
            ids: tokens' ids; one that the vocabulary lacks ends nothing.
            stops: texts.

        Returns:
            A tokenizer; this one stays as it is.
        """
        texts = [self._backend.id_to_token(number) for number in ids if 0 <= number < self.vocab_size]
        ends = dict.fromkeys([*self._special.ends, *(text for text in texts if text)])
        every = tuple(dict.fromkeys([*self.stops, *stops]))
        return Tokenizer(self._backend, self._special._replace(ends=tuple(ends), stops=every))

    def missing(self, vocab_size: int) -> tuple[tuple[int, int], ...]:
        """List the ids below a model's vocabulary size that no token has, as ranges [first, last + 1).

        Args:
            vocab_size: how many ids the model has.

        Returns:
            The ranges in order; empty where every id has a token.
        """
        known = {number for number in self._backend.get_vocab(with_added_tokens=True).values() if number < vocab_size}
        edges = [-1, *sorted(known), vocab_size]
        return tuple((a + 1, b) for a, b in itertools.pairwise(edges) if b > a + 1)

    def writes_like(self, other: Tokenizer) -> bool:
        """Whether both make the same tokens of every prompt and response; padding, and other ends, may differ."""
        return self._writing() == other._writing()

    def _writing(self) -> tuple[object, ...]:
        fields, special = json.loads(self._backend.to_str()), self._special
        added = sorted((token["id"], token["content"]) for token in fields["added_tokens"])
        cut = tuple(fields[name] for name in ("normalizer", "pre_tokenizer", "model"))
        named = [special.tokens.get(name) for name in ("bos_token", "eos_token")]  # which a chat template may write
        return (*cut, added, named, special.adds_bos, special.format, special.template, self.bos_id, self.eos_id)

    @functools.cached_property
    def _chat_writer(self) -> ChatTokens:
        assert self.chat is not None
        return ChatTokens(self._backend, self.chat)

    def encode(self, text: str) -> np.ndarray:
        """Encode text without any special token.

        Args:
            text: any text.

        Returns:
            int32 [n_tokens].
        """
        return np.asarray(self._ids(text), np.int32)

    def encode_prompt(self, prompt: Prompt) -> np.ndarray:
        """Encode a prompt, ready to be answered.

        Args:
            prompt: a text, which in the chat format is one turn of the user; or the turns so far.

        Returns:
            int32 [n_tokens], at least one. In the plain format: the beginning-of-sequence token, where the tokenizer
            puts one or there is nothing else, and the text. In the chat format: what the template writes, with
            the assistant's turn opened.

        Raises:
            DataError: if the template refuses the turns.
        """
        return self._writer.prompt(prompt)

    def encode_response(self, response: str) -> np.ndarray:
        """Encode a response: in the plain format a space and the text, then the token that ends it.

        Args:
            response: any text.

        Returns:
            int32 [n_tokens + 1]. In the chat format, what the template makes of the text after its generation prompt.

        Raises:
            DataError: if the template refuses the response.
        """
        return self._writer.response(response)

    def encode_text(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Encode text that answers nothing, such as a page of a book, as it is, and end it.

        Args:
            text: any text.

        Returns:
            Tokens int32 [n_tokens], and bool [n_tokens], True on the targets: all tokens but the first, which is the
            beginning-of-sequence token where there is one that is no part of a turn. In a text with the chat template
            applied (``templated``), the assistant's turns.
        """
        if isinstance(self._writer, TemplatedTokens):
            return self._writer.text(text)
        ids = [*([] if self._first is None else [self._first]), *self._ids(text), self._plain.eos_id]
        return np.asarray(ids, np.int32), np.arange(len(ids)) > 0

    @functools.cached_property
    def _first(self) -> int | None:
        """The id that begins a text which answers nothing; some templates begin every turn with what they call bos."""
        if self._special.adds_bos or self.bos_id is None or self.chat is None:
            return self.bos_id
        bos = self._special.tokens["bos_token"]
        try:
            text = self.chat.render([Message("user", "a")], add_generation_prompt=True)
        except DataError:
            return None
        return self.bos_id if text.startswith(bos) and text.count(bos) == 1 else None

    def encode_dialogue(self, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
        """Encode a whole chat, in which every turn of the assistant is a target.

        Args:
            messages: the turns.

        Returns:
            Tokens int32 [n_tokens], and bool [n_tokens]: True on the text of the assistant's turns and on the token
            that ends each, False elsewhere. A turn that the template shows otherwise than it would be sampled (earlier
            turns without their reasoning) is no target here; ``encode_turns`` teaches it as well.

        Raises:
            DataError: if the template refuses the turns, or what the assistant said cannot be found.
        """
        return self._writer.dialogue(messages)

    def encode_turns(
        self, messages: Sequence[Message], learned: Collection[int] | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Encode a chat as the sequences that teach the assistant's turns, each just as it would be sampled.

        Args:
            messages: the turns.
            learned: which messages are targets, all of them the assistant's; every one of the assistant's if None.

        Returns:
            Tokens and targets as from ``encode_dialogue``: one sequence for the chat up to the last target, and one
            more for each turn that the template shows otherwise in it, with what it is sampled from before it.

        Raises:
            DataError: if the template refuses the turns, or what the assistant said cannot be found.
        """
        return self._writer.dialogues(messages, assistants(messages) if learned is None else learned)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decode token ids to text, and drop special tokens.

        Args:
            ids: integers [n_tokens].

        Returns:
            The text. Bytes that are not UTF-8 (a sampler may stop inside a character) become U+FFFD.
        """
        return decoded(self._backend, np.asarray(ids).tolist())

    def decode_response(self, ids: Sequence[int] | np.ndarray, stop: Sequence[str] = ()) -> str:
        """Decode a response: like ``decode``, without what joins it to its prompt or to its end, such as a space.

        Args:
            ids: integers [n_tokens].
            stop: texts that end a response: what comes before the first of them is decoded.

        Returns:
            The text.
        """
        # After another token, since some tokenizers take a space off the beginning of any text.
        before = self._ids("a")
        known = self.decode(before)
        said = np.asarray(ids).tolist()
        said = said[:-1] if said and said[-1] in self.end_ids else said  # an end may be a word, which would be shown
        text = self.decode([*before, *said]).removeprefix(known)
        text = text[: min((text.index(end) for end in stop if end in text), default=len(text))]
        joint = self._writer.joint
        if len(text) < len(joint) and joint.startswith(text):
            return ""  # it has just begun
        return text.removeprefix(joint).removesuffix(self._writer.space)

    @functools.cached_property
    def token_bytes(self) -> list[bytes]:
        """What each token writes after other text, by id; a special token writes its own name."""
        return token_bytes(self._backend, self._ids("a"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as one JSON file, which appears only when it is complete.

        Args:
            path: such as ``RUN/tokenizer.json``; its folder must exist.
        """
        with atomic_text(path) as file:
            file.write(self.to_json())

    def to_json(self) -> str:
        """Write the tokenizer as text, as ``save`` does.

        Two tokenizers are the same when their texts are.

        Returns:
            A JSON document that the ``tokenizers`` package reads. For a tokenizer that was not trained here it also
            holds, under "rlhf_jax", the special tokens' names, the chat template and the format.
        """
        return as_json(self._backend, self._special)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that transformers' ``AutoTokenizer`` loads, and ``Tokenizer.load`` too.

        Args:
            folder: where to write; made if it is not there.
        """
        write_folder(folder, self._backend, self._special)

    @classmethod
    def load(cls, path: str | os.PathLike[str], format: str | None = None) -> Tokenizer:
        """Read a tokenizer: what ``save`` or ``save_pretrained`` wrote, or that of a Hugging Face model.

        Args:
            path: a folder with ``tokenizer.json``, or this file. Beside a file that ``save`` did not write,
                ``tokenizer_config.json`` and its like say what else there is to know.
            format: "plain" or "chat"; if None the one it was saved with, or else "chat" where there is a chat template.

        Returns:
            The tokenizer.

        Raises:
            DataError: if a file is not what it should be, or the chat template cannot be used.
            FileNotFoundError: if there is no file.
            ValueError: if the format is "chat" and there is no chat template.
        """
        path, backend, special = read_tokenizer(path)
        if format is not None:
            _check_format(format, special.template is not None)
        try:
            with native("tokenizer"):
                return cls(backend, special if format is None else special._replace(format=format))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Tokenizer:
        """Make the tokenizer that ``to_json`` wrote as text.

        Args:
            text: a JSON document.

        Raises:
            DataError: if it is something else.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "tokenizer.json"
            file.write_text(text, encoding="utf-8")
            return cls.load(file)

    def _ids(self, text: str) -> list[int]:
        return encoded(self._backend, text)


def _check_format(format: str, has_template: bool) -> None:
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: expected one of {', '.join(FORMATS)}")
    if format == "chat" and not has_template:
        raise ValueError(
            "format='chat': this tokenizer has no chat template; put one beside it as chat_template.jinja, start "
            "from a model that has one, or take format='plain'"
        )
