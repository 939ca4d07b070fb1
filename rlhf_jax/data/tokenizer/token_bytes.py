"""The bytes that each token writes: what is looked at to find a text in tokens that may cut it anywhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

_ONE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BROKEN = "\ufffd"  # what a part of a character is decoded to


def token_bytes(backend: tokenizers.Tokenizer, before: list[int]) -> list[bytes]:
    """List what each token writes after other text.

    Args:
        backend: a tokenizer.
        before: ids of some text that every token is decoded after, since some tokenizers take a space off the
            beginning of any text.

    Returns:
        The bytes of token 0, 1, ...; those of a special token are its name, such as ``<|im_end|>``, although decoding
        drops it. An id without a token writes nothing.
    """
    names = {i: name for name, i in backend.get_vocab(with_added_tokens=True).items()}
    size = max(names) + 1
    known = backend.decode(before, skip_special_tokens=False)
    texts = backend.decode_batch([[*before, i] for i in range(size)], skip_special_tokens=False)
    letters = _letters()

    def written(i: int, text: str) -> bytes:
        name = names.get(i)
        if name is None:
            return b""
        said = text.removeprefix(known)
        if _BROKEN not in said:
            return said.encode()
        byte = _ONE_BYTE.fullmatch(name)
        if byte:
            return bytes([int(byte[1], 16)])
        return bytes(letters[c] for c in name) if all(c in letters for c in name) else said.encode()

    return [written(i, text) for i, text in enumerate(texts)]


def _letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for (Radford et al. 2019).

    Printable bytes stand for themselves, and the others, in order, are the letters from U+0100 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
