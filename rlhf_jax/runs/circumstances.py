"""What surrounded a run: when it ended, the command that started it, and the hardware."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from collections import Counter
from pathlib import Path

import jax

_LONGEST = 2000  # characters of a command that are kept


def circumstances() -> dict[str, str]:
    """Describe this moment and this process: ``finished``, ``command`` and ``hardware``."""
    return {
        "finished": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        "command": command(sys.argv),
        "hardware": hardware(),
    }


def command(words: list[str]) -> str:
    """Write the command that started this process, its program without its folder; empty where there is none.

    Args:
        words: ``sys.argv``.

    Example:
        >>> command(["/usr/bin/rlhf", "ppo", "--out", "my runs/a"])
        "rlhf ppo --out 'my runs/a'"
        >>> command(["/x/ipykernel_launcher.py", "-f", "kernel.json"]), command(["-c"]), command([""])
        ('a notebook', '', '')
    """
    program = Path(words[0]).name if words else ""
    if program in ("ipykernel_launcher.py", "colab_kernel_launcher.py"):
        return "a notebook"
    if not program or program.startswith("-"):
        return ""
    if program == "__main__.py":  # python -m
        program = "rlhf"
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *words[1:]])[:_LONGEST]


def hardware() -> str:
    """Say what the devices of all processes are, and how many cores this machine has."""
    kinds = Counter(device.device_kind for device in jax.devices())
    devices = [f"{count} x {kind}" for kind, count in kinds.items() if (kind, count) != ("cpu", 1)]
    processes = [f"{jax.process_count()} processes"] if jax.process_count() > 1 else []
    return ", ".join([*devices, f"{os.cpu_count()} CPU cores ({platform.machine()})", *processes])
