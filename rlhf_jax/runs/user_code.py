"""Code of the user's own: a Python file, and one thing in it, named ``FILE.py:NAME``."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

from rlhf_jax.runs.content import content_of
from rlhf_jax.runs.errors import RunError


def run_file(path: str, what: str) -> dict[str, Any]:
    """Run a Python file and return what it defines, by name.

    What the file raises is raised here.

    Args:
        path: the file.
        what: what messages say that it is for; also part of the name under which it becomes a module.

    Returns:
        What the file defines: a dict from name to value.

    Raises:
        RunError: when there is no such file, or it is not a Python file.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise RunError(f"{what}: no such file {path}")
    spec = importlib.util.spec_from_file_location(f"{what.split()[0].strip('-')}_in_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise RunError(f"{what}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    if str(file.parent) not in sys.path:  # it may import its neighbours, as a program may
        sys.path.append(str(file.parent))
    spec.loader.exec_module(module)
    return vars(module)


def blamed(error: BaseException, path: str) -> str:
    """Say which line of a file of the user's own an error comes from, and what it is.

    Args:
        error: what running the file raised, or calling something in it.
        path: the file.

    Returns:
        ``, line 3: NameError: ...``; without a line where the file was not being run. Where one of our own classes
        refused a value its words are enough, as those of a ValueError.

    Example:
        >>> blamed(ValueError("epochs must be at least 1, found 0"), "mine.py")
        ': epochs must be at least 1, found 0'
    """
    file = Path(path).absolute()
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    if isinstance(error, SyntaxError) and error.filename is not None and Path(error.filename) == file:
        lines = [error.lineno]
    said = str(error) or type(error).__name__
    if isinstance(error, SyntaxError):
        said = error.msg
    kind = "" if isinstance(error, ValueError) or not str(error) else f"{type(error).__name__}: "
    return f"{f', line {lines[-1]}' if lines else ''}: {kind}{said}"


def load_named(name: str, what: str, kind: Any, called: str, *, shown: Any = None) -> Any:
    """Load one thing that a file defines.

    Args:
        name: ``FILE.py:NAME``.
        what: what messages say that it is for, as ``objective mine.py:hinge``.
        kind: the type that it must have.
        called: what messages call that type, as ``function``.
        shown: the type of the names that a message lists; ``kind`` if it is None.

    Returns:
        What the file calls by this name.

    Raises:
        RunError: when there is no such file, it cannot be imported, or it defines no such thing.
    """
    path, _, wanted = name.rpartition(":")
    try:
        defined = _run_once(path, what)
    except RunError:
        raise
    except (Exception, SystemExit) as error:  # whatever a file of the user's own raises
        raise RunError(f"{what}: {path} cannot be imported{blamed(error, path)}") from error
    found = defined.get(wanted)
    if not isinstance(found, kind):
        names = [key for key, value in defined.items() if isinstance(value, shown or kind)]
        near = difflib.get_close_matches(wanted, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it defines {', '.join(names) or 'none'}"
        raise RunError(f"{what}: {path} has no {called} {wanted!r}: {hint}")
    return found


# By path: the content that was run, and what it defined. A judge may load a model of its own, which is to happen once.
_RUN: dict[tuple[str, str], tuple[bytes, dict[str, Any]]] = {}


def _run_once(path: str, what: str) -> dict[str, Any]:
    """Run a file, unless this process has run the same content for the same purpose already."""
    file, purpose = Path(path), what.split()[0]
    content = file.read_bytes() if file.is_file() else b""
    known = _RUN.get((str(file.resolve()), purpose))
    if known is None or known[0] != content:
        known = content, run_file(path, what)
        _RUN[str(file.resolve()), purpose] = known
    return known[1]


def load_function(name: str, what: str) -> Any:
    """Load a function, or whatever else can be called, from a file, and look at it before anything calls it.

    What it counts or keeps of its calls is then no part of its content.

    Args:
        name: ``FILE.py:function``.
        what: what messages say that it is for.

    Raises:
        RunError: as for ``load_named``.
    """
    found = load_named(name, what, Callable, "function", shown=FunctionType)
    content_of(found)
    return found


def called(function: Callable[..., Any]) -> str:
    """What a function is called on the page: the file and the name in it, or the kind of what can be called.

    Args:
        function: a reward or a judge, which somebody passed or named.

    Example:
        >>> import json
        >>> called(json.dumps), called(functools.partial(json.dumps, indent=1))
        ('__init__.py:dumps', '__init__.py:dumps(indent=1)')
    """
    bound: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        bound = {**function.keywords, **bound}
        function = function.func
    named = inspect.unwrap(function)
    if isinstance(named, MethodType):
        named = named.__func__
    if isinstance(named, FunctionType):
        # A function inside another has its own name, and a lambda that of the function which it stands in.
        own = named.__qualname__.removesuffix(".<locals>.<lambda>").rpartition("<locals>.")[2]
        name = f"{Path(named.__code__.co_filename).name}:{own}"
    else:
        name = type(named).__name__
    given = ", ".join(f"{key}={value!r:.40}" for key, value in sorted(bound.items()))
    return f"{name}({given})" if given else name
