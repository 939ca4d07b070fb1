"""All of the doctor's questions, in the order in which one failing explains the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from rlhf_jax.stages.doctor import exchange, machine, sample, storage, versions
from rlhf_jax.stages.doctor.finding import Finding, asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run is going to need."""

    out: Path
    memory: float = 2.0  # GiB of every host
    disk: float = 5.0  # GiB where the run folder is


def examine(needs: Needs) -> Iterator[Finding]:
    """Ask everything, in all processes together.

    Args:
        needs: the run folder, and how much has to be free.

    Yields:
        An answer at a time, so that what hangs is the question after the last one that was answered.
    """
    yield asked("versions", versions.versions, "Install the package with pip")
    yield asked("devices", machine.devices, "Look at the driver")
    yield asked("device memory", machine.device_memory, "Look at the driver")
    yield asked("host memory", lambda: machine.host_memory(needs.memory), "Look at /proc/meminfo")
    yield asked("disk", lambda: machine.disk(needs.out, needs.disk), storage.FOLDER_ADVICE)
    yield asked("clocks", machine.clocks, "Look at the hosts' time")
    yield asked("all-reduce", exchange.all_reduce, exchange.ADVICE)
    folder = asked("run folder", lambda: _in(needs.out, storage.shared_folder), storage.FOLDER_ADVICE)
    yield folder
    if folder.ok:
        yield asked("checkpoint", lambda: _in(needs.out, storage.round_trip), storage.FOLDER_ADVICE)
    else:
        yield Finding("checkpoint", False, "not tried, for the run folder failed", storage.FOLDER_ADVICE)
    yield asked("compiled programs", storage.compiled_programs, storage.CACHE_ADVICE)
    yield asked("known sample", sample.known_sample, "Install the versions that README names")


def _in(out: Path, look: storage.Look) -> Finding:
    with storage.scratch(out) as folder:
        return look(folder)
