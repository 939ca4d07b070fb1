"""Several processes as one run: what is on every host, what is this one's share, and who writes the files."""

from rlhf_jax.processes.agreement import (
    agree,
    exchange,
    exchange_json,
    first,
    from_first,
    known_to_all,
    meet,
    several,
    share,
)
from rlhf_jax.processes.arrays import fetch, put
from rlhf_jax.processes.barriers import BarrierError, barrier
from rlhf_jax.processes.errors import LostProcessError, OtherProcessError, end_at_once
from rlhf_jax.processes.loss import loss_of, lost
from rlhf_jax.processes.slices import slices

__all__ = [
    "BarrierError",
    "LostProcessError",
    "OtherProcessError",
    "agree",
    "barrier",
    "end_at_once",
    "exchange",
    "exchange_json",
    "fetch",
    "first",
    "from_first",
    "known_to_all",
    "loss_of",
    "lost",
    "meet",
    "put",
    "several",
    "share",
    "slices",
]
