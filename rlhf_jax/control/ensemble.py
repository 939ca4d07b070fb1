"""An ensemble of reward models that learns from compared segments, each from its own bootstrap sample."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import losses
from rlhf_jax.control.config import PreferenceConfig
from rlhf_jax.control.environment import Array
from rlhf_jax.control.networks import Layers, Moments, forward, init_layers, scaled
from rlhf_jax.control.segments import Comparisons, Segments, take

# Loss on what a member's bootstrap sample left out, over its loss on the sample: between them the penalty stays.
FITS, OVERFITS = 1.1, 1.5


class Ensemble(NamedTuple):
    """M reward models over observations and actions.

    Args:
        members: weights, stacked, [M, ...].
        optimizer: Adam's state.
        penalty: [M], weight of the squared weights in each member's loss, which follows from how it does on comparisons
            that it does not learn from.

    Example:
        >>> start(jax.random.key(0), 4, 2, PreferenceConfig()).penalty.shape
        (3,)
    """

    members: Layers
    optimizer: optax.OptState
    penalty: Array


def start(key: Array, observation_size: int, action_size: int, config: PreferenceConfig) -> Ensemble:
    """Make reward models that know nothing, and disagree.

    Args:
        key: draws the weights.
        observation_size: O.
        action_size: A.
        config: sizes and rates.
    """
    sizes = (observation_size + action_size, *config.hidden, 1)
    members = jax.vmap(lambda k: init_layers(k, sizes))(jax.random.split(key, config.members))
    return Ensemble(members, optax.adam(config.learning_rate).init(members), jnp.full(config.members, 1e-4))


def member_rewards(ensemble: Ensemble, moments: Moments, observations: Array, actions: Array) -> Array:
    """Ask every member for the reward of single steps.

    Args:
        ensemble: whose members.
        moments: mean and variance of the observations.
        observations: [..., O].
        actions: [..., A], as ``policy.features`` shows them.

    Returns:
        [M, ...], float32; their level and size mean nothing.
    """
    return jax.vmap(lambda layers: _reward(layers, moments, observations, actions))(ensemble.members)


def _reward(layers: Layers, moments: Moments, observations: Array, actions: Array) -> Array:
    inputs = jnp.concatenate([scaled(moments, observations), actions], -1)
    return forward(layers, inputs, activation=jax.nn.leaky_relu)[..., 0]


def doubted(difference: Array, error_rate: float) -> Array:
    """Log-odds of an answer when raters err: never surer than their errors allow.

    ``logit((1 - e) sigmoid(d) + e sigmoid(-d))``

    Args:
        difference: ``d``, [...], of the scores of two segments.
        error_rate: ``e``, how often an answer comes out the wrong way round.

    Returns:
        [...], to be given to ``losses.bradley_terry`` in the place of the difference.

    Example:
        >>> [round(float(jax.nn.sigmoid(doubted(jnp.array(d), 0.1))), 3) for d in (-100.0, 0.0, 100.0)]
        [0.1, 0.5, 0.9]

    Source: Christiano et al. 2017, section 2.2.3 (arXiv:1706.03741), where 10% of the answers are drawn at random.
    """
    if error_rate == 0:
        return difference
    right, wrong = math.log1p(-error_rate), math.log(error_rate)
    for_it, against = jax.nn.log_sigmoid(difference), jax.nn.log_sigmoid(-difference)
    return jnp.logaddexp(right + for_it, wrong + against) - jnp.logaddexp(right + against, wrong + for_it)


def differences(ensemble: Ensemble, moments: Moments, first: Segments, second: Segments) -> Array:
    """Score pairs of segments: how much better each member finds the first.

    Args:
        ensemble: whose members.
        moments: mean and variance of the observations.
        first: [k].
        second: [k].

    Returns:
        [M, k], nats.
    """

    def scores(segments: Segments) -> Array:
        rewards = member_rewards(ensemble, moments, segments.observations, segments.actions)
        return losses.segment_scores(rewards, jnp.ones(rewards.shape, bool))

    return scores(first) - scores(second)


def fit(
    key: Array, ensemble: Ensemble, moments: Moments, said: Comparisons, config: PreferenceConfig, *, updates: int
) -> tuple[Ensemble, dict[str, Array]]:
    """Train every member on comparisons.

    After the updates each member's penalty rises by a tenth where its loss on comparisons outside its bootstrap sample
    is above 1.5 times the one inside, and falls by as much where it is below 1.1 times.

    Args:
        key: draws the batches.
        ensemble: before.
        moments: mean and variance of the observations.
        said: the comparisons. Where there is none, nothing is learnt.
        config: rates and sizes.
        updates: how many.

    Returns:
        The ensemble, and means over the updates: ``reward_loss`` and ``reward_heldout_loss``, nats a comparison.

    Source: Christiano et al. 2017, section 2.2.3 (arXiv:1706.03741).
    """
    optimizer = optax.adam(config.learning_rate)

    known = said.number > 0
    everything = said.first, said.second, said.preferences, said.weights

    def loss(members: Layers, penalty: Array, first: Segments, second: Segments, preferences: Array, weights: Array):
        apart = differences(ensemble._replace(members=members), moments, first, second)  # [M, k]
        odds = doubted(apart, config.error_rate)
        each = losses.bradley_terry(odds, jnp.zeros_like(odds), preference=preferences[None])
        counts = weights.T * known  # [M, k]
        left_out = (weights.T == 0) & known
        inside, outside = (each * counts).sum(-1), (each * left_out).sum(-1)
        squares = sum(jnp.square(w).sum((-2, -1)) for w, _ in members)
        total = (inside / config.batch + penalty * squares).sum()
        return total, (inside, counts.sum(-1), outside, left_out.sum(-1))

    def update(carry: tuple[Layers, optax.OptState], key: Array):
        members, state = carry
        rows = jax.random.randint(key, (config.batch,), 0, jnp.maximum(said.number, 1))
        gradient, sums = jax.grad(loss, has_aux=True)(members, ensemble.penalty, *take(everything, rows))
        change, state = optimizer.update(gradient, state, members)
        return (optax.apply_updates(members, change), state), sums

    carry = ensemble.members, ensemble.optimizer
    carry, sums = jax.lax.scan(update, carry, jax.random.split(key, updates))
    inside, of_inside, outside, of_outside = (x.sum(0) for x in sums)
    train, heldout = inside / jnp.maximum(of_inside, 1), outside / jnp.maximum(of_outside, 1)
    move = jnp.where(heldout > OVERFITS * train, 1.1, jnp.where(heldout < FITS * train, 1 / 1.1, 1.0))
    penalty = jnp.clip(ensemble.penalty * jnp.where(known, move, 1.0), 1e-6, 1e-1)
    carry = jax.tree.map(lambda new, old: jnp.where(known, new, old), carry, (ensemble.members, ensemble.optimizer))
    members, optimizer = carry
    return Ensemble(members, optimizer, penalty), {"reward_loss": train.mean(), "reward_heldout_loss": heldout.mean()}


def normalised_rewards(
    ensemble: Ensemble, moments: Moments, said: Comparisons, observations: Array, actions: Array, key: Array
) -> Array:
    """Average the members' rewards, each brought to mean 0 and standard deviation 1 over the compared segments.

    Comparisons say nothing about level and size of a reward. The compared segments come from the whole training, so a
    policy that does well everywhere keeps rewards above 0, where its own steps alone would be spread out again.

    Args:
        ensemble: whose members.
        moments: mean and variance of the observations.
        said: the comparisons; where there is none, the given steps take their place.
        observations: [..., O].
        actions: [..., A].
        key: draws the compared segments that are looked at, 64 of them.

    Returns:
        [...], float32.
    """
    rows = jax.random.randint(key, (64,), 0, jnp.maximum(said.number, 1))
    seen = take(said.first, rows)
    compared = member_rewards(ensemble, moments, seen.observations, seen.actions).reshape(ensemble.penalty.shape[0], -1)
    rewards = member_rewards(ensemble, moments, observations, actions)
    flat = rewards.reshape(rewards.shape[0], -1)
    known = said.number > 0
    mean = jnp.where(known, compared.mean(-1), flat.mean(-1))
    spread = jnp.where(known, compared.std(-1), flat.std(-1))
    wide = (-1, *[1] * (rewards.ndim - 1))
    return ((rewards - mean.reshape(wide)) / (spread.reshape(wide) + 1e-8)).mean(0)
