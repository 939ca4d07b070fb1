"""Values taken apart: an array into a hash, an object into what it holds, a callable into its name and arguments."""

from __future__ import annotations

import collections
import copyreg
import functools
import hashlib
import inspect
import re
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))


class Hashed(str):
    """The hash of an array, in place of the array."""


def place_of(value: Any) -> str:
    """Name a callable by its module and name, with what is bound to it.

    Example:
        >>> place_of(functools.partial(round, ndigits=1)), place_of(inspect.unwrap)
        ('builtins.round(ndigits=1)', 'inspect.unwrap')
    """
    bound: dict[str, Any] = {}
    while isinstance(value, functools.partial):
        bound = {**{str(i): x for i, x in enumerate(value.args)}, **value.keywords, **bound}
        value = value.func
    named = inspect.unwrap(value) if callable(value) else value
    if not (inspect.isroutine(named) or isinstance(named, type)):
        named = type(named)
    shown = ", ".join(f"{key}={_shown(bound[key])}" for key in sorted(bound))
    return f"{named.__module__}.{named.__qualname__}" + (f"({shown})" if bound else "")


def _shown(value: Any) -> str:
    if type(value) in PLAIN:
        return f"{value!r:.40}"
    return place_of(value) if callable(value) else type(value).__name__


_FIRST: dict[int, tuple[Callable[[], Any], tuple[Any, ...] | None]] = {}


def first_parts(value: Any) -> tuple[Any, ...] | None:
    """Take apart what may change, as it was when it was first seen; None where it has no content that can be seen."""
    known = _FIRST.get(id(value))
    if known is not None and known[0]() is value:
        return known[1]
    parts = _parts(value)
    if parts is not None:
        parts = tuple(array_hash(x) or x if isinstance(x, np.ndarray | jax.Array) else x for x in parts)
    try:
        held: Callable[[], Any] = weakref.ref(value, functools.partial(_forget, id(value)))
    except TypeError:  # lists and dicts cannot be referred to weakly
        held = functools.partial(_itself, value)
    _FIRST[id(value)] = held, parts
    return parts


def _itself(value: Any) -> Any:
    return value


def _forget(key: int, gone: Any) -> None:
    del gone
    _FIRST.pop(key, None)


def _parts(value: Any) -> tuple[Any, ...] | None:
    if isinstance(value, list | collections.deque):
        return tuple(value)
    if isinstance(value, set):
        return tuple(in_order(value))
    if isinstance(value, dict):
        ordered = sorted(value) if all(isinstance(key, str) for key in value) else list(value)
        return tuple(x for key in ordered for x in (key, value[key]))
    try:
        # What a copy would be made of: its class, and the values that it holds.
        reduce = copyreg.dispatch_table.get(type(value))
        made = value.__reduce_ex__(2) if reduce is None else reduce(value)
    except Exception:  # whatever a class says to being taken apart; its object is then named as one without content
        return None
    if isinstance(made, str):
        return (made,)
    return tuple(tuple(part) if i > 2 and part is not None else part for i, part in enumerate(made))


def array_hash(value: Any) -> Hashed | None:
    """Hash an array's numbers; None where they are not here."""
    if isinstance(value, jax.core.Tracer) or (isinstance(value, jax.Array) and not value.is_fully_addressable):
        return None
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    numbers = np.asarray(value)
    content = repr(numbers.tolist()).encode() if numbers.dtype.hasobject else np.ascontiguousarray(numbers).tobytes()
    return Hashed(f"{numbers.dtype}{numbers.shape}{hashlib.sha256(content).hexdigest()}")


def in_order(values: Iterable[Any], tie: Callable[[Any], str] = lambda value: "") -> list[Any]:
    """Sort what has no order of its own, the same in every process.

    Args:
        values: anything.
        tie: what tells apart values that are described alike, as two functions of one name; plain values never are.

    Example:
        >>> in_order({"b", 3, "a", None})
        [None, 3, 'a', 'b']
    """
    described: dict[tuple[str, str], list[Any]] = {}
    for value in values:
        described.setdefault((type(value).__name__, _described(value)), []).append(value)
    return [x for key in sorted(described) for x in _told_apart(described[key], tie)]


def _described(value: Any) -> str:
    """Describe a value without where it lies in memory, which is elsewhere in another process."""
    if isinstance(value, tuple | frozenset):
        return ",".join(_described(x) for x in (value if isinstance(value, tuple) else in_order(value)))
    return repr(value) if type(value) in PLAIN else _ADDRESS.sub("", repr(value))


def _told_apart(values: list[Any], tie: Callable[[Any], str]) -> list[Any]:
    return sorted(values, key=tie) if len(values) > 1 else values


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
