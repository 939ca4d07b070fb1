"""``check_arrays``: the short form of ``check_objective``, which needs no model and one compiled program."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.testing.calling import FORM, Called, check_signature
from rlhf_jax.testing.faults import check_stop_gradient
from rlhf_jax.testing.points import (
    Point,
    check_columns,
    check_groups,
    check_noise,
    check_signs,
    check_ties,
    look,
)
from rlhf_jax.testing.probes import ObjectiveError, prober
from rlhf_jax.testing.tiny import tiny_batch
from rlhf_jax.types import Objective, Outputs, SequenceBatch

_ALWAYS = {"tokens", "mask", "segment_ids", "positions"}


def check_arrays(
    objective: Objective,
    *,
    given: tuple[Collection[str], Collection[str]] = (Outputs._fields, SequenceBatch._fields),
    responses: int = 2,
    signs: bool = True,
    gradients_of_data: bool = True,
    rtol: float = 1e-5,
) -> list[str]:
    """Check on arrays alone that an objective is sound; a stage does so with every objective of the user's own.

    Args:
        objective: ``(outputs, batch) -> Loss``, hyperparameters bound.
        given: fields of ``Outputs`` and of ``SequenceBatch`` that are filled; the others are None.
        responses: K.
        signs: look whether more of a signal pushes a response up.
        gradients_of_data: refuse a gradient into the batch, where a stage's own are data and have none.
        rtol: how far a loss may be off, relative to itself.

    Returns:
        The names of the properties that were checked; ``check_objective`` explains them.

    Raises:
        ObjectiveError: on the first property that does not hold.

    Example:
        >>> from rlhf_jax import losses
        >>> from rlhf_jax.types import Loss
        >>> check_arrays(lambda outputs, batch: Loss(-outputs.logprobs, batch.segment_ids > 0, losses.token_mean))
        Traceback (most recent call last):
        rlhf_jax.testing.ObjectiveError: mask: outputs or fields behind the mask change the loss
    """
    check_signature(objective)
    called = Called(objective)
    point = some_point(given, responses)
    jax.eval_shape(lambda o, b: called.reduced(called(o, b)), *point)
    probe = prober(called)
    seen = look(probe, point)
    if not seen.finite:
        raise ObjectiveError("finite gradients", f"the loss is {seen.numerator} and some gradient is not finite")
    if not any(np.any(x != 0) for x in seen.gradient.values()):
        raise ObjectiveError("has a gradient", "the gradient is zero for every output")
    check_noise(probe, point, rtol)
    check_columns(probe, point, rtol)
    check_groups(probe, point, rtol)
    if gradients_of_data:
        check_stop_gradient(probe, *point)
    check_ties(probe, point)
    if signs:
        check_signs(probe, point)
    names = [*FORM, "traceable", "finite gradients", "has a gradient", "mask", "padding side", "filler groups"]
    also = [*(["stop gradient"] if gradients_of_data else []), "finite at ties", *(["sign"] if signs else [])]
    return [*names, "micro-batching", *also]


def some_point(given: tuple[Collection[str], Collection[str]], responses: int) -> Point:
    """Make outputs and a batch close to the first update, with the fields that are given."""
    full = tiny_batch(responses=responses)._replace(kl_coef=jnp.full((8, responses), 0.1))
    rng, mask = np.random.default_rng(4), np.asarray(full.mask)

    def normal(scale: float, shape: Any = mask.shape) -> Any:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    outputs = Outputs(
        logprobs=jnp.where(mask, full.old_logprobs + normal(0.02), 0.0),
        entropy=jnp.where(mask, np.abs(normal(1.0)) + 0.5, 0.0),
        values=full.old_values + normal(0.02),
        scores=jnp.asarray(normal(1.0, mask.shape[:2])),
    )
    left_out: dict[str, Any] = {name: None for name in Outputs._fields if name not in given[0]}
    unfilled: dict[str, Any] = {name: None for name in SequenceBatch._fields if name not in {*given[1], *_ALWAYS}}
    return Point(outputs._replace(**left_out), full._replace(**unfilled))
