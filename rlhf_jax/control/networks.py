"""Perceptrons over any observation: the actor, the critic and the reward models."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.control.environment import Array

Layers = list[tuple[Array, Array]]


def init_layers(key: Array, sizes: Sequence[int], *, last_scale: float = 1.0) -> Layers:
    """Draw the weights of a perceptron: normal, with a variance of 2 / inputs before an activation; biases of 0.

    Args:
        key: draws it.
        sizes: width of the input, every hidden layer's, and the output's.
        last_scale: scale of the last matrix, relative to 1 / sqrt(inputs); a small one starts a policy near uniform.

    Returns:
        A matrix and a bias for each layer.

    Example:
        >>> [w.shape for w, _ in init_layers(jax.random.key(0), (4, 8, 1))]
        [(4, 8), (8, 1)]
    """
    scales = [2**0.5] * (len(sizes) - 2) + [last_scale]
    starts = [0, *itertools.accumulate(a * b for a, b in itertools.pairwise(sizes))]
    drawn = jax.random.normal(key, (starts[-1],))  # one draw, as each is a program of its own to compile
    return [
        (scale / a**0.5 * drawn[start : start + a * b].reshape(a, b), jnp.zeros(b))
        for scale, start, (a, b) in zip(scales, starts, itertools.pairwise(sizes), strict=False)
    ]


def forward(layers: Layers, x: Array, *, activation: Callable[[Array], Array] = jnp.tanh) -> Array:
    """Apply a perceptron.

    Args:
        layers: from ``init_layers``.
        x: [..., I].
        activation: between layers.

    Returns:
        [..., O].

    Example:
        >>> print(forward([(jnp.eye(2), jnp.ones(2))], jnp.array([1.0, 2.0])))
        [2. 3.]
    """
    for weight, bias in layers[:-1]:
        x = activation(_affine(x, weight, bias))
    return _affine(x, *layers[-1])


def _affine(x: Array, weight: Array, bias: Array) -> Array:
    product = x @ weight
    return product + jnp.broadcast_to(bias, product.shape)


class Moments(NamedTuple):
    """Running mean and variance of observations, by which networks see numbers of one size.

    Args:
        number: [], how many were seen.
        mean: [O].
        variance: [O].

    Example:
        >>> moments = seen(no_moments(1), jnp.array([[1.0], [3.0]]))
        >>> print(moments.mean.round(2), moments.variance.round(2), scaled(moments, jnp.array([4.0])).round(2))
        [2.] [1.] [2.]
    """

    number: Array
    mean: Array
    variance: Array


def no_moments(size: int) -> Moments:
    """Begin with observations as they are: mean 0 and variance 1, which the first batch replaces.

    Args:
        size: numbers in an observation.
    """
    return Moments(jnp.asarray(1e-4), jnp.zeros(size), jnp.ones(size))


def seen(moments: Moments, observations: Array) -> Moments:
    """Add a batch to running moments.

    Args:
        moments: before.
        observations: [..., O].

    Returns:
        The moments of everything seen.

    Source: Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance.
    """
    flat = observations.reshape(-1, observations.shape[-1])
    n, mean, variance = flat.shape[0], flat.mean(0), flat.var(0)
    total = moments.number + n
    apart = mean - moments.mean
    squares = moments.variance * moments.number + variance * n + jnp.square(apart) * moments.number * n / total
    return Moments(total, moments.mean + apart * n / total, squares / total)


def scaled(moments: Moments, observations: Array) -> Array:
    """Bring observations to mean 0 and variance 1, and into -10 to 10.

    Args:
        moments: mean and variance of what was seen.
        observations: [..., O].

    Returns:
        [..., O].
    """
    mean, deviation = (
        jnp.broadcast_to(x, observations.shape) for x in (moments.mean, jnp.sqrt(moments.variance + 1e-8))
    )
    return jnp.clip((observations - mean) / deviation, -10, 10)
