"""A reference that is not where the policy starts: loaded, and checked to be a model of the same shape."""

from __future__ import annotations

import jax
from jax.sharding import Mesh

from rlhf_jax.models import LoRAConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import Start, place, start_from
from rlhf_jax.types import Params


def start_of_reference(path: str, policy: Start, *, mesh: Mesh, parked: bool) -> Params | None:
    """Load the frozen reference that a config names beside its policy.

    Args:
        path: a run folder, ``RUN:STAGE`` or a checkpoint; empty where the policy is its own reference.
        policy: where the policy starts, which has all weights trained.
        mesh: where the weights go.
        parked: whether they wait in the host's memory.

    Returns:
        The reference's parameters, None where the policy is its own.

    Raises:
        RunError: when it has another shape or tokenizer than the policy, so that no KL is defined between them.
    """
    if not path:
        return None
    found = start_from(path, LoRAConfig(), mesh=mesh, seed=0)
    shapes = [jax.tree.map(lambda x: x.shape, start.params) for start in (found, policy)]
    if shapes[0] != shapes[1] or found.tokenizer.to_json() != policy.tokenizer.to_json():
        raise RunError(
            f"reference {path}: expected a model of the policy's shape and tokenizer, as one has that the policy once "
            "started from"
        )
    return place(found.params, mesh, parked=parked)
