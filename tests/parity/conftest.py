"""The reference, if it is installed, and the one comparison that all of these tests make."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import numpy as np
import pytest

# It imports torch and TRL, so only the fixture may import it: collection looks into every other file for doctests.
collect_ignore = ["trl_side.py"]

# The reference calls methods that TRL does not promise to keep, so one version is right and others may be wrong.
PINNED = {"trl": "1.16.0", "transformers": "5.23.0"}
INSTALL = "pip install -e '.[parity]'"

# Both sides compute in float32, in different orders; the largest difference measured is in docs/parity.md.
TOLERANCE = 1e-5

Result = tuple[float, np.ndarray]


@pytest.fixture(scope="session")
def trl() -> ModuleType:
    """TRL's losses, or a skip that says how to get them."""
    for package in ("torch", *PINNED):
        try:
            found = version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed: {INSTALL}")
        if found != PINNED.get(package, found):
            pytest.skip(f"{package} is {found}, the comparison is written for {PINNED[package]}: {INSTALL}")
    import trl_side

    return trl_side


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Callable[[Result, Result], None]:
    """Hold our value and gradient against the reference's; ``pytest -rP`` shows by how much they differ."""

    def compare(ours: Result, theirs: Result) -> None:
        (value, gradient), (expected, expected_gradient) = ours, theirs
        assert gradient.shape == expected_gradient.shape
        scale = np.abs(expected_gradient).max()
        assert scale > 0, "a batch without a gradient compares nothing"
        off = abs(value - expected) / max(abs(expected), 1), np.abs(gradient - expected_gradient).max() / scale
        print(f"{request.node.name}: value {expected:.6f} off by {off[0]:.1e}, gradient by {off[1]:.1e} of its largest")
        assert off[0] <= TOLERANCE, f"value {value}, reference {expected}"
        assert off[1] <= TOLERANCE, f"gradient off by {off[1]:.1e} of the largest entry"

    return compare
