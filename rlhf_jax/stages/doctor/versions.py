"""Versions of the packages that compute, beside what this package asks for."""

from __future__ import annotations

import importlib.metadata
import operator
import platform
import re
from collections.abc import Iterable, Mapping

from rlhf_jax import processes
from rlhf_jax.stages.doctor.finding import Finding

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# Who says which versions are wanted.
_ASKING = ("rlhf-jax", "jax")

_COMPARE = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def versions() -> Finding:
    """Compare what is installed with what is asked for, and with what the other processes have."""
    found = installed()
    first = processes.exchange_json(found)[0]
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    unfit = [
        f"{name} {found[name]} is not {wanted}"
        for name, wanted in demands().items()
        if name in found and not fits(found[name], wanted)
    ]
    if unfit:
        return Finding("versions", False, "; ".join(unfit), "Install what is asked for: pip install -U -e . in a clone")
    missing = [name for name in PACKAGES if name not in found]
    if missing:
        return Finding("versions", False, f"{', '.join(missing)} missing", "Install it: pip install -e . in a clone")
    other = [
        f"{name} {found[name]}, process 0 has {first.get(name, 'none')}"
        for name in found
        if found[name] != first.get(name)
    ]
    if other:
        return Finding("versions", False, "; ".join(other), "Install the same on every host")
    return Finding("versions", True, text)


def installed() -> dict[str, str]:
    """Find the versions that are here, Python's among them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def demands() -> dict[str, str]:
    """Find which versions are asked for: by this package, and by jax of its own jaxlib.

    Returns:
        Specifiers, such as ``>=0.10.2,!=0.11.1``, by name. Without what pip keeps, as in a bare checkout, it is empty.
    """
    found: dict[str, str] = {}
    for asking in _ASKING:
        try:
            described = importlib.metadata.metadata(asking)
        except importlib.metadata.PackageNotFoundError:
            continue
        if asking == "rlhf-jax" and described["Requires-Python"]:
            found["python"] = described["Requires-Python"]
        found |= wanted(importlib.metadata.requires(asking) or ())
    return found


def wanted(requirements: Iterable[str]) -> Mapping[str, str]:
    """Read the specifiers of what is always needed and looked at here.

    Example:
        >>> wanted(["jax!=0.11.1,>=0.10.2", "flax>=0.12.8", "torch>=2; extra == 'bench'", "jax>=9; extra == 'tpu'"])
        {'jax': '!=0.11.1,>=0.10.2', 'flax': '>=0.12.8'}
    """
    found = {}
    for requirement in requirements:
        plain, _, marker = requirement.partition(";")
        match = re.fullmatch(r"([\w.-]+)\s*\(?([<>=!][^)]*)\)?\s*", plain)
        if match and "extra" not in marker and match[1] in PACKAGES:
            found[match[1]] = match[2].replace(" ", "")
    return found


def fits(version: str, wanted: str) -> bool:
    """Tell whether a version is among those asked for; by its numbers, whatever stands behind them.

    Example:
        >>> fits("0.10.2", ">=0.10.2,!=0.11.1"), fits("0.11.1", ">=0.10.2,!=0.11.1"), fits("0.9", ">=0.10")
        (True, False, False)
    """
    for word in wanted.split(","):
        match = re.fullmatch(r"(>=|<=|==|!=|>|<)([\w.+]+)", word)
        if match and not _COMPARE[match[1]](_numbers(version), _numbers(match[2])):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()  # 1.0 is 1
    return tuple(numbers)
