"""What each of several processes on one machine is told: where the coordinator is, which one it is, its devices."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path

from rlhf_jax.parallel.distributed import COORDINATOR, COUNT, INDEX

_SIMULATED = "--xla_force_host_platform_device_count"


class LaunchError(ValueError):
    """Processes that cannot be started; the text says why."""


def places(
    processes: int, devices: int, environment: Mapping[str, str], *, gpus: int = 0, port: int = 0
) -> list[dict[str, str]]:
    """Make the environment of every process.

    Args:
        processes: how many there are.
        devices: those of one process; 0 is all simulated ones that ``XLA_FLAGS`` asks for, or one GPU.
        environment: what all of them have, variables by name.
        gpus: GPUs of the machine that programs are going to use.
        port: the coordinator's on 127.0.0.1; 0 is a free one.

    Returns:
        Variables by name, for each process.

    Raises:
        LaunchError: there are fewer than one process, or fewer GPUs than they need.

    Example:
        >>> one, other = places(2, 4, {"XLA_FLAGS": "--xla_a=1"}, port=1234)
        >>> other["XLA_FLAGS"], other["RLHF_COORDINATOR"], one["RLHF_PROCESS_INDEX"], other["RLHF_PROCESS_INDEX"]
        ('--xla_a=1 --xla_force_host_platform_device_count=4', '127.0.0.1:1234', '0', '1')
    """
    if processes < 1:
        raise LaunchError(f"--processes must be at least 1, found {processes}")
    if devices < 0:
        raise LaunchError(f"--devices-per-process must be at least 1, found {devices}")
    each = devices or (1 if processes > 1 else 0)
    if gpus and processes * each > gpus:
        wanted = f"{processes} processes with {each} each" if each > 1 else f"{processes} processes with one each"
        raise LaunchError(
            f"this machine has {gpus} GPUs to use, too few for {wanted}: start fewer, or simulate devices on the CPU "
            "with JAX_PLATFORMS=cpu"
        )
    port = port or free_port()
    shared = {
        **environment,
        COORDINATOR: f"127.0.0.1:{port}",
        COUNT: str(processes),
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",  # else it listens to the network
    }
    if devices and not gpus:
        shared["XLA_FLAGS"] = _with_devices(environment.get("XLA_FLAGS", ""), devices)
    return [{**shared, **_own(index, each if gpus else 0)} for index in range(processes)]


def _own(index: int, gpus: int) -> dict[str, str]:
    own = {INDEX: str(index)}
    if gpus:
        own["JAX_LOCAL_DEVICE_IDS"] = ",".join(str(index * gpus + i) for i in range(gpus))
    if index:
        own["PYTHONUNBUFFERED"] = "1"  # its output is read line by line
    return own


def _with_devices(flags: str, devices: int) -> str:
    kept = [flag for flag in flags.split() if flag.partition("=")[0] != _SIMULATED]
    return " ".join([*kept, f"{_SIMULATED}={devices}"])


def gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> int:
    """Count the NVIDIA GPUs that a program is going to use, without taking any of their memory.

    Args:
        environment: variables by name: ``JAX_PLATFORMS`` and ``CUDA_VISIBLE_DEVICES`` count.
        devices: where the driver's device files are.

    Example:
        >>> gpus({"JAX_PLATFORMS": "cpu"}), gpus({"CUDA_VISIBLE_DEVICES": "0,3"}, Path("/nowhere"))
        (0, 0)
    """
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return 0
    there = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in devices.glob("nvidia*"))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if not there or visible is None:
        return there
    return len([word for word in visible.split(",") if word.strip() not in ("", "-1")])


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens at now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
