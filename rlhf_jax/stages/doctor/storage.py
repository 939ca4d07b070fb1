"""Where a run writes: one folder for all hosts, a checkpoint that comes back, programs that are found again."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import checkpoint, processes
from rlhf_jax.stages.doctor.exchange import spread
from rlhf_jax.stages.doctor.finding import Finding
from rlhf_jax.stages.profile.figures import Compilations

Look = Callable[[Path], Finding]

FOLDER_ADVICE = (
    "Name a folder that can be written with --out; in several processes, one that all hosts share (NFS, a PVC)"
)
CACHE_ADVICE = (
    "Let JAX_COMPILATION_CACHE_DIR name a folder that can be written, for several hosts one that they share; without "
    "it every start compiles everything again"
)


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """Make a folder in the run folder's place, the same for all processes, and remove it."""
    made = Path(processes.from_first(lambda: _make(out), f"writing {out}"))
    try:
        yield made
    finally:
        processes.meet("looked")  # somebody may be looking still
        processes.from_first(lambda: shutil.rmtree(made, ignore_errors=True), f"removing {made}")


def _make(out: Path) -> str:
    out.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=".doctor-", dir=out.absolute())


def shared_folder(folder: Path, wait: float = 5.0) -> Finding:
    """Write a file in the first process, and look for it in all.

    Args:
        folder: where.
        wait: seconds that a network's folder may take to show it.
    """
    path = folder / "from-process-0"
    text = processes.from_first(lambda: _written(path), f"writing {path}")
    until = time.monotonic() + wait
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.1)
    if not path.exists():
        return Finding(
            "run folder",
            False,
            f"{folder.parent} is not the folder that process 0 writes to",
            "Name a folder with --out that all hosts share (NFS, a PVC): checkpoints are written by all of them",
        )
    if path.read_text(encoding="utf-8") != text:
        return Finding("run folder", False, f"{path} holds something else than was written", "Look at that file system")
    return Finding("run folder", True, f"{folder.parent} can be written" + (", all see it" * processes.several()))


def _written(path: Path) -> str:
    text = str(time.time_ns())
    path.write_text(text, encoding="utf-8")
    return text


def round_trip(folder: Path, mebibytes: float = 1.0) -> Finding:
    """Save parameters as a run does, read them onto the same devices, and compare every bit.

    Args:
        folder: where.
        mebibytes: size of the part that one device has.
    """
    shape = (jax.device_count(), int(mebibytes * 2**18))
    # Noise, for what repeats itself is packed to almost nothing.
    noise = jax.jit(lambda key: jax.random.normal(key, shape), out_shardings=spread(shape[0], 1).sharding)
    part = noise(jax.random.key(0))
    start = time.perf_counter()
    checkpoint.save_params(folder / "params", {"spread": part}, {"made_by": "rlhf doctor"})
    saved = time.perf_counter() - start
    found, metadata = processes.agree(
        lambda: checkpoint.load_params(folder / "params", part.sharding), "reading the checkpoint back"
    )
    loaded = time.perf_counter() - start - saved
    differ = int(processes.fetch(jax.jit(lambda a, b: jnp.sum(a != b))(found["spread"], part)))
    if differ or metadata != {"made_by": "rlhf doctor"}:
        return Finding(
            "checkpoint",
            False,
            f"{differ} of {part.size} numbers came back changed, with the metadata {metadata}",
            "Do not train on this file system",
        )
    size = part.nbytes / 2**20
    return Finding("checkpoint", True, f"{size:g} MiB saved in {saved:.2g} s, read and verified in {loaded:.2g} s")


def compiled_programs() -> Finding:
    """Compile a program that nobody has compiled before, forget it, and look whether it is found again."""
    enabled = bool(jax.config.jax_enable_compilation_cache)  # type: ignore[attr-defined]
    folder = jax.config.jax_compilation_cache_dir or ""  # type: ignore[attr-defined]
    others = processes.exchange_json([enabled, bool(folder)])
    if not all(on for on, _ in others):
        return Finding("compiled programs", True, "switched off (JAX_ENABLE_COMPILATION_CACHE)")
    if not all(there for _, there in others):
        return Finding("compiled programs", bool(folder), f"kept in {folder or 'no folder'}", CACHE_ADVICE)
    number = processes.from_first(lambda: time.time_ns() % 10**9, "choosing a program")
    part = spread(jax.device_count(), 8)
    least = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
    jax.config.update(least, 0.0)
    try:
        _compile(number, part)
        processes.meet("compiled")
        watch = Compilations()
        with watch.watched():
            _compile(number, part)
    finally:
        jax.config.update(least, before)
    found = processes.exchange_json(watch.read_back > 0)
    if not found[0]:
        return Finding("compiled programs", False, f"a program was not found again in {folder}", CACHE_ADVICE)
    # JAX lets process 0 alone write. Where its key names a process' own devices, as on CPUs, no other one finds that.
    again = "found again" if len(found) == 1 else f"found again by {sum(found)} of {len(found)} processes"
    return Finding("compiled programs", True, f"kept in {folder}, {again}")


def _compile(number: int, like: jax.Array) -> None:
    constant = np.float32(number)
    jax.jit(lambda x: jnp.sin(x) * constant).lower(like).compile()
