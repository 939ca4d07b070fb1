"""Segments of trajectories, and the comparisons of pairs of them that a reward is learnt from."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from rlhf_jax.control import policy
from rlhf_jax.control.agent import Rollout
from rlhf_jax.control.environment import Array, Environment

T = TypeVar("T")


class Segments(NamedTuple):
    """Stretches of T steps, as a rater sees them.

    Args:
        observations: [..., T, O], before the action.
        actions: [..., T, A], one-hot or numbers.
        rewards: [..., T], the true ones: synthetic raters go by them, nobody else may.

    Example:
        >>> Segments(jnp.zeros((8, 25, 4)), jnp.zeros((8, 25, 2)), jnp.zeros((8, 25))).rewards.shape
        (8, 25)
    """

    observations: Array
    actions: Array
    rewards: Array


class Comparisons(NamedTuple):
    """What raters have said so far, in arrays with room for all they will be asked.

    Args:
        first: [L], one segment of each pair.
        second: [L], the other one.
        preferences: [L], 1 where the first is better, 0 where the second is, 1/2 for a tie.
        weights: [L, M], how often each member of the ensemble counts the comparison: its bootstrap sample. Those that
            it does not count are held out from it.
        number: [], how many there are; what lies behind counts for nobody.

    Example:
        >>> room = no_comparisons(10, 25, 4, 2, members=3)
        >>> int(room.number), room.first.observations.shape
        (0, (10, 25, 4))
    """

    first: Segments
    second: Segments
    preferences: Array
    weights: Array
    number: Array


def cut(environment: Environment, rollout: Rollout, steps: int) -> Segments:
    """Cut a rollout into segments that lie side by side.

    Args:
        environment: whose actions they are.
        rollout: N copies, a whole number of segments each.
        steps: steps of a segment, T.

    Returns:
        [N x segments], copy after copy.

    Raises:
        ValueError: the rollout is no whole number of segments.
    """
    length = rollout.observations.shape[1]
    if length % steps:
        raise ValueError(f"{length} steps do not part into segments of {steps}; make steps a multiple of it")
    whole = Segments(rollout.observations, policy.features(environment, rollout.actions), rollout.step.reward)
    return jax.tree.map(lambda x: x.reshape(-1, steps, *x.shape[2:]), whole)


def take(of: T, rows: Array) -> T:
    """Take rows of a pytree of arrays.

    Args:
        of: segments, pairs of them, or anything else whose leaves are [n, ...].
        rows: [k], whole numbers below n.

    Returns:
        The same, with leaves [k, ...].

    Example:
        >>> print(take({"x": jnp.array([1.0, 2.0, 3.0])}, jnp.array([2, 0]))["x"])
        [3. 1.]
    """
    return jax.tree.map(lambda x: x[rows], of)


def no_comparisons(room: int, steps: int, observation_size: int, action_size: int, *, members: int) -> Comparisons:
    """Make room for comparisons.

    Args:
        room: L, how many there may be.
        steps: steps of a segment, T.
        observation_size: O.
        action_size: A.
        members: M, of the ensemble.

    Returns:
        None yet.
    """
    empty = Segments(
        jnp.zeros((room, steps, observation_size)), jnp.zeros((room, steps, action_size)), jnp.zeros((room, steps))
    )
    return Comparisons(empty, empty, jnp.zeros(room), jnp.zeros((room, members)), jnp.zeros((), jnp.int32))


def add(
    key: Array, comparisons: Comparisons, first: Segments, second: Segments, preferences: Array, count: Array
) -> Comparisons:
    """Add what raters said of pairs.

    Args:
        key: draws each member's bootstrap sample.
        comparisons: before.
        first: [k].
        second: [k].
        preferences: [k].
        count: [], how many of the k were asked about: the first ones; the others are left out.

    Returns:
        The comparisons with them; what exceeds the room is left out.

    Source: weights drawn from a Poisson distribution are a bootstrap sample that can grow: Oza & Russell 2001, Online
    bagging and boosting.
    """
    k, room = preferences.shape[0], comparisons.preferences.shape[0]
    # An index behind the room is dropped.
    places = jnp.where(jnp.arange(k) < count, comparisons.number + jnp.arange(k), room)
    drawn = jax.random.poisson(key, 1.0, (k, comparisons.weights.shape[-1])).astype(jnp.float32)
    old = comparisons.first, comparisons.second, comparisons.preferences, comparisons.weights
    new = first, second, preferences, drawn
    first, second, preferences, weights = jax.tree.map(lambda x, y: x.at[places].set(y, mode="drop"), old, new)
    return Comparisons(first, second, preferences, weights, jnp.minimum(comparisons.number + count, room))
