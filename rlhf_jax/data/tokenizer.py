"""Byte-level BPE, and the one place that knows how a prompt and a response become tokens.

``[bos] + encode(prompt) + encode(" " + response) + [eos]``: prompt and response are encoded apart, so the boundary
between them is always a boundary between tokens, and a response has the same ids whatever stands before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_jax.data.atomic import atomic_text
from rlhf_jax.data.errors import DataError

if TYPE_CHECKING:
    import tokenizers

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIALS = (PAD, BOS, EOS)
SMALLEST_VOCAB = len(SPECIALS) + 256


class Tokenizer:
    """Text to token ids and back; made by ``train_tokenizer`` or ``Tokenizer.load``.

    Any text comes back as it went in, and text that spells ``<eos>`` is encoded as these five characters: only
    ``encode_prompt`` and ``encode_response`` put special tokens anywhere.
    """

    pad_id = 0
    bos_id = 1
    eos_id = 2

    def __init__(self, backend: tokenizers.Tokenizer):
        found = tuple(backend.id_to_token(i) for i in range(len(SPECIALS)))
        if found != SPECIALS:
            raise DataError(f"tokenizer: expected the first tokens to be {SPECIALS}, found {found}; train another")
        backend.encode_special_tokens = True  # "<eos>" inside a text is text
        self._backend = backend

    @property
    def vocab_size(self) -> int:
        """How many different ids there are, the three special ones included."""
        return int(self._backend.get_vocab_size())

    def encode(self, text: str) -> np.ndarray:
        """Encodes text without any special token.

        Args:
          text: any text.

        Returns:
          int32 [n_tokens].
        """
        return np.asarray(self._backend.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_prompt(self, prompt: str) -> np.ndarray:
        """Encodes a prompt: the beginning-of-sequence token, then the text.

        Args:
          prompt: any text.

        Returns:
          int32 [1 + n_tokens].
        """
        return np.concatenate([np.asarray([self.bos_id], np.int32), self.encode(prompt)])

    def encode_response(self, response: str) -> np.ndarray:
        """Encodes a response: a space and the text, then the end-of-sequence token.

        Args:
          response: any text.

        Returns:
          int32 [n_tokens + 1].
        """
        return np.concatenate([self.encode(" " + response), np.asarray([self.eos_id], np.int32)])

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decodes token ids to text and drops special tokens.

        Args:
          ids: integers [n_tokens].

        Returns:
          The text. Bytes that are not UTF-8 (a sampler may stop inside a character) become U+FFFD.
        """
        return self._backend.decode(np.asarray(ids).tolist(), skip_special_tokens=True)

    def decode_response(self, ids: Sequence[int] | np.ndarray) -> str:
        """Decodes a response: like ``decode``, less the one space that joins it to its prompt.

        Args:
          ids: integers [n_tokens].

        Returns:
          The text.
        """
        return self.decode(ids).removeprefix(" ")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the tokenizer as one JSON file, which appears only when it is complete.

        Args:
          path: such as ``RUN/tokenizer.json``; its folder must exist.
        """
        with atomic_text(path) as file:
            file.write(self.to_json())

    def to_json(self) -> str:
        """The tokenizer as text: what ``save`` writes. Two tokenizers are the same when their texts are.

        Returns:
          A JSON document.
        """
        return self._backend.to_str(pretty=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Reads what ``save`` wrote.

        Args:
          path: the JSON file.

        Returns:
          The tokenizer.

        Raises:
          DataError: if the file is not a tokenizer of this kind.
          FileNotFoundError: if there is no file.
        """
        import tokenizers

        text = Path(path).read_text(encoding="utf-8")
        try:
            return cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the Rust side raises bare Exception for anything it cannot read
            raise DataError(f"{path}: not a tokenizer that rlhf_jax wrote ({error}); train it again") from error


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains byte-level BPE; the same texts in the same order give the same tokenizer on any machine.

    Args:
      texts: what to learn from, such as the train split and the prompts.
      vocab_size: how many ids, special tokens and the 256 bytes included. Small texts may give fewer.

    Returns:
      The tokenizer.

    Raises:
      ValueError: if ``vocab_size`` has no room for the special tokens and the bytes.

    Example:
        >>> tokenizer = train_tokenizer(["a good film", "a good book"] * 5, vocab_size=280)
        >>> ids = tokenizer.encode_response("a good day")
        >>> int(ids[-1]) == tokenizer.eos_id, tokenizer.decode_response(ids)
        (True, 'a good day')

    Source: Sennrich et al. 2016 (byte pair encoding); Radford et al. 2019, section 2.2 (on bytes).
    """
    import tokenizers

    if vocab_size < SMALLEST_VOCAB:
        raise ValueError(f"vocab_size={vocab_size}: expected at least {SMALLEST_VOCAB} (3 specials and 256 bytes)")
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # A response is encoded after a space, so its first word must be learned after one.
    backend.train_from_iterator((" " + text for text in texts), trainer)
    return Tokenizer(backend)
