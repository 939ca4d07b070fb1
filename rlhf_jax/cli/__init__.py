"""The command line, ``rlhf ...``: which commands there are, and how one is run, with errors a person can act on.

``parsing`` turns words into options and configs. ``pipeline`` holds the commands that train, ``policy`` those that let
a policy answer, ``results`` those that use a run in other ways, and ``sources`` those that obtain what to start from.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rlhf_jax.cli import aot, distributed, doctor, inspect, launch, pipeline, plan, policy, profile, results, sources
from rlhf_jax.cli.overview import first_view, overview
from rlhf_jax.cli.parsing import UsageError, load_config, override

__all__ = ["COMMANDS", "UsageError", "load_config", "main", "override", "run"]

Command = Callable[[list[str]], None]

_PACKAGE = Path(__file__).parents[1]
# What they leave is continued by the same command.
TRAINING: dict[str, Command] = {
    "quickstart": pipeline.quickstart,
    "sft": pipeline.sft,
    "reward": pipeline.reward,
    "ppo": pipeline.ppo,
    "group": pipeline.group,
    "preference": pipeline.preference,
}
COMMANDS: dict[str, Command] = {
    **TRAINING,
    "profile": profile.profile,
    "inspect": inspect.inspect,
    "plan": plan.plan,
    "aot": aot.aot,
    "report": results.report,
    "chat": policy.chat,
    "sample": policy.sample,
    "score": results.score,
    "export": results.export,
    "fetch": sources.fetch,
    "data": sources.data,
    "doctor": doctor.doctor,
    "launch": launch.launch,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status: 0, 2 on a mistake in the input, 130 or 143 when stopped by a signal.

    A process that its watchdog ends (``--watchdog-exit``) has the status 75.
    """
    try:
        status = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        distributed.leave(status)
    except BrokenPipeError:  # whoever reads has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run one command and return its exit status."""
    if not argv:
        print(first_view(Path("runs")))
        return 0
    if argv[0] in ("-h", "--help"):
        print(overview(COMMANDS))
        return 0
    if argv[0] == "--version":
        from rlhf_jax import __version__

        print(f"rlhf_jax {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
        return _fail(f"unknown command {name!r}: {hint}")
    import jax

    from rlhf_jax import models, processes
    from rlhf_jax.checkpoint import CheckpointError
    from rlhf_jax.data import DataError
    from rlhf_jax.parallel import DistributedError, MeshError
    from rlhf_jax.processes import LostProcessError, OtherProcessError
    from rlhf_jax.report import ReportError
    from rlhf_jax.runs.compilation_cache import keep_compiled
    from rlhf_jax.stages import RunError, SamplerMismatch
    from rlhf_jax.training import Interrupted, SkippedUpdates

    known = (
        UsageError,
        DataError,
        MeshError,
        DistributedError,
        RunError,
        ReportError,
        CheckpointError,
        models.CheckpointError,
        SkippedUpdates,
        SamplerMismatch,
    )
    try:
        asked, rest = distributed.take(rest)
        with _short_warnings():
            if {"-h", "--help", "--help-all"} & set(rest):
                with distributed.explained(name):
                    COMMANDS[name](rest)
                return 0
            distributed.join(name, asked)
            keep_compiled()
            with distributed.one_voice():
                COMMANDS[name](rest)
    except Interrupted as stop:
        print(f"rlhf {name}: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        goes_on = "; the same command continues from the last checkpoint" if name in TRAINING else ""
        print(f"rlhf {name}: stopped{goes_on}", file=sys.stderr)
        return 130
    except (LostProcessError, OtherProcessError) as gone:
        return _fail(f"{name}: {gone}", gone.exit_code)
    except jax.errors.JaxRuntimeError as error:
        if not processes.lost(error):
            raise
        return _fail(str(processes.loss_of(name, error)), LostProcessError.exit_code)
    except known as error:
        return _fail(f"{name}: {error}")
    except FileNotFoundError as error:
        return _fail(f"{name}: {error.filename}: no such file or folder")
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        return _fail(f"{name}: {error.filename}: {(error.strerror or 'cannot be read').lower()}")
    return 0


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Shorten our own warnings: they are about what was asked for, so a line of code says nothing beside them."""
    whole = warnings.formatwarning

    def short(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, UserWarning) and (filename == "<string>" or Path(filename).is_relative_to(_PACKAGE)):
            return f"warning: {message}\n"
        return whole(message, category, filename, lineno, line)

    warnings.formatwarning = short
    try:
        yield
    finally:
        warnings.formatwarning = whole


def _fail(message: str, status: int = 2) -> int:
    print(f"rlhf: error: {message}", file=sys.stderr)
    return status
