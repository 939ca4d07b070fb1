"""The old place of ``make_loss_fn`` and ``forward``: it goes with the next version."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from rlhf_jax.models.forward import forward
from rlhf_jax.stages.objective_loss import make_loss_fn
from rlhf_jax.types import LossFn, Model, Objective

__all__ = ["forward", "lift"]


def lift(objective: Objective, models: Mapping[str, Model]) -> LossFn:
    """Call ``make_loss_fn``, which is the name now, with a warning."""
    said = "stages.lift is called stages.make_loss_fn now; the old name goes with the next version"
    warnings.warn(said, DeprecationWarning, stacklevel=2)
    return make_loss_fn(objective, models)
