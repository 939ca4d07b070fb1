"""Other libraries on the same work, each in a file of its own that imports it. What is not installed is left out."""

from __future__ import annotations

import importlib.metadata
import importlib.util


def version(package: str) -> str | None:
    """Find the version of a package, None where it is not installed.

    Example:
        >>> version("no-such-package") is None
        True
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def has(module: str) -> bool:
    """Find out whether a module can be imported; the packages that it lies in are.

    Example:
        >>> has("json.decoder"), has("json.no_such_module"), has("no_such_package.module")
        (True, False, False)
    """
    parts = module.split(".")
    return all(importlib.util.find_spec(".".join(parts[: i + 1])) is not None for i in range(len(parts)))
