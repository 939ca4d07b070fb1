"""What a launched process starts as: it asks to be killed when the launcher dies, then becomes the command.

Run by its path, with the launcher's process number and the command. A launcher that is killed with SIGKILL can stop
nobody, so the kernel has to. The request is made here, in a process that has one thread, and not between fork and exec
of the launcher, where Python code of a program with threads may wait for ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def become(launcher: int, command: list[str]) -> None:
    """Replace this process by a command that ends when the launcher does; only Linux can do the latter.

    Args:
        launcher: its process number.
        command: program and arguments.

    Raises:
        OSError: the program cannot be started.
    """
    if sys.platform == "linux":
        # SIGKILL, for JAX takes SIGTERM for a notice and goes on.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        sys.exit(f"process {launcher}, which started this one, is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    try:
        become(int(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        sys.exit(f"{sys.argv[2]}: {error.strerror}")
