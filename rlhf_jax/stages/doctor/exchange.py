"""What devices send to each other: a sum over all of them, whose value is known, and how fast it was."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax import parallel, processes
from rlhf_jax.stages.doctor.finding import Finding
from rlhf_jax.types import Array

ADVICE = (
    "Every host must reach every other one: look at the firewall, and which network is used (NCCL_SOCKET_IFNAME on "
    "GPUs; gloo on CPUs takes the address of the host's name)"
)


def spread(rows: int, columns: int) -> Array:
    """Make rows of ones, twos and so on, in parts that lie on all devices.

    Args:
        rows: as many as there are devices.
        columns: numbers in a row.
    """
    mesh = parallel.make_mesh(parallel.MeshConfig())
    place = NamedSharding(mesh, PartitionSpec(parallel.BATCH))
    return processes.put(np.broadcast_to(np.arange(1, rows + 1, dtype=np.float32)[:, None], (rows, columns)), place)


def summed(rows: Array) -> Array:
    """Add up the rows of all devices, and give every device the sum."""
    return _sum(rows, parallel.replicated(parallel.make_mesh(parallel.MeshConfig())))


@functools.partial(jax.jit, static_argnums=1)
def _sum(rows: Array, place: NamedSharding) -> Array:
    return jax.lax.with_sharding_constraint(jnp.sum(rows, axis=0), place)


def all_reduce(mebibytes: float = 4.0, add: Callable[[Array], Array] = summed) -> Finding:
    """Sum an array over all devices of all processes, check the value and measure the time.

    Args:
        mebibytes: size of the part that one device has.
        add: sums rows that lie on all devices.
    """
    count = jax.device_count()
    if count == 1:
        return Finding("all-reduce", True, "one device, nothing to exchange")
    rows = spread(count, int(mebibytes * 2**18))
    expected = count * (count + 1) / 2
    seconds = []
    for _ in range(4):  # the first compiles
        start = time.perf_counter()
        found = jax.block_until_ready(add(rows))
        seconds.append(time.perf_counter() - start)
    wrong = np.flatnonzero(np.asarray(processes.fetch(found)) != expected)
    if wrong.size:
        value = float(np.asarray(processes.fetch(found))[wrong[0]])
        return Finding(
            "all-reduce",
            False,
            f"the sum of 1 to {count} over {count} devices was {value:g} in {wrong.size} places, {expected:g} is right",
            "A device or a link computes wrongly: run this on each host by itself (--distributed off) to find which, "
            "and replace it",
        )
    # A ring sends 2 (n - 1) / n of the array from every device.
    sent = mebibytes / 1024 * 2 * (count - 1) / count
    return Finding(
        "all-reduce",
        True,
        f"{mebibytes:g} MiB over {count} devices in {1000 * min(seconds[1:]):.2g} ms, "
        f"{sent / min(seconds[1:]):.2g} GiB/s a device",
    )
