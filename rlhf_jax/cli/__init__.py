"""The command line, ``rlhf ...``: which commands there are, and how one is run, with errors a person can act on.

``parsing`` turns words into options and configs. ``pipeline`` holds the commands that train, ``policy`` those that let
a policy answer, ``results`` those that use a run in other ways, and ``sources`` those that obtain what to start from.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.cli import (
    aot,
    compare,
    distributed,
    doctor,
    errors,
    evaluate,
    inspect,
    label,
    launch,
    pipeline,
    plan,
    policy,
    probe,
    profile,
    results,
    revise,
    rounds,
    sources,
)
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
    "rounds": rounds.rounds,
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
    "evaluate": evaluate.evaluate,
    "probe": probe.probe,
    "export": results.export,
    "fetch": sources.fetch,
    "data": sources.data,
    "compare": compare.compare,
    "revise": revise.revise,
    "label": label.label,
    "doctor": doctor.doctor,
    "launch": launch.launch,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status.

    0; 1 where ``doctor`` or ``data check --strict`` has found something; 2 on a mistake in the input; 3 when updates
    were not finite and nothing was trained; 70 on an error that nobody has thought of, 74 on one outside, as a full
    disk; 75 while another process has the run folder, and where a process of the run is lost or its watchdog ends it
    (``--watchdog-exit``); 129, 130, 141 or 143 when stopped by a terminal that closed, Ctrl-C, a reader that has gone,
    or SIGTERM.
    """
    status = run(list(sys.argv[1:] if argv is None else argv))
    try:
        if sys.stdout is not None:  # it was closed by whoever started this
            sys.stdout.flush()
    except BrokenPipeError:
        _let_go_of(sys.stdout)
    except OSError as error:
        message, status = errors.explain(error)
        _fail(f"what was printed is lost: {message}")
        _let_go_of(sys.stdout)
    distributed.leave(status)
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run one command and return its exit status; ``--debug`` among its words adds the traceback to an error."""
    own = argv[: argv.index("--")] if "--" in argv else argv  # what follows is another command's
    debug = "--debug" in own
    words = [word for word in own if word != "--debug"] + argv[len(own) :]
    name = words[0] if words and words[0] in COMMANDS else ""
    try:
        if name:
            _run(name, words[1:])
        elif not words:
            print(first_view(Path("runs")))
        elif words[0] in ("-h", "--help"):
            print(overview(COMMANDS))
        elif words[0] == "--version":
            from rlhf_jax import __version__

            print(f"rlhf_jax {__version__}")
        else:
            near = difflib.get_close_matches(words[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
            return _fail(f"unknown command {words[0]!r}: {hint}")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # a table's reader has gone; rich leaves with 1
            return _ended(name, end.__context__)
        raise  # help was asked for, or the words are no options of this command
    except BaseException as error:  # the one place where every error ends, as a sentence and a status
        if debug:
            traceback.print_exception(error)
        return _ended(name, error)
    return 0


def _run(name: str, words: list[str]) -> None:
    """Run one command."""
    from rlhf_jax.runs.compilation_cache import keep_compiled

    asked, rest = distributed.take(words)
    with _short_warnings():
        if {"-h", "--help", "--help-all"} & set(rest):
            with distributed.explained(name):
                COMMANDS[name](rest)
            return
        distributed.join(name, asked)
        keep_compiled()
        with distributed.one_voice():
            COMMANDS[name](rest)


def _ended(name: str, error: BaseException) -> int:
    """Say why a command ended before its end, and return its status."""
    import jax

    from rlhf_jax import processes
    from rlhf_jax.processes import LostProcessError, OtherProcessError
    from rlhf_jax.runs.errors import NeedsPeople
    from rlhf_jax.runs.lock import LockedError
    from rlhf_jax.training import Interrupted, SkippedUpdates

    goes_on = "the same command continues from the last checkpoint, if there is one" if name in TRAINING else ""
    if isinstance(error, Interrupted):
        print(f"rlhf {name}: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        print(f"rlhf {name}: stopped{'; ' if goes_on else ''}{goes_on}", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError):  # whoever reads has seen enough, as `| head` has
        _let_go_of(sys.stdout)
        _let_go_of(sys.stderr)
        return 141 if name in TRAINING else 0
    if isinstance(error, LostProcessError | OtherProcessError):
        return _fail(f"{name}: {error}", error.exit_code)
    if isinstance(error, jax.errors.JaxRuntimeError) and processes.lost(error):
        return _fail(str(processes.loss_of(name, error)), LostProcessError.exit_code)
    if isinstance(error, SkippedUpdates | LockedError | NeedsPeople):
        return _fail(f"{name}: {error}", error.exit_code)
    message, status = errors.explain(error, goes_on)
    return _fail(f"{name}: {message}" if name else message, status)


def _let_go_of(stream: Any) -> None:
    """Send what is left in a stream that nobody reads to nowhere, or Python complains at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


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
    with contextlib.suppress(OSError):  # a terminal that has closed takes no words
        print(f"rlhf: error: {message}", file=sys.stderr)
    return status
