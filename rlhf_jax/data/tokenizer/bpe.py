"""Training a byte-level BPE tokenizer, for models that start from nothing."""

from __future__ import annotations

from collections.abc import Iterable

from rlhf_jax.data.tokenizer.special_tokens import SPECIALS
from rlhf_jax.data.tokenizer.tokenizer import Tokenizer

SMALLEST_VOCAB = len(SPECIALS) + 256


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE; the same texts in the same order give the same tokenizer on any machine.

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
