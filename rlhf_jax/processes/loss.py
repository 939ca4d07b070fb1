"""Errors of JAX that mean that another process is gone, and the one of ours in their place."""

from __future__ import annotations

import jax

from rlhf_jax.processes.coordinator import gone_sentence, is_gone
from rlhf_jax.processes.errors import LostProcessError

# What JAX says when a process, or the one that coordinates, no longer answers.
_LOSS = ("Connection closed by peer", "Gloo", "coordination service", "heartbeat", "Socket closed", "UNAVAILABLE")


def lost(error: BaseException) -> bool:
    """Tell whether an error of JAX means that another process is gone."""
    return (
        jax.distributed.is_initialized()
        and isinstance(error, jax.errors.JaxRuntimeError)
        and any(word in str(error) for word in _LOSS)
    )


def loss_of(what: str, error: BaseException) -> LostProcessError:
    """Make the error to raise in its place, which says so if the lost one is process 0."""
    if is_gone():
        return LostProcessError(f"{what}: {gone_sentence()}")
    said = str(error).splitlines()[0]
    return LostProcessError(
        f"{what}: another process of the run is gone ({said[:200]}); start all processes again with the same command, "
        "which continues from the last checkpoint"
    )
