"""``rlhf launch``: several processes of one command on this machine."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys

from rlhf_jax.cli.parsing import UsageError, parse

_USAGE = "rlhf launch --processes 4 -- rlhf sft --out runs/mine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Options of the launcher; after ` -- ` comes the command that every process runs."""

    processes: int
    """How many copies of the command are started, as one run over gloo (CPUs) or NCCL (GPUs)."""
    devices_per_process: int = 0
    """CPUs: simulated devices of a process, by default as many as XLA_FLAGS asks for. GPUs: those of a process, by
    default 1."""
    grace: float = 60.0
    """Seconds that the others have to end by themselves after one has failed; then they get SIGTERM, then SIGKILL."""
    restarts: int = 0
    """How often all are started again after a failure that may pass: not after status 2 (a mistake in the command),
    129, 130 or 143 (stopped). Training goes on from its last checkpoint."""


def launch(argv: list[str]) -> None:
    """Run a command in several processes, and exit with the status of the one that failed first."""
    if "--" not in argv:
        if not {"-h", "--help"} & set(argv):
            raise UsageError(f"-- is missing between the options and the command: {_USAGE}")
        argv = [*argv, "--"]
    cut = argv.index("--")
    options = parse(LaunchOptions, "launch", argv[:cut])
    command = argv[cut + 1 :]
    if not command:
        raise UsageError(f"there is no command after --: {_USAGE}")
    if options.grace < 0 or options.restarts < 0:
        raise UsageError(f"--grace and --restarts cannot be negative, found {options.grace:g} and {options.restarts}")
    if os.name != "posix":
        raise UsageError("processes are started and stopped as Linux and macOS do it; this is neither")
    from rlhf_jax.parallel.launching import LaunchError
    from rlhf_jax.parallel.launching import launch as start

    try:
        status = start(
            found(command),
            options.processes,
            devices=options.devices_per_process,
            grace=options.grace,
            restarts=options.restarts,
        )
    except LaunchError as error:
        raise UsageError(str(error)) from error
    raise SystemExit(status)


def found(command: list[str]) -> list[str]:
    """Find the program of a command; ``rlhf`` is this one, whatever else is in the PATH.

    Raises:
        UsageError: there is no such program.
    """
    if command[0] == "rlhf":
        return [sys.executable, "-c", "from rlhf_jax.cli import main; main()", *command[1:]]
    program = shutil.which(command[0])
    if program is None:
        raise UsageError(f"{command[0]}: no such program in the PATH, and no such file that can be run")
    return [program, *command[1:]]
