"""The environments that the references run in, or a skip that says how to get them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trl_environment

# They import torch and TRL, in a process and mostly an environment of their own.
collect_ignore = ["trl_trainer.py", "trl_ppo.py", "trl_group.py", "trl_curve.py"]

HERE = Path(__file__).parent
PINNED = {"trl": "1.16.0", "transformers": "5.23.0", "torch": ""}  # what tests/parity is written for
Run = Callable[[str, Path], None]


def _runner(python: str) -> Run:
    def run(script: str, folder: Path) -> None:
        # The simulated devices and compilation folder of this session mean nothing there.
        environment = {name: x for name, x in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
        done = subprocess.run(
            [python, str(HERE / script), str(folder)], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, f"{script} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}"

    return run


@pytest.fixture(scope="session")
def trl_023() -> Run:
    """``run(script, folder)`` in TRL 0.23's own environment."""
    folder = trl_environment.folder()
    if not trl_environment.is_made(folder):
        pytest.skip(f"no TRL 0.23 of these pins at {folder}: python tests/golden/trl_environment.py {folder}")
    return _runner(str(trl_environment.python_of(folder)))


@pytest.fixture(scope="session")
def trl_116() -> Run:
    """``run(script, folder)`` with the TRL of the extra ``parity``: here, or in the environment RLHF_JAX_TRL_116."""
    named = os.environ.get("RLHF_JAX_TRL_116", "")
    python = str(trl_environment.python_of(Path(named))) if named else sys.executable
    asked = f"from importlib.metadata import version; print(*map(version, {sorted(PINNED)}))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{python} has not all of torch, transformers and trl: pip install -e '.[parity]'")
    found = dict(zip(sorted(PINNED), done.stdout.split(), strict=True))
    if any(not found[package].startswith(pin) for package, pin in PINNED.items()):
        pytest.skip(f"{python} has {found}, and the reference is written for {PINNED}")
    return _runner(python)
