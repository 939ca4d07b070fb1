"""One answer of the doctor's, and how the answers of several processes become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rlhf_jax import processes


class Finding(NamedTuple):
    """What was looked at, whether it is as it should be, what was found, and what to do where it is not."""

    what: str
    ok: bool
    figure: str
    advice: str = ""

    def __str__(self) -> str:
        if self.ok:
            return f"ok      {self.what}: {self.figure}"
        return f"FAILED  {self.what}: {self.figure}. {self.advice}"


def asked(what: str, look: Callable[[], Finding], advice: str) -> Finding:
    """Look, and take an error for an answer.

    Args:
        what: names what is looked at.
        look: gives the answer. All processes call it, in the same order, where it exchanges anything.
        advice: what to do where there is an error.

    Returns:
        The one answer of all processes.

    Example:
        >>> def fail():
        ...     raise OSError("no room")
        >>> print(asked("disk", fail, "Make room."))
        FAILED  disk: OSError: no room. Make room.
    """
    try:
        own = look()
    except Exception as error:  # whatever it is: this is what the doctor is there to find
        text = " ".join(str(error).split())[:300].rstrip(".")
        own = Finding(what, False, f"{type(error).__name__}: {text}", advice)
    return together([Finding(*each) for each in processes.exchange_json(list(own))])


def together(findings: list[Finding]) -> Finding:
    """Make one answer of those of all processes: the first one's, unless one failed, which is named.

    Example:
        >>> print(together([Finding("disk", True, "9 GiB"), Finding("disk", False, "1 GiB", "Make room.")]))
        FAILED  disk: process 1: 1 GiB. Make room.
    """
    bad = [(index, found) for index, found in enumerate(findings) if not found.ok]
    if not bad:
        return findings[0]
    index, found = bad[0]
    where = f"process {index}: " if len(findings) > 1 else ""
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return found._replace(figure=f"{where}{found.figure}{more}")
