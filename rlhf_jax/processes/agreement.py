"""What every process of a run knows: how many they are, which part is whose, and what one of them found out.

A pod has a process a host, and each runs the same program. Every process has to call ``exchange``, and what stands on
it, in the same order. In one process everything here gives back what it is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from rlhf_jax.processes.barriers import barrier
from rlhf_jax.processes.errors import OtherProcessError

T = TypeVar("T")

# Seconds to wait for others where something is exchanged: a reward on text may ask a slow judge before.
PATIENCE = 1800.0
_TOLD = "every process was told of this error"
AT_ONCE = 2**26  # bytes of each process that are exchanged at a time


def several() -> bool:
    """Tell whether the run has more than one process."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Tell whether this is the process that writes files and speaks for all."""
    return not several() or jax.process_index() == 0


def share(count: int) -> slice:
    """Take this process's part of a list: neighbours, as even as can be, those of process 0 first.

    Args:
        count: length of the list, the same in every process.

    Returns:
        The part; all parts joined in the order of the processes are the list.

    Example:
        >>> share(5)
        slice(0, 5, None)
    """
    index, of = (jax.process_index(), jax.process_count()) if several() else (0, 1)
    return slice(count * index // of, count * (index + 1) // of)


def exchange(own: bytes) -> list[bytes]:
    """Give every process what each of them has.

    Args:
        own: this process's.

    Returns:
        Everybody's, in the order of the processes.

    Raises:
        BarrierError: a process did not come; the message says which.

    Example:
        >>> exchange(b"mine")
        [b'mine']
    """
    if not several():
        return [own]
    from jax.experimental.multihost_utils import process_allgather

    barrier("exchange", timeout=PATIENCE)  # which says who does not come; a collective would wait without end
    # Without 64-bit types a length has two halves; what is long goes in parts, as each is on every device at once.
    halves = np.asarray(process_allgather(np.array(divmod(len(own), 2**31), np.int32)))
    lengths = [int(high) * 2**31 + int(low) for high, low in halves.reshape(-1, 2)]
    parts: list[list[bytes]] = [[] for _ in lengths]
    for start in range(0, max(lengths), AT_ONCE):
        padded = np.zeros(min(AT_ONCE, max(lengths) - start), np.uint8)
        mine = np.frombuffer(own[start : start + AT_ONCE], np.uint8)
        padded[: len(mine)] = mine
        for found, row, length in zip(parts, np.asarray(process_allgather(padded)), lengths, strict=True):
            found.append(row[: max(0, length - start)].tobytes())
    return [b"".join(found) for found in parts]


def exchange_json(own: Any) -> list[Any]:
    """Exchange JSON values, as ``exchange`` does bytes."""
    return [json.loads(x) for x in exchange(json.dumps(own).encode())] if several() else [own]


def agree(make: Callable[[], T], what: str, errors: tuple[type[Exception], ...] = (Exception,)) -> T:
    """Do something in every process, and stop all of them where it fails in one.

    A process that stopped alone would leave the others waiting for it.

    Args:
        make: what is done; it exchanges nothing.
        what: names it in the error.
        errors: those that others are told of.

    Returns:
        What ``make`` gave here.

    Raises:
        OtherProcessError: it failed in another process. Where it failed here, its own error is raised.

    Example:
        >>> agree(lambda: 3, "counting")
        3
    """
    return make() if not several() else _agreed(make, what, errors, told=lambda made: None)[0]


def from_first(make: Callable[[], T], what: str) -> T:
    """Let the first process find something out, and tell it to the others.

    What depends on files must be asked once: another process may look before, or after, the first has written them.

    Args:
        make: gives a JSON value; called in the first process alone.
        what: names it in the error.

    Returns:
        The value, in every process.

    Raises:
        OtherProcessError: it failed in the first process, where its own error is raised.

    Example:
        >>> from_first(lambda: {"found": True}, "looking")
        {'found': True}
    """
    if not several():
        return make()
    return _agreed(lambda: make() if first() else None, what, (Exception,), told=lambda made: made)[1][0]


def _agreed(
    make: Callable[[], Any], what: str, errors: tuple[type[Exception], ...], told: Callable[[Any], Any]
) -> tuple[Any, list[Any]]:
    """Do something in every process, and exchange what became of it: what was made here, and what each one tells."""
    failed: Exception | None = None
    made: Any = None
    try:
        made = make()
    except errors as error:
        failed = error
    text = "" if failed is None else f"{type(failed).__name__}: {failed}"
    # Our errors about wrong input are ValueErrors.
    said = exchange_json([text, 2 if isinstance(failed, ValueError) else 1, told(made)])
    if failed is not None:
        failed.add_note(_TOLD)
        raise failed
    for number, (text, status, _) in enumerate(said):
        if text:
            raise OtherProcessError(f"{what}: process {number} of {len(said)} stopped ({text})", status)
    return made, [value for _, _, value in said]


def known_to_all(error: BaseException) -> bool:
    """Tell whether every process has met an error, as all do of what ``agree`` and ``from_first`` raise.

    Example:
        >>> known_to_all(KeyError("x"))
        False
    """
    return isinstance(error, OtherProcessError) or _TOLD in vars(error).get("__notes__", [])


def meet(what: str) -> None:
    """Wait until every process is here, so that what the first has written is there for all."""
    if several():
        exchange(what.encode())
