"""What a config's annotations promise: every field is looked at where the config is made, and refused by its name.

A command line turns words into the right types; whoever writes Python may pass anything, and nan and infinity are
numbers to both. Every config calls ``check_fields`` before it looks at the meaning of its values.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST = 2**53  # whole numbers that a JSON file, which a run's config is written to, keeps for every reader


def check_fields(config: Any) -> None:
    """Refuse values that the annotations of a dataclass do not allow.

    Paths become text where text is wanted, numpy's numbers Python's, and lists tuples: what is written to a run's
    config.json is then what was meant. Numbers have to be finite.

    Args:
        config: an instance of a dataclass, frozen or not.

    Raises:
        ValueError: a value does not fit; the message names the field and says what it takes.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Rate:
        ...     rate: float = 0.1
        ...     def __post_init__(self):
        ...         check_fields(self)
        >>> Rate(rate=np.float32(0.5)).rate, Rate(rate=2).rate
        (0.5, 2)
        >>> Rate(rate="fast")
        Traceback (most recent call last):
        ...
        ValueError: rate must be a number, found 'fast' (str)
    """
    of: Any = type(config)
    for name, kind in _kinds(of).items():
        value = vars(config)[name]
        found = fitted(name, value, kind)
        if found is not value:
            object.__setattr__(config, name, found)


@functools.cache
def _kinds(of: Any) -> dict[str, Any]:
    """Read the annotations of a dataclass's fields, once."""
    hints = typing.get_type_hints(of)
    return {field.name: hints[field.name] for field in dataclasses.fields(of)}


def fitted(name: str, value: Any, kind: Any) -> Any:
    """Return a value as its annotation has it.

    Args:
        name: what messages call it.
        value: what was given.
        kind: the annotation: a class, ``Literal``, a union, ``tuple[T, ...]`` or ``dict[str, T]``; others take all.

    Raises:
        ValueError: the value does not fit.

    Example:
        >>> from pathlib import Path
        >>> fitted("out", Path("runs/mine"), str), fitted("stop", ["a", "b"], tuple[str, ...])
        ('runs/mine', ('a', 'b'))
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in inner or type(value) not in {type(one) for one in inner}:
            allowed = " or ".join(", ".join(map(str, inner)).rsplit(", ", 1))
            raise ValueError(f"{name} must be {allowed}, found {value!r:.80}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(name, value, inner)
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a tuple, found {_shown(value)}")
        made = tuple(fitted(f"{name}[{i}]", one, inner[0]) for i, one in enumerate(value))
        return value if isinstance(value, tuple) and all(a is b for a, b in zip(made, value, strict=True)) else made
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a dict from names to values, found {_shown(value)}")
        made_of = {fitted(f"a key of {name}", key, inner[0]): _entry(name, key, one) for key, one in value.items()}
        return value if type(value) is dict and all(made_of[key] is one for key, one in value.items()) else made_of
    return _plain(name, value, kind) if isinstance(kind, type) else value


def _one_of(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """Fit a value to one kind of a union; the message is that of the first that is not ``None``."""
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others[1:]:
        try:
            return fitted(name, value, kind)
        except ValueError:
            continue  # the first kind says what is wanted
    return fitted(name, value, others[0])


def _entry(name: str, key: Any, value: Any) -> Any:
    """Fit a value of a dict, which may be a switch or a word where its annotation says number; its reader knows."""
    if isinstance(value, bool | str):
        return value
    return _plain(f"{name}[{key!r}]", value, float)


def _plain(name: str, value: Any, kind: type) -> Any:
    """Fit a value to a class."""
    if kind is bool:
        if isinstance(value, bool | np.bool_):
            return value if isinstance(value, bool) else bool(value)
        raise ValueError(f"{name} must be True or False, found {_shown(value)}")
    if kind is int:
        if isinstance(value, int | np.integer) and not isinstance(value, bool):
            if abs(int(value)) > LARGEST:
                raise ValueError(f"{name} must be a whole number of at most {LARGEST}, found {value}")
            return value if type(value) is int else int(value)
        raise ValueError(f"{name} must be a whole number, found {_shown(value)}")
    if kind is float:
        return _number(name, value)
    if kind is str:
        if isinstance(value, str):
            return value
        if isinstance(value, os.PathLike):
            return os.fsdecode(value)
        raise ValueError(f"{name} must be text, found {_shown(value)}")
    if issubclass(kind, os.PathLike):
        if isinstance(value, str | os.PathLike):
            return value
        raise ValueError(f"{name} must be a path, found {_shown(value)}")
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {_article(kind.__name__)} {kind.__name__}, found {_shown(value)}")
    return value


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, found {_shown(value)}")
    if not math.isfinite(value):
        raise ValueError(
            f"{name} must be a finite number, found {value:g}"
            + ("; where no limit is meant, give a large number, 1e9 say" if value == math.inf else "")
        )
    return float(value) if isinstance(value, np.generic) else value


def check_at_least(config: Any, least: float, *names: str) -> None:
    """Refuse the first of these fields that is below a bound.

    Raises:
        ValueError: the message names it.

    Example:
        >>> check_at_least(types.SimpleNamespace(patience=-1), 0, "patience")
        Traceback (most recent call last):
        ...
        ValueError: patience must be at least 0, found -1
    """
    for name in names:
        if not vars(config)[name] >= least:
            raise ValueError(f"{name} must be at least {least:g}, found {vars(config)[name]}")


def check_above_zero(config: Any, *names: str) -> None:
    """Refuse the first of these fields that is not above 0.

    Raises:
        ValueError: the message names it.
    """
    for name in names:
        if not vars(config)[name] > 0:
            raise ValueError(f"{name} must be above 0, found {vars(config)[name]}")


def check_seed(name: str, value: int) -> None:
    """Refuse a seed that no generator tells from another: JAX's keys keep 32 bits of it, numpy's take no sign.

    Raises:
        ValueError: it is negative, or larger than 32 bits hold.

    Example:
        >>> check_seed("seed", -1)
        Traceback (most recent call last):
        ...
        ValueError: seed must be from 0 to 4294967295, found -1
    """
    if not 0 <= value < 2**32:
        raise ValueError(f"{name} must be from 0 to {2**32 - 1}, found {value}")


def _article(word: str) -> str:
    return "an" if word[0].lower() in "aeio" else "a"


def _shown(value: Any) -> str:
    return "None" if value is None else f"{value!r:.80} ({type(value).__name__})"
