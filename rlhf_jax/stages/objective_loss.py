"""From an objective to a loss function: the forward passes, the objective, and the reduction that it declares."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.models import ValueHead
from rlhf_jax.models.forward import forward
from rlhf_jax.types import Array, Aux, LossFn, Model, Objective, Params, SequenceBatch


def make_loss_fn(objective: Objective, models: Mapping[str, Model | ValueHead], *, temperature: float = 1.0) -> LossFn:
    """Turn an objective into ``loss_fn(params, batch, key) -> (numerator, Aux)``.

    Where ``batch.weight`` [B] is there, the losses of each group are multiplied by it; metrics are not.

    The loss of a global batch is the sum of numerators over its micro-batches divided by the sum of ``Aux.weight``;
    ``training.make_train_step`` does that, so no mean of means can arise.

    Args:
        objective: ``(outputs, batch) -> Loss``; bind hyperparameters with ``functools.partial``.
        models: by role, as for ``forward``.
        temperature: the one at which the policy's log-probabilities and entropy are taken. On sampled responses it is
            the sampler's, or the ratio to the policy that sampled would not start at 1; on text that people wrote it
            is 1.

    Returns:
        A pure function; ``key`` draws the dropout of adapters that have one, and None leaves it out.
    """

    def loss_fn(params: Params, batch: SequenceBatch, key: Array | None) -> tuple[Array, Aux]:
        loss = objective(forward(models, params, batch, key, temperature=temperature), batch)
        numerator, weight = loss.reduction(_weighed(loss.values, batch.weight), loss.mask)
        metrics = {
            name: (losses.masked_sum(values, mask), jnp.sum(mask, dtype=jnp.float32))
            for name, (values, mask) in loss.metrics.items()
        }
        return numerator, Aux(weight, metrics)

    return loss_fn


def _weighed(values: Array, weight: Array | None) -> Array:
    """Each group's losses times what the group counts for; the denominator stays, as weights are 1 on average."""
    if weight is None:
        return values
    return values * jax.lax.stop_gradient(weight).reshape(-1, *(1,) * (values.ndim - 1))
