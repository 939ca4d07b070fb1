"""Where tables are printed: as wide as the terminal, or as ``COLUMNS`` says; wide enough for a file otherwise."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(width: int = 140) -> Console:
    """Make the console that tables are printed on.

    Args:
        width: columns, where nobody says how many there are.
    """
    from rich.console import Console

    said = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(file=sys.stdout, width=None if said else width)
