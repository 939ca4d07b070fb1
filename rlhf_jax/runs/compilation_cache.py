"""Compiled programs are kept in the user's cache folder, so that a command that was run before starts at once.

Who has told JAX where to keep them (``JAX_COMPILATION_CACHE_DIR``), or to keep none
(``JAX_ENABLE_COMPILATION_CACHE=0``), is obeyed. ``import rlhf_jax`` changes nothing: the stages and the command line
call ``keep_compiled``.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import warnings
from pathlib import Path

import jax

from rlhf_jax.runs.fetch import cache_folder

# Reading a program back takes some 0.1 s on a CPU; JAX's own threshold of 1 s leaves most of a small model's out.
_MIN_SECONDS = 0.1
_MOST_BYTES = 4 << 30


def compiled_folder() -> Path:
    """Find where this machine's compiled programs are kept.

    Machines that share a home folder have a folder each: a program for one CPU may not run on another.
    """
    return cache_folder() / "compiled" / f"{platform.machine()}-{_cpu()}"


def keep_compiled() -> Path | None:
    """Keep compiled programs in the user's cache folder from now on, unless JAX was told something else.

    Returns:
        The folder; None where it is somebody else's choice, or where it cannot be written, which is warned of.
    """
    if not jax.config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    try:
        folder = compiled_folder()
    except RuntimeError as error:  # there is no home folder
        _warn(error)
        return None
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is not None:
        return folder if chosen == str(folder) else None
    try:
        # What lies there is run as it is, so nobody else may write it.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            _drop_oldest(folder, _MOST_BYTES)
    except OSError as error:
        _warn(error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    return folder


def _warn(error: Exception) -> None:
    warnings.warn(
        f"compiled programs are not kept, so the next run compiles them again ({error}): name a folder that can be "
        "written with RLHF_JAX_CACHE, or switch this off with JAX_ENABLE_COMPILATION_CACHE=0",
        stacklevel=3,
    )


def _cpu() -> str:
    """Name this machine's kind of CPU by what it can do."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    able = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(able.encode()).hexdigest()[:8]


def _drop_oldest(folder: Path, most: int) -> None:
    """Remove the programs that were read longest ago, until the folder holds no more bytes than this."""
    found = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    total = sum(stat.st_size for _, stat in found)
    for path, stat in sorted(found, key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime)):
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= stat.st_size
