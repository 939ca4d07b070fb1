"""How the processes of a run find each other: one call, before anything else is done with JAX.

A process that is told nothing looks for itself: our own variables, which ``rlhf launch`` sets, come first, then what
JAX knows of (SLURM, GKE, Cloud TPU, Open MPI). Where there is nothing of the kind it is alone.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Literal

import jax

from rlhf_jax.processes import LostProcessError, end_at_once
from rlhf_jax.processes.coordinator import watch

Mode = Literal["auto", "off", "manual"]

COORDINATOR, COUNT, INDEX = "RLHF_COORDINATOR", "RLHF_PROCESS_COUNT", "RLHF_PROCESS_INDEX"

# By each of these a scheduler tells a process that it is one of several.
_SIGNS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_HOSTNAMES", "CLOUD_TPU_TASK_ID", "JOB_COMPLETION_INDEX")

# A process whose host is gone is missed after so many seconds. JAX's own 100 would keep a pod waiting for longer.
HEARTBEAT = 30


class DistributedError(RuntimeError):
    """Processes that cannot become one run; the text says which setting is missing or wrong, and what to do."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands in a run of several."""

    coordinator: str  # HOST:PORT of process 0
    count: int
    index: int


def initialize(
    mode: Mode = "auto",
    *,
    coordinator: str = "",
    count: int = 0,
    index: int = -1,
    timeout: int = 300,
    heartbeat: int = HEARTBEAT,
) -> None:
    """Join the other processes of the run.

    It must come before the first array or device.

    Args:
        mode: ``auto`` looks whether there are others, ``off`` stays alone, ``manual`` takes what is given here or in
            the environment (``RLHF_COORDINATOR``, ``RLHF_PROCESS_COUNT``, ``RLHF_PROCESS_INDEX``).
        coordinator: ``HOST:PORT`` of process 0, where all others can reach it.
        count: number of processes.
        index: this one's, from 0.
        timeout: seconds to wait for the others.
        heartbeat: a process that is silent for so many seconds is lost; the same in all of them.

    Raises:
        DistributedError: ``manual`` lacks a setting, one is out of range, or the others do not come in time.

    Example:
        >>> initialize("off")
        >>> jax.process_count()
        1
    """
    if mode == "off":
        return
    place = given_place(coordinator, count, index, os.environ)
    if place is None and mode == "manual":
        raise DistributedError(
            f"manual needs a coordinator HOST:PORT ({COORDINATOR}), a number of processes ({COUNT}) and this one's "
            f"index ({INDEX})"
        )
    arguments: dict[str, Any] = {} if place is None else _as_jax_has_them(place)
    patience = threading.Timer(timeout, _give_up, (place, timeout))
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=timeout + heartbeat,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=2 * heartbeat,
        )
    except ValueError as error:
        if place is None and "should be defined" in str(error):
            return  # nobody is there
        raise DistributedError(f"the processes cannot join: {error}") from error
    except RuntimeError as error:
        if "only be called once" in str(error) or (place is None and _used_alone(error)):
            return
        where = "" if place is None else f"process {place.index} of {place.count}, coordinator {place.coordinator}: "
        raise DistributedError(f"{where}the processes did not come together ({str(error)[:300]})") from error
    finally:
        patience.cancel()
    if jax.process_count() > 1:
        sys.excepthook = _end_at_once
        watch()


def _give_up(place: Place | None, timeout: int) -> None:
    """End a process that waits for others in vain: JAX would abort, with the stack of its C++ and no word of why."""
    where = "" if place is None else f"process {place.index} of {place.count}, coordinator {place.coordinator}: "
    print(
        f"{where}the others did not come within {timeout} s: were all started, with the same coordinator and count, "
        "and can they reach it? --distributed off runs this one alone",
        file=sys.stderr,
        flush=True,
    )
    end_at_once(LostProcessError.exit_code)


def _end_at_once(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error that nobody caught, and end: JAX would wait for the others, who may be waiting for this one."""
    sys.__excepthook__(kind, error, trace)
    end_at_once(error.exit_code if hasattr(error, "exit_code") else 1)


def given_place(coordinator: str, count: int, index: int, environment: Mapping[str, str]) -> Place | None:
    """Find a process' place in arguments and environment; None where nothing is said.

    Args:
        coordinator: as for ``initialize``; where it is empty, the environment's.
        count: likewise; 0 is nothing.
        index: likewise; -1 is nothing.
        environment: variables by name.

    Raises:
        DistributedError: some of the three are said and others not, or one is out of range.

    Example:
        >>> given_place("", 0, -1, {COORDINATOR: "10.0.0.2:1234", COUNT: "4", INDEX: "3"})
        Place(coordinator='10.0.0.2:1234', count=4, index=3)
    """
    words = {
        COORDINATOR: coordinator or environment.get(COORDINATOR, ""),
        COUNT: str(count) if count else environment.get(COUNT, ""),
        INDEX: str(index) if index >= 0 else environment.get(INDEX, ""),
    }
    if not any(words.values()):
        return None
    missing = [name for name, word in words.items() if not word]
    if missing:
        flags = {COORDINATOR: "--coordinator", COUNT: "--process-count", INDEX: "--process-index"}
        raise DistributedError(
            f"{' and '.join(missing)} must be given too, or {' and '.join(flags[name] for name in missing)}"
        )
    host, colon, port = words[COORDINATOR].rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
        raise DistributedError(f"{COORDINATOR}: expected HOST:PORT, found {words[COORDINATOR]!r}")
    if not words[COUNT].isdecimal() or int(words[COUNT]) < 1:
        raise DistributedError(f"{COUNT}: expected a whole number from 1, found {words[COUNT]!r}")
    most = int(words[COUNT])
    if not words[INDEX].isdecimal() or int(words[INDEX]) >= most:
        raise DistributedError(f"{INDEX}: expected 0 to {most - 1}, found {words[INDEX]!r}")
    return Place(words[COORDINATOR], most, int(words[INDEX]))


def _used_alone(error: RuntimeError) -> bool:
    """Tell whether JAX has begun already where nothing speaks of other processes, as in a notebook."""
    return "must be called before" in str(error) and not any(name in os.environ for name in _SIGNS)


def _as_jax_has_them(place: Place) -> dict[str, Any]:
    return {
        "coordinator_address": place.coordinator,
        "num_processes": place.count,
        "process_id": place.index,
        "cluster_detection_method": "deactivate",
    }
