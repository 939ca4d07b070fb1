"""The one error about run folders and about what was asked of them."""

from __future__ import annotations


class RunError(ValueError):
    """An error about a run folder that does not hold what was asked for; the message says what to do."""


class NeedsPeople(RunError):
    """Work that waits for people: the message says what they are to do, and the exit status is 75."""

    exit_code = 75
