"""Names that have changed go on working for one version, with a warning that says the new one."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str], *, stacklevel: int = 2) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module some of whose names have changed.

    Args:
        module: its ``__name__``.
        names: old name to the new one, ``"stages.LoadedModel"``, or to a module, ``"data.readers.jsonl"``.
        stacklevel: whose line the warning names, 2 where the module's ``__getattr__`` is the returned function itself.

    Returns:
        A function for the module to call ``__getattr__``; any other name is an AttributeError.

    Example:
        >>> find = renamed("rlhf_jax.types", {"Old": "types.Loss"})
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     found = find("Old")
        >>> found.__name__, str(caught[0].message)
        ('Loss', 'rlhf_jax.types.Old is called rlhf_jax.types.Loss now; the old name goes with the next version')
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = f"rlhf_jax.{names[name]}"
        home, _, attribute = new.rpartition(".")
        found = vars(importlib.import_module(home)).get(attribute)
        warnings.warn(
            f"{module}.{name} is called {new} now; the old name goes with the next version",
            DeprecationWarning,
            stacklevel=stacklevel,
        )
        return importlib.import_module(new) if found is None else found

    return __getattr__
