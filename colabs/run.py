"""Run the notebooks top to bottom in their fast form, each in an empty folder, and say how long each took.

python colabs/run.py                    all of them
python colabs/run.py colabs/01_quickstart.ipynb
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


def run(notebook: Path) -> float:
    """Execute one notebook; nothing is written beside it.

    Returns:
        Seconds that it took.

    Raises:
        CellExecutionError: when a cell fails; its text and the error are in the message.
    """
    began = time.monotonic()
    cells = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(cells, timeout=900, resources={"metadata": {"path": folder}}).execute()
    return time.monotonic() - began


def main() -> int:
    """Run the notebooks of the command line, or all; the exit status is 1 when one fails."""
    os.environ["RLHF_JAX_FAST"] = "1"
    os.environ.setdefault("MPLBACKEND", "agg")
    chosen = [Path(name) for name in sys.argv[1:]] or sorted(Path(__file__).parent.glob("*.ipynb"))
    # Each has a process of its own and waits for compilations that use one core.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(run, notebook): notebook for notebook in chosen}
        for done in as_completed(running):
            try:
                print(f"{running[done].name}: {done.result():.0f} s", flush=True)
            except CellExecutionError as error:
                pool.shutdown(cancel_futures=True)
                print(f"{running[done]}: {error}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
