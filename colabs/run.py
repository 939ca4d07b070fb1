"""Run the notebooks top to bottom in their fast form, each in an empty folder, and say how long each took.

python colabs/run.py                    all of them
python colabs/run.py colabs/01_quickstart.ipynb
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def run(notebook: Path) -> None:
    """Execute one notebook; nothing is written beside it.

    Raises:
        CellExecutionError: when a cell fails; its text and the error are in the message.
    """
    cells = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(cells, timeout=900, resources={"metadata": {"path": folder}}).execute()


def main() -> int:
    """Run the notebooks of the command line, or all; the exit status is 1 when one fails."""
    os.environ["RLHF_JAX_FAST"] = "1"
    os.environ.setdefault("MPLBACKEND", "agg")
    chosen = [Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.ipynb"))
    for notebook in chosen:
        began = time.monotonic()
        try:
            run(notebook)
        except CellExecutionError as error:
            print(f"{notebook}: {error}", file=sys.stderr)
            return 1
        print(f"{notebook.name}: {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
