"""Points at which the processes of a run wait for one another, and not for ever.

A collective on the devices waits without end for a process that died or hangs. A barrier goes through the service that
``jax.distributed`` starts, on the hosts alone, and after its time-out it says who did not come.
"""

from __future__ import annotations

import re
import time

import jax

# JAX has no public barrier with a time-out: ``multihost_utils.sync_global_devices`` is a collective on the devices.
from jax._src import distributed

from rlhf_jax.processes.coordinator import gone_sentence, is_gone
from rlhf_jax.processes.errors import LostProcessError


class BarrierError(LostProcessError):
    """A barrier that not all processes reached in time, or that failed.

    Args:
        name: the barrier's.
        process: this process's number.
        count: how many processes there are.
        waited: seconds that this one waited.
        missing: numbers of those that did not come; empty where that is not known.
        said: the service's own words, for a failure that is no time-out.

    Example:
        >>> print(BarrierError("save", 0, 4, 600.0, (1, 3)))
        barrier 'save': process 0 of 4 waited 600.0 s; processes that did not come: 1, 3; look at what they printed last
    """

    def __init__(self, name: str, process: int, count: int, waited: float, missing: tuple[int, ...], said: str = ""):
        numbers = ", ".join(str(other) for other in missing) or "not known"
        why = f"it failed: {said}" if said else f"processes that did not come: {numbers}"
        super().__init__(
            f"barrier {name!r}: process {process} of {count} waited {waited:.1f} s; {why}; "
            f"look at what {'they' if missing else 'the others'} printed last"
        )
        self.name, self.process, self.count, self.waited, self.missing = name, process, count, waited, missing


def barrier(name: str, *, timeout: float = 600.0) -> None:
    """Wait until every process of the run has called this with the same name; with one process, return at once.

    A name may be used again: its n-th call in one process meets the n-th call in every other. After a time-out the
    processes no longer agree on what comes next, so the run should end.

    Args:
        name: what is waited for, for the message.
        timeout: seconds to wait for the others.

    Raises:
        BarrierError: somebody did not come in time, or the service failed; the message says who, where that is known.
        LostProcessError: process 0 is gone.
        ValueError: the time-out is not above 0.

    Example:
        >>> barrier("before the first step", timeout=60)
    """
    if not timeout > 0:
        raise ValueError(f"barrier {name!r}: timeout must be above 0 seconds, found {timeout}")
    client, process = distributed.global_state.client, distributed.global_state.process_id
    count = distributed.global_state.num_processes
    if client is None or count is None or count < 2:
        return
    began = time.monotonic()
    try:
        client.wait_at_barrier(name, max(1, round(timeout * 1000)))
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        late = said.startswith("DEADLINE_EXCEEDED")
        waited = time.monotonic() - began
        if not late and is_gone():
            raise LostProcessError(f"barrier {name!r}: {gone_sentence()}") from error
        reason = "" if late else said.splitlines()[0]
        raise BarrierError(name, process, count, waited, _missing(said), reason) from error


def _missing(said: str) -> tuple[int, ...]:
    """Find the processes that the service names: one a line, after the words "timed out task names"."""
    _, _, names = said.partition("timed out task names:")
    return tuple(int(number) for number in re.findall(r"^(?:.*task:)?(\d+)\s*$", names, flags=re.M))
