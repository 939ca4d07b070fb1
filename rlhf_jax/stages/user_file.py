"""What a user wrote in a Python file, FILE.py:NAME: an objective, a judge, a task."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from rlhf_jax.runs.errors import RunError


def load_from_file(spec: str, what: str, kind: Any, called: str, *, shown: Any = None) -> Any:
    """Import a file and take a name from it.

    Args:
        spec: FILE.py:NAME.
        what: begins the error, such as ``objective``.
        kind: what the name must stand for.
        called: how an error calls that, such as ``function``.
        shown: the type of the names that an error lists, ``kind`` if it is None.

    Raises:
        RunError: when there is no such file, it cannot be imported, or it has nothing of that kind and name.
    """
    path, _, wanted = spec.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise RunError(f"{what} {spec}: no such file {path}")
    module_spec = importlib.util.spec_from_file_location(f"user_file_{file.stem}", file)
    if module_spec is None or module_spec.loader is None:
        raise RunError(f"{what} {spec}: {path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses look their module up
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # whatever a file of the user's own raises
        raise RunError(f"{what} {spec}: {path} cannot be imported: {error}") from error
    found = vars(module).get(wanted)
    if not isinstance(found, kind):
        names = [name for name, value in vars(module).items() if isinstance(value, shown or kind)]
        near = difflib.get_close_matches(wanted, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it defines {', '.join(names) or 'none'}"
        raise RunError(f"{what} {spec}: {path} has no {called} {wanted!r}: {hint}")
    return found
