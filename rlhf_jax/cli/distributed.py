"""The words by which any command joins others: ``--distributed``, ``--coordinator``, and which of how many it is."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from typing import get_args

from rlhf_jax.cli.parsing import UsageError

# What trains or samples on all devices; the other commands are one process' work.
JOINING = frozenset({"quickstart", "sft", "reward", "ppo", "group", "preference", "doctor"})

HELP = f"""in several processes ({", ".join(sorted(JOINING))}):
  --distributed auto|off|manual   auto joins what rlhf launch, SLURM, GKE, a TPU pod or Open MPI has started
  --coordinator HOST:PORT         where process 0 is; with manual, as the two that follow
  --process-count N               how many there are
  --process-index I               which one this is, from 0
The environment may say the same: RLHF_COORDINATOR, RLHF_PROCESS_COUNT, RLHF_PROCESS_INDEX. Where a scheduler's
variables are set and nobody else comes, as in a shell inside a job, --distributed off keeps a command alone."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the words say."""

    mode: str = ""
    coordinator: str = ""
    count: int = 0
    index: int = -1


_WORDS = {
    "--distributed": "mode",
    "--coordinator": "coordinator",
    "--process-count": "count",
    "--process-index": "index",
}


def take(argv: list[str]) -> tuple[Asked, list[str]]:
    """Take these words out of a command's.

    Args:
        argv: all words. Those after ``--``, where there is one, are another command's, as ``rlhf launch`` has it.

    Returns:
        What they say, and the words that are left.

    Raises:
        UsageError: a value is missing or none that there is.

    Example:
        >>> take(["sft", "--distributed", "off", "--seed", "1"])
        (Asked(mode='off', coordinator='', count=0, index=-1), ['sft', '--seed', '1'])
    """
    from rlhf_jax.parallel.distributed import Mode

    said: dict[str, str | int] = {}
    left: list[str] = []
    end = argv.index("--") if "--" in argv else len(argv)
    words = iter(argv[:end])
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _WORDS:
            left.append(word)
            continue
        if not equals:
            value = next(words, "")
        if not value or value.startswith("--"):
            raise UsageError(f"{name} needs a value")
        said[_WORDS[name]] = _number(name, value) if _WORDS[name] in ("count", "index") else value
    left += argv[end:]
    asked = Asked(**said)  # type: ignore[arg-type]
    if asked.mode and asked.mode not in get_args(Mode):
        raise UsageError(f"--distributed takes {', '.join(get_args(Mode))}; found {asked.mode!r}")
    if not asked.mode and asked != Asked():
        asked = dataclasses.replace(asked, mode="manual")
    return asked, left


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise UsageError(f"{name} takes a whole number, found {value!r}")
    return int(value)


@contextlib.contextmanager
def explained(command: str) -> Iterator[None]:
    """Print these words after the help of a command that joins others, when the block ends with its help."""
    try:
        yield
    except SystemExit as end:
        if command in JOINING and not end.code:
            print(f"\n{HELP}")
        raise


def join(command: str, asked: Asked) -> None:
    """Join the other processes, where the command is one that does.

    Raises:
        UsageError: words were given to a command that runs alone.
        DistributedError: the processes do not come together.
    """
    if command not in JOINING:
        if asked.mode not in ("", "off"):
            raise UsageError(f"{command} runs in one process: leave out --distributed")
        return
    from rlhf_jax.parallel import distributed

    mode: distributed.Mode = asked.mode or "auto"  # type: ignore[assignment]
    distributed.initialize(mode, coordinator=asked.coordinator, count=asked.count, index=asked.index)


def leave(status: int) -> None:
    """End a process of several that failed at once.

    Args:
        status: the exit status; 0 leaves in the usual way, when all others are done too.
    """
    from rlhf_jax import processes

    if status and processes.several():
        processes.end_at_once(status)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Let the first process alone speak while the block runs; errors that end the others are printed after it."""
    from rlhf_jax import processes

    if processes.first():
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
