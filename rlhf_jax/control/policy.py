"""The policy's distribution over actions: one of several, or numbers from a normal distribution."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from rlhf_jax.control.environment import Array, Environment
from rlhf_jax.losses import entropy, token_logprobs


def sample(key: Array, environment: Environment, outputs: Array, log_std: Array) -> Array:
    """Draw actions.

    Args:
        key: draws it.
        environment: whose actions they are.
        outputs: [..., A], logits of discrete actions, or means.
        log_std: [A], logarithms of standard deviations, for numbers; discrete actions have none.

    Returns:
        [...], int32, or [..., A].

    Example:
        >>> from rlhf_jax.control import line
        >>> print(sample(jax.random.key(0), line(), jnp.array([0.0, 100.0, 0.0]), jnp.zeros(3)))
        1
    """
    if environment.discrete:
        return jax.random.categorical(key, outputs)
    return outputs + jnp.exp(jnp.broadcast_to(log_std, outputs.shape)) * jax.random.normal(key, outputs.shape)


def likeliest(environment: Environment, outputs: Array) -> Array:
    """Take the likeliest actions.

    Args:
        environment: whose actions they are.
        outputs: [..., A], logits of discrete actions, or means.

    Returns:
        [...], int32, or [..., A].

    Example:
        >>> from rlhf_jax.control import line
        >>> print(likeliest(line(), jnp.array([0.0, 1.0, 0.5])))
        1
    """
    return outputs.argmax(-1) if environment.discrete else outputs


def logprobs_and_entropy(
    environment: Environment, outputs: Array, log_std: Array, actions: Array
) -> tuple[Array, Array]:
    """Compute the log-probabilities of actions, and the entropy of what they were drawn from.

    Args:
        environment: whose actions they are.
        outputs: [..., A], logits of discrete actions, or means.
        log_std: [A], logarithms of standard deviations, for numbers.
        actions: [...], int32, or [..., A], as drawn: before any clipping.

    Returns:
        Log-probabilities (densities, for numbers) and entropies, each [...], nats.

    Example:
        >>> from rlhf_jax.control import line
        >>> logprob, of_all = logprobs_and_entropy(line(), jnp.zeros(3), jnp.zeros(3), jnp.array(2))
        >>> print(logprob.round(4), of_all.round(4))  # log 3
        -1.0986 1.0986
    """
    if environment.discrete:
        return token_logprobs(outputs, actions), entropy(outputs)
    log_std = jnp.broadcast_to(log_std, outputs.shape)
    apart = (actions - outputs) / jnp.exp(log_std)
    logprobs = -0.5 * jnp.square(apart) - log_std - 0.5 * math.log(2 * math.pi)
    return logprobs.sum(-1), (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


def features(environment: Environment, actions: Array) -> Array:
    """Show actions to a network: one-hot, or the numbers as the environment takes them.

    Args:
        environment: whose actions they are.
        actions: [...], int32, or [..., A].

    Returns:
        [..., A], float32.

    Example:
        >>> from rlhf_jax.control import line
        >>> print(features(line(), jnp.array(2)))
        [0. 0. 1.]
    """
    return jax.nn.one_hot(actions, environment.action_size) if environment.discrete else jnp.clip(actions, -1, 1)
