"""What each host has: devices and their memory, its own memory, room where the run folder is going to be, the time."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import jax

from rlhf_jax import processes
from rlhf_jax.stages.doctor.finding import Finding

GIB = 2**30
# Device files of accelerators, and what JAX needs to use them.
_DRIVERS = (("nvidia[0-9]*", "gpu", "cuda"), ("accel[0-9]*", "tpu", "tpu"))


def devices(files: Path = Path("/dev")) -> Finding:
    """Count the devices of all processes and of each; every process should have the same, and use what is there.

    Args:
        files: where drivers keep their device files.
    """
    here = jax.local_devices()
    kinds = Counter(device.device_kind for device in here)
    own = sorted(kinds.items())
    said = processes.exchange_json([[kind, count] for kind, count in own])
    text = " and ".join(f"{count} x {kind}" for kind, count in own)
    if said[0] != [[kind, count] for kind, count in own]:
        return Finding(
            "devices",
            False,
            f"{text}, and process 0 has {' and '.join(f'{count} x {kind}' for kind, count in said[0])}",
            "Every process needs the same number of devices of the same kind: look at CUDA_VISIBLE_DEVICES, the node "
            "selector, or the driver of that host",
        )
    platform = here[0].platform
    for pattern, name, extra in _DRIVERS:
        if "JAX_PLATFORMS" not in os.environ and platform == "cpu" and list(files.glob(pattern)):
            return Finding(
                "devices",
                False,
                f"{text}, but the machine has a {name.upper()}",
                f"Install the {name.upper()} build of jax: in a clone, pip install -e '.[{extra}]'; "
                "or set JAX_PLATFORMS=cpu if that is meant",
            )
    if not processes.several():
        return Finding("devices", True, f"{text}, one process")
    return Finding("devices", True, f"{text} a process, {len(said)} processes, {jax.device_count()} devices in all")


def device_memory() -> Finding:
    """Look how much of the devices' memory is free; nearly all of it should be, before anything is done."""
    stats = [(device, device.memory_stats()) for device in jax.local_devices()]
    known = [(device, found["bytes_limit"], found["bytes_in_use"]) for device, found in stats if found]
    if not known:
        return Finding("device memory", True, f"the platform {jax.local_devices()[0].platform} does not say")
    device, limit, used = min(known, key=lambda each: each[1] - each[2])
    text = f"{(limit - used) / GIB:.1f} of {limit / GIB:.1f} GiB free on {device}"
    if used > limit / 10:
        return Finding("device memory", False, text, "End what else uses the device")
    return Finding("device memory", True, text)


def host_memory(least: float, path: Path = Path("/proc/meminfo")) -> Finding:
    """Look how much memory the host has left.

    Args:
        least: GiB that have to be free.
        path: where Linux says it.
    """
    if not path.exists():
        return Finding("host memory", True, f"{path} is not there to say")
    lines = path.read_text(encoding="utf-8").splitlines()
    kibibytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    text = f"{kibibytes / 2**20:.1f} GiB free"
    if kibibytes < least * 2**20:
        return Finding(
            "host memory", False, f"{text}, {least:g} wanted", "End other programs, or ask for a host or pod with more"
        )
    return Finding("host memory", True, text)


def disk(out: Path, least: float) -> Finding:
    """Look how much room there is where the run folder is going to be.

    Args:
        out: the folder; it need not be there yet.
        least: GiB that have to be free.
    """
    there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free / GIB
    text = f"{free:.1f} GiB free at {there}"
    if free < least:
        return Finding(
            "disk",
            False,
            f"{text}, {least:g} wanted",
            "Remove old runs, or name another folder with --out; a checkpoint holds parameters and optimiser state",
        )
    return Finding("disk", True, text)


def clocks(most: float = 2.0) -> Finding:
    """Compare the time of all hosts, which logs and file times are read by.

    Args:
        most: seconds that they may differ by.
    """
    if not processes.several():
        return Finding("clocks", True, "one process, nothing to compare")
    processes.meet("clocks")
    times = processes.exchange_json(time.time())
    apart = max(times) - min(times)
    if apart > most:
        late = times.index(min(times))
        return Finding(
            "clocks",
            False,
            f"{apart:.1f} s apart, process {late} is behind",
            "Let every host take its time from the network (chrony, ntpd), or logs cannot be put in order",
        )
    return Finding("clocks", True, f"at most {1000 * apart:.0f} ms apart")
