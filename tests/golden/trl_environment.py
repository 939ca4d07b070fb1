"""TRL 0.23 in a virtual environment of its own, as it wants an older transformers than everything else here.

    python tests/golden/trl_environment.py            # into ~/.cache/rlhf_jax/trl-0.23
    python tests/golden/trl_environment.py FOLDER     # then RLHF_JAX_TRL_023=FOLDER pytest tests/golden

The versions are those of ``requirements-trl-0.23.txt``. A CPU build of torch will do: where the package index has none,
``PIP_EXTRA_INDEX_URL`` or ``PIP_FIND_LINKS`` may name a place that has one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

VARIABLE = "RLHF_JAX_TRL_023"
REQUIREMENTS = Path(__file__).with_name("requirements-trl-0.23.txt")
MADE = "made_from.txt"  # a copy of the requirements, written last


def folder() -> Path:
    """Where the environment is: what the variable says, or the default."""
    return Path(os.environ.get(VARIABLE) or default_folder())


def default_folder() -> Path:
    """Where the environment is looked for if nobody says."""
    cache = os.environ.get("RLHF_JAX_CACHE", "")
    return (Path(cache) if cache else Path.home() / ".cache" / "rlhf_jax") / "trl-0.23"


def python_of(where: Path) -> Path:
    """The environment's interpreter."""
    return where / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_made(where: Path) -> bool:
    """Whether the environment is whole, and of these very requirements."""
    made = where / MADE
    return python_of(where).exists() and made.exists() and made.read_text() == REQUIREMENTS.read_text()


def make(where: Path) -> None:
    """Make the environment, or make it anew from other requirements."""
    venv.create(where, clear=True, with_pip=True)
    pip = [str(python_of(where)), "-m", "pip", "install", "-r", str(REQUIREMENTS)]
    subprocess.run(pip, check=True)
    subprocess.run([str(python_of(where)), "-c", "from trl import PPOTrainer"], check=True)
    (where / MADE).write_text(REQUIREMENTS.read_text())


def main() -> None:
    """Make it where it is not there."""
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else folder()
    if is_made(where):
        print(f"{where} is there already")
        return
    make(where)
    print(f"made {where}; the golden tests find it " + ("there" if where == folder() else f"by {VARIABLE}={where}"))


if __name__ == "__main__":
    main()
