"""What people pass to the functions that use a model, looked at before anything is loaded, compiled or drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_jax.data.rows import Message, Prompt


def checked_prompts(prompts: Iterable[Any], name: str = "prompts") -> list[Prompt]:
    """Return a list of prompts as it is, if it is one.

    Args:
        prompts: texts, or chats.
        name: the argument's, for the error.

    Raises:
        TypeError: if it is a single prompt, or one of its entries is neither a text nor a chat.
        ValueError: if a chat has no turns.

    Example:
        >>> checked_prompts("hello")
        Traceback (most recent call last):
        ...
        TypeError: prompts is one text, 'hello', and would be taken for its characters: pass a list, ['hello']
    """
    found = _listed(prompts, name)
    for i, prompt in enumerate(found):
        if isinstance(prompt, Message):
            raise TypeError(f"{name} is one chat, whose turns would be taken for prompts: pass a list, [chat]")
        if isinstance(prompt, str):
            continue
        if not isinstance(prompt, list | tuple) or not all(isinstance(turn, Message) for turn in prompt):
            raise TypeError(f"{name}[{i}] is {prompt!r:.60}: expected a text, or a chat as a list of data.Message")
        if not prompt:
            raise ValueError(f"{name}[{i}] is a chat without turns: leave it out, or ask something")
    return found


def checked_texts(texts: Iterable[Any], name: str, count: int) -> list[str]:
    """Return a list of so many texts as it is, if it is one.

    Args:
        texts: the texts.
        name: the argument's, for the error.
        count: how many there should be.

    Raises:
        TypeError: if it is a single text, or one of its entries is none.
        ValueError: if there are more or fewer.
    """
    found = _listed(texts, name)
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}] is {text!r:.60}: expected a text")
    if len(found) != count:
        raise ValueError(f"{count} prompts have {len(found)} {name}: pass one for each")
    return found


def checked_count(value: Any, name: str) -> int:
    """Return a whole number of at least 1 as it is, if it is one.

    Args:
        value: the number.
        name: the argument's, for the error.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if it is below 1.

    Example:
        >>> checked_count(0, "n")
        Traceback (most recent call last):
        ...
        ValueError: n must be at least 1, found 0
    """
    try:
        number = value.__index__()
    except AttributeError:
        raise TypeError(f"{name} must be a whole number, found {value!r:.60}") from None
    if number < 1:
        raise ValueError(f"{name} must be at least 1, found {number}")
    return int(number)


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, str):
        shown = values if len(values) <= 40 else f"{values[:40]}..."
        raise TypeError(
            f"{name} is one text, {shown!r}, and would be taken for its characters: pass a list, [{shown!r}]"
        )
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r:.60}: expected a list")
    return list(values)
