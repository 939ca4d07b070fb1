"""What a command says of an error, whatever it is: one sentence with what to do, and the status it ends with.

Status 2 is a mistake in the input, which the same command makes again. 74 is something outside, a full disk say: once
that is mended the same command does. 70 is anything that nobody has thought of, in this package or in a file of the
user's own; ``--debug`` shows where.
"""

from __future__ import annotations

import errno
import sysconfig
import traceback
from pathlib import Path

from rlhf_jax.files import MachineFault, causes

MISTAKE, UNEXPECTED, OUTSIDE = 2, 70, 74  # 70 and 74 are EX_SOFTWARE and EX_IOERR of sysexits.h

_PACKAGE = Path(__file__).parents[1]
# What is outside of both the command and the program, and what to do about it.
_OUTSIDE = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room: the quota of that disk is used up",
    errno.EFBIG: "a file may not grow so large here: raise the limit (ulimit -f), or write elsewhere",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: close some",
    errno.EIO: "look at the disk or the network it is on",
    errno.ENOMEM: "free memory, or ask for less of it",
    errno.ESTALE: "look at the network that the folder is on",
    errno.ETIMEDOUT: "look at the network that the folder is on",
}
_MEMORY = (
    "smaller models, fewer rows or prompts at once (--rows, --prompts), more --micro-batches, --remat block, or more "
    "devices take less"
)


def explain(error: BaseException, goes_on: str = "") -> tuple[str, int]:
    """Say what went wrong, and with which status to end.

    Args:
        error: what was raised.
        goes_on: what is said of errors that are no fault of the command, as how it can be continued.

    Returns:
        A sentence or two, and the status.

    Example:
        >>> explain(FileNotFoundError(2, "No such file or directory", "/rows.jsonl"))
        ('/rows.jsonl: no such file or folder', 2)
        >>> explain(OSError(28, "No space left on device", "runs/a"), "the same command goes on")
        ('runs/a: no space left on device: make room on that disk; the same command goes on', 74)
    """
    if _is_a_sentence(error):
        return str(error), OUTSIDE if _is_outside(error) else MISTAKE
    notes = "".join(f"; {note}" for note in _notes(error))
    after = f"; {goes_on}" if goes_on and not notes else notes
    if isinstance(error, OSError) and error.errno is not None:
        return _of_the_system(error, after)
    if _is_memory(error):
        return f"out of memory ({_first_line(error)}): {_MEMORY}{after}", OUTSIDE
    if isinstance(error, ModuleNotFoundError) and error.name is not None and not error.name.startswith("rlhf_jax"):
        return f"the package {error.name} is missing: pip install it{after}", MISTAKE
    if isinstance(error, UnicodeError):
        return f"{_first_line(error)}: a name or a text is not UTF-8{_where(error)}{after}", MISTAKE
    kind = type(error).__name__
    said = f"{kind}: {_first_line(error)}" if str(error) else kind
    return f"{said}{_where(error)}{after}; --debug shows the whole traceback", UNEXPECTED


def _is_a_sentence(error: BaseException) -> bool:
    """Tell whether an error says in a person's words what to do: one of our own kinds, or a ``raise`` of ours."""
    from rlhf_jax.parallel import DistributedError
    from rlhf_jax.stages import SamplerMismatch
    from rlhf_jax.training import SkippedUpdates

    if isinstance(error, DistributedError | SamplerMismatch | SkippedUpdates):
        return True
    if not isinstance(error, ValueError):
        return False
    if type(error).__module__.startswith("rlhf_jax."):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    return last is not None and Path(last.filename).is_relative_to(_PACKAGE) and str(last.line).startswith("raise ")


def _is_outside(error: BaseException) -> bool:
    """Tell whether a sentence is about the machine, or about a judge at an address that does not answer now."""
    from rlhf_jax.judges.endpoint.errors import EndpointUnavailable

    return isinstance(error, MachineFault) or any(isinstance(one, EndpointUnavailable) for one in causes(error))


def _of_the_system(error: OSError, after: str) -> tuple[str, int]:
    """Say what the system refused: the file, its words, and what to do."""
    place = f"{error.filename!s:.300}: " if error.filename is not None else ""
    said = (error.strerror or type(error).__name__).lower()
    if error.errno in _OUTSIDE:
        return f"{place}{said}: {_OUTSIDE[error.errno]}{after}", OUTSIDE
    if error.errno == errno.ENOENT and place:
        relative = isinstance(error.filename, str) and not Path(error.filename).is_absolute()
        return f"{place}no such file or folder{f' in {Path.cwd()}' if relative else ''}", MISTAKE
    if error.errno == errno.EROFS:
        return f"{place}{said}: name a folder that can be written to", MISTAKE
    if error.errno == errno.ENAMETOOLONG:
        return f"{place}{said}: is this a text where a path is expected?", MISTAKE
    return f"{place}{said}{'' if place else _where(error)}", MISTAKE


def _is_memory(error: BaseException) -> bool:
    """Tell whether memory has run out, the machine's or a device's."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


def _first_line(error: BaseException) -> str:
    """Shorten what an error says, which may be pages of a compiler's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."


def _notes(error: BaseException) -> list[str]:
    """Take the notes of our own, which say what was saved."""
    from rlhf_jax.training.rescue import SAVED

    return [str(note) for note in vars(error).get("__notes__", []) if str(note).startswith(SAVED)]


def _where(error: BaseException) -> str:
    """Name the line it comes from: the last one in a file of the user's, or else the last of this package."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_installed(frame.filename)]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    if not (own or ours):
        return ""
    last = (own or ours)[-1]
    return f" ({last.filename}, line {last.lineno}, in {last.name})"


def _is_installed(filename: str) -> bool:
    """Tell whether a file belongs to an installed package, to Python or to us, or is no file."""
    path = Path(filename)
    installed = [*(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib")), _PACKAGE]
    return not path.is_file() or any(path.is_relative_to(folder) for folder in installed)
