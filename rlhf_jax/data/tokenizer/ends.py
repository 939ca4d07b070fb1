"""Which tokens and texts end a response: a checkpoint may name several, and any of them is an end.

The one that ends every response which is trained on is the tokenizer's ``eos_id``. The others are those of
``generation_config.json``, where transformers looks, or where it names none those of ``config.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_jax.data.errors import DataError

if TYPE_CHECKING:
    import tokenizers

FILES = ("generation_config.json", "config.json")
KEY = "rlhf_jax_ends"  # in our tokenizer_config.json: the ends as texts
STOPS_KEY = "rlhf_jax_stops"  # and the texts that end a response, whichever tokens write them


def ends_beside(path: Path, fields: Mapping[str, Mapping[str, Any]], backend: tokenizers.Tokenizer) -> tuple[str, ...]:
    """Find the tokens that the files beside a tokenizer call an end.

    Args:
        path: the file ``tokenizer.json``, for errors.
        fields: what ``generation_config.json``, ``config.json`` and ``tokenizer_config.json`` hold, by name.
        backend: the vocabulary; an id that it lacks is never drawn, and ends nothing.

    Returns:
        Their texts, in the order of the files, each once.

    Raises:
        DataError: if a field is no id and no list of ids.
    """
    own, file = fields["tokenizer_config.json"].get(KEY, []), path.with_name("tokenizer_config.json")
    if not isinstance(own, list) or not all(isinstance(text, str) for text in own):
        raise DataError(f"{file}: {KEY}: expected a list of tokens, found {own!r:.60}")
    named = next((name for name in FILES if fields[name].get("eos_token_id") is not None), "")
    ids = token_ids(fields[named]["eos_token_id"], path.with_name(named)) if named else []
    texts = (backend.id_to_token(number) for number in ids if 0 <= number < 2**32)
    return tuple(dict.fromkeys([*own, *(text for text in texts if text)]))


def stops_beside(path: Path, fields: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Find the texts that the files beside a tokenizer say end a response: ``stop_strings``, one or a list.

    Args:
        path: the file ``tokenizer.json``, for errors.
        fields: as for ``ends_beside``.

    Raises:
        DataError: if a field is no text and no list of texts, or a text is empty.
    """
    found: list[str] = []
    for name, key in (("tokenizer_config.json", STOPS_KEY), (FILES[0], "stop_strings")):
        value = fields[name].get(key)
        texts = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) and text for text in texts):
            raise DataError(f"{path.with_name(name)}: {key}: expected a text or a list of texts, found {value!r:.60}")
        found += texts
    return tuple(dict.fromkeys(found))


def token_ids(value: Any, where: Path) -> list[int]:
    """Read an ``eos_token_id``: one id, or a list of them.

    Args:
        value: what the file has.
        where: the file, for the error.

    Raises:
        DataError: if it is something else.

    Example:
        >>> token_ids(2, Path("config.json")), token_ids([2, 7], Path("config.json"))
        ([2], [2, 7])
    """
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in ids):
        raise DataError(f"{where}: eos_token_id: expected a token's id or a list of ids, found {value!r:.60}")
    return ids


def added(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> list[str]:
    """Keep those tokens that stand beside the vocabulary's words; a word that ends a text is a word elsewhere.

    Args:
        backend: the vocabulary.
        texts: tokens.
    """
    beside = {token.content for token in backend.get_added_tokens_decoder().values()}
    return [text for text in texts if text in beside]
