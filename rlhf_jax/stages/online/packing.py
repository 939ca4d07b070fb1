"""Which responses an iteration's updates pack into which blocks: a function of their lengths and of the order alone."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data.blocks import BlockPlan, BlockShape, lay_out
from rlhf_jax.training import Metrics
from rlhf_jax.types import Array

AHEAD = 64  # iterations whose orders are drawn at once


def plan_updates(lengths: np.ndarray, order: np.ndarray, shape: BlockShape) -> BlockPlan:
    """Plan the blocks of every update of an iteration.

    Args:
        lengths: int [B, K], tokens of every sequence.
        order: int [U, B / minibatches], the groups of each update.
        shape: the blocks'.

    Returns:
        A plan whose arrays have a leading axis [U]; its groups are indices into all B of them.

    Example:
        >>> shape = BlockShape(blocks=2, rows=1, row_length=8, groups=2)
        >>> plan = plan_updates(np.array([[3], [5], [8], [2]]), np.array([[3, 0], [2, 1]]), shape)
        >>> plan.groups.tolist(), plan.used.tolist()
        ([[[0, 3], [-1, -1]], [[2, -1], [1, -1]]], [1, 2])
    """
    plans = [lay_out(lengths[groups], shape) for groups in order]
    groups = [np.where(plan.groups >= 0, own[plan.groups], -1) for plan, own in zip(plans, order, strict=True)]
    return BlockPlan(
        np.stack(groups).astype(np.int32), np.stack([p.starts for p in plans]), np.stack([p.used for p in plans])
    )


def padding(lengths: np.ndarray, order: np.ndarray, plan: BlockPlan, shape: BlockShape) -> Metrics:
    """Compute the share of places in an iteration's forward passes that hold no token, as ``padding``."""
    places = float(plan.used.sum()) * shape.size
    return {"padding": (jnp.float32(places - lengths[order].sum()), jnp.float32(places))}


def make_order(key: Array, epochs: int, minibatches: int) -> Callable[[int, int], np.ndarray]:
    """Make ``order(step, groups)``: which groups each update of an iteration takes, int [U, groups / minibatches].

    It is the permutation of the groups, one an epoch, that the step's key gives. The host needs it to plan while the
    devices are at work, so those of many iterations are drawn at once, and none waits for them.

    Args:
        key: the run's.
        epochs: passes over the groups.
        minibatches: updates of a pass.
    """

    @functools.partial(jax.jit, static_argnames=("groups",))
    def draw(steps: Array, groups: int) -> Array:
        def one(step: Array) -> Array:
            shuffle, _ = jax.random.split(jax.random.fold_in(key, step))
            return jax.vmap(lambda k: jax.random.permutation(k, groups))(jax.random.split(shuffle, epochs))

        return jax.vmap(one)(steps)

    @functools.lru_cache(maxsize=2)
    def window(number: int, groups: int) -> np.ndarray:
        steps = jnp.arange(AHEAD) + number * AHEAD
        return np.asarray(draw(steps, groups=groups))

    def order(step: int, groups: int) -> np.ndarray:
        return window(step // AHEAD, groups)[step % AHEAD].reshape(epochs * minibatches, -1)

    return order
