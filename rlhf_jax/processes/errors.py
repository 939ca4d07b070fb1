"""What ends a run of several processes although this one is well."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


class OtherProcessError(RuntimeError):
    """Another process of the run met an error.

    Args:
        message: which process, and what it said.
        exit_code: the status to leave with: 2 where the other met wrong input, which no restart mends.
    """

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


class LostProcessError(RuntimeError):
    """Another process of the run is gone: nothing that all of them do can go on."""

    exit_code = 75  # "try again later": whoever starts processes should start all of them once more


def end_at_once(status: int) -> NoReturn:
    """End this process with a status: JAX would wait for the others first, who may be waiting for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
