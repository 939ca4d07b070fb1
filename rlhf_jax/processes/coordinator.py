"""Whether process 0 is still there: it holds the coordinator, without which JAX aborts all others in words of its own.

Every other process keeps a connection to the coordinator's port, over which nothing is said. The kernel closes it when
process 0 dies, however it dies. Whether the port still answers tells that from a connection that was merely cut.
"""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import threading
import time

import jax

# The coordinator's address is in nothing public.
from jax._src import distributed

from rlhf_jax.processes.errors import LostProcessError, end_at_once

_GRACE = 3.0  # seconds in which the program may end by itself: its own error says at which step
_REACHED = 10.0  # a host that does not answer for so many seconds more is gone; JAX aborts after 30 in all


def gone_sentence() -> str:
    """Say that process 0 is gone, and what to do."""
    state = distributed.global_state
    return (
        f"process {state.process_id} of {state.num_processes}: process 0, which held the coordinator, is gone; look "
        "at what it printed last, and start all processes again with the same command, which continues from the last "
        "checkpoint"
    )


def is_gone(patience: float = _REACHED) -> bool:
    """Ask whether process 0 is gone: nobody listens at the coordinator's port.

    It asks half a second later, as the kernel closes what a dead process held one after another.

    Args:
        patience: seconds to try for where the host does not answer at all.

    Example:
        >>> is_gone()
        False
    """
    address = distributed.global_state.coordinator_address
    if not address or not distributed.global_state.process_id:
        return False
    time.sleep(0.5)
    return _nobody_at(address, patience)


def watch() -> None:
    """End this process with a sentence and status 75 soon after process 0 has died; every process calls it.

    The main thread has a while before that, to end with an error of its own. So it has in all processes, process 0
    too, where JAX aborts for the loss of another one.
    """
    _hold_aborts()
    address = distributed.global_state.coordinator_address
    if not address or not distributed.global_state.process_id:
        return
    done = threading.Event()
    # Run before JAX leaves the others, which it registered earlier: from then on process 0 may end.
    atexit.register(done.set)
    threading.Thread(target=_watch, args=(address, done), name="coordinator-watch", daemon=True).start()


def _watch(address: str, done: threading.Event) -> None:
    while not done.is_set():
        _wait_for_its_end(address)
        if not _nobody_at(address, _REACHED):
            done.wait(1.0)  # cut by something on the way, or by the server, which waits two minutes for a word
            continue
        if not done.wait(_GRACE) and jax.distributed.is_initialized():
            print(gone_sentence(), file=sys.__stderr__, flush=True)
            end_at_once(LostProcessError.exit_code)
        return


def _wait_for_its_end(address: str) -> None:
    """Hold a connection until the other side, or the network, ends it."""
    try:
        with socket.create_connection(_host_and_port(address), timeout=5.0) as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if sys.platform == "linux":  # a host without power sends nothing: it is asked every few seconds
                for option, value in ((socket.TCP_KEEPIDLE, 5), (socket.TCP_KEEPINTVL, 2), (socket.TCP_KEEPCNT, 3)):
                    held.setsockopt(socket.IPPROTO_TCP, option, value)
            held.settimeout(None)
            while held.recv(4096):
                continue
    except OSError:  # which says the same as an end: whether somebody listens is asked next
        return


def _nobody_at(address: str, patience: float) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            socket.create_connection(_host_and_port(address), timeout=min(5.0, patience)).close()
            return False
        except ConnectionRefusedError:
            return True
        except OSError:
            if time.monotonic() > until:
                return True
        time.sleep(0.5)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _hold_aborts() -> None:
    """Make a thread that aborts wait for 6 seconds first, in which another one can say what has happened.

    JAX aborts in a thread of its own, milliseconds after the coordinator's end. A handler of Python's runs later in
    the main thread, which is too late; the C library's ``sleep`` may be called in a handler, and the number of the
    signal, its argument, is 6.
    """
    if os.name != "posix" or faulthandler.is_enabled() or signal.getsignal(signal.SIGABRT) is not signal.SIG_DFL:
        return
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    library.signal(signal.SIGABRT, ctypes.cast(library.sleep, ctypes.c_void_p))
