"""What the tables of the commands share: how wide they are, and how a mesh is written in their titles."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def sizes_of(mesh: Mapping[str, int]) -> str:
    """Write the sizes of a mesh for a title.

    Example:
        >>> sizes_of({"data": 2, "fsdp": 4})
        'data 2 x fsdp 4'
    """
    return " x ".join(f"{name} {size}" for name, size in mesh.items())


def console(width: int = 140) -> Console:
    """Make the console that tables are printed on: as wide as the terminal, or as ``COLUMNS`` says.

    Args:
        width: columns, where nobody says how many there are.
    """
    from rich.console import Console

    said = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=None if said else width)
