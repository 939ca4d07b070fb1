"""How fast a device can be at most: FLOPs a second in bfloat16 products, bytes a second from its memory.

Figures of data sheets for accelerators, for one device of the kind that ``jax.Device.device_kind`` names: without
sparsity, and the fastest form where there are several. A device that is not listed, such as a CPU, is measured.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Limits(NamedTuple):
    """What one device can do at most."""

    flops: float  # a second, in matrix products
    bandwidth: float  # bytes a second
    source: str  # where the figures come from


_NVIDIA = "NVIDIA data sheet, SXM, dense bfloat16"
_GOOGLE = "Cloud TPU documentation, bfloat16, one chip"
# A part of the device's kind, in lower case, and its limits; the first that matches counts.
TABLE: tuple[tuple[str, Limits], ...] = (
    ("h200", Limits(989e12, 4.8e12, _NVIDIA)),
    ("h100 pcie", Limits(756e12, 2.0e12, "NVIDIA data sheet, PCIe, dense bfloat16")),
    ("h100", Limits(989e12, 3.35e12, _NVIDIA)),
    ("a100-sxm4-40gb", Limits(312e12, 1.555e12, _NVIDIA)),
    ("a100-pcie-40gb", Limits(312e12, 1.555e12, "NVIDIA data sheet, PCIe, dense bfloat16")),
    ("a100", Limits(312e12, 2.039e12, _NVIDIA)),
    ("tpu v6", Limits(918e12, 1.638e12, _GOOGLE)),
    ("tpu v5 lite", Limits(197e12, 0.819e12, _GOOGLE)),
    ("tpu v5e", Limits(197e12, 0.819e12, _GOOGLE)),
    ("tpu v5", Limits(459e12, 2.765e12, _GOOGLE)),
    ("tpu v4", Limits(275e12, 1.2e12, _GOOGLE)),
)


def known(kind: str) -> Limits | None:
    """Look up the limits of a kind of device; None where it is not in the table.

    Example:
        >>> known("NVIDIA H200").bandwidth, known("cpu")
        (4800000000000.0, None)
    """
    return next((limits for name, limits in TABLE if name in kind.lower()), None)


def measure(device: jax.Device, *, size: int = 1536, repeats: int = 5) -> Limits:
    """Measure a device by one large float32 product and by the sum of a large array: the best of several times.

    Args:
        device: the one to measure.
        size: rows and columns of the matrices.
        repeats: how often each is done.
    """
    with jax.default_device(device):
        matrix, long = jnp.ones((size, size)), jnp.ones((16 * size * size,))
        seconds = [_best(jax.jit(work), x, repeats) for work, x in ((lambda x: x @ x, matrix), (jnp.sum, long))]
    return Limits(2 * size**3 / seconds[0], long.nbytes / seconds[1], "measured in this run, float32")


def limits(device: jax.Device) -> Limits:
    """Find the limits of a device in the table, or measure them."""
    return known(device.device_kind) or measure(device)


def _best(work: jax.stages.Wrapped, x: jax.Array, repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):  # the first compiles
        start = time.perf_counter()
        jax.block_until_ready(work(x))
        times.append(time.perf_counter() - start)
    return min(times[1:])
