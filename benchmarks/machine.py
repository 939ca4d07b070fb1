"""What the hardware allows: FLOPs and bytes a second, from the maker for known accelerators, measured elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.measure import Timing, Work

KNOWN = {  # dense bfloat16 FLOPs and bytes a second, by the maker's data sheet
    "A100": (312e12, 2.0e12),
    "H100": (989e12, 3.35e12),
    "H200": (989e12, 4.8e12),
    "TPU v5 lite": (197e12, 0.82e12),
    "TPU v5p": (459e12, 2.77e12),
}


class Limits(NamedTuple):
    """The speed of the machine."""

    flops: float  # a second, in matrix products
    bytes: float  # a second, to or from memory

    def seconds(self, flops: float, bytes_read: float = 0.0) -> float:
        """Compute the least time that work of so many FLOPs and bytes takes, were they perfectly overlapped."""
        return max(flops / self.flops, bytes_read / self.bytes)


class Machine:
    """The device and how its limits are known.

    Args:
        dtype: the type that matrix products are computed in.
        fast: measure on small arrays, whose figures mean nothing.
    """

    def __init__(self, dtype: str, *, fast: bool = False):
        device = jax.devices()[0]
        self.device = device.device_kind
        self._known = next((v for name, v in KNOWN.items() if name in self.device and dtype == "bfloat16"), None)
        self._size, self._wide = (128, 256) if fast else (2048, 8192)
        self._dtype = dtype

    def probes(self) -> dict[str, Work]:
        """Make the works whose times say how fast this machine is; none where that is known."""
        if self._known is not None:
            return {}
        square, few = jnp.ones((self._size, self._size), self._dtype), jnp.ones((8, self._wide), self._dtype)
        wide = jnp.ones((self._wide, self._wide), self._dtype)
        times = jax.jit(lambda x, y: x @ y)
        # A few rows times a matrix that no cache holds, which is what decoding does: the time is that of reading it.
        return {
            "matmul": lambda: times(square, square).block_until_ready(),
            "read": lambda: times(few, wide).block_until_ready(),
        }

    def limits(self, timings: Mapping[str, Timing]) -> Limits:
        """Read the limits, from what the probes took where there were any."""
        if self._known is not None:
            return Limits(*self._known)
        read = jnp.dtype(self._dtype).itemsize * self._wide**2
        return Limits(2 * self._size**3 / timings["matmul"].best, read / timings["read"].best)
