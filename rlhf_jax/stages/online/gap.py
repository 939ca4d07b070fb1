"""How far the sampler's log-probabilities are from the trainer's, and how far they may be.

Both run the same policy on the same tokens, but in different programs: one token at a time with a cache, and whole rows
at once. What is left between them is rounding. A wrong mask, position or temperature, or parameters of another step,
leave more, and then every probability ratio is wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.models.forward import forward
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.training import Metrics
from rlhf_jax.types import Array, Model, Params, Rollout

EXACT = 1e-3  # the largest mean gap where products are exact, nats a token
ROUNDINGS = 2.0  # how many times its own rounding the trainer may be from the sampler elsewhere; independent: 1.41


class SamplerMismatch(RuntimeError):
    """An error raised when the sampler and the trainer disagree about the log-probabilities of sampled tokens.

    The policy that is trained is then not the one that sampled, and every ratio would be wrong.
    """


def gap_metrics(trained: Array, sampled: Array, mask: Array) -> Metrics:
    """Compute mean, 99th percentile and maximum of ``|log pi_trainer - log pi_sampler|`` over an iteration's tokens.

    Args:
        trained: the trainer's log-probabilities under the parameters that sampled, [B, K, S].
        sampled: the sampler's own, [B, K, S].
        mask: which tokens were sampled, bool [B, K, S].

    Returns:
        ``logprob_gap``, ``logprob_gap_p99`` and ``logprob_gap_max``, nats a token, as ``(sum, weight)`` pairs of weight
        1. The percentile is the smallest gap that 99 of 100 tokens do not exceed.

    Example:
        >>> sampled = -jnp.arange(200.0).reshape(1, 1, 200)
        >>> found = gap_metrics(sampled * 1.01, sampled, sampled < 0)
        >>> {name: round(float(value), 3) for name, (value, _) in found.items()}
        {'logprob_gap': 1.0, 'logprob_gap_p99': 1.98, 'logprob_gap_max': 1.99}
    """
    gap = losses.masked_fill(jnp.abs(trained - sampled), mask)
    ordered = jnp.sort(jnp.where(mask, gap, -1.0), axis=None)  # what was not sampled comes first
    above = jnp.sum(mask, dtype=jnp.int32) // 100  # how many tokens may have a larger gap
    figures = {
        "logprob_gap": losses.masked_mean(gap, mask),
        "logprob_gap_p99": jnp.maximum(ordered[ordered.size - 1 - above], 0.0),
        "logprob_gap_max": jnp.max(gap),
    }
    return {name: (value, jnp.float32(1)) for name, value in figures.items()}


def rounding(
    model: Model,
    exact: Model,
    params: Params,
    sampled: Rollout,
    *,
    temperature: float,
    held: Params | None = None,
) -> Array:
    """Measure how far rounding takes the trainer's log-probabilities: the mean gap to those in exact float32.

    Two passes that round so, each in its own way, are ``sqrt(2)`` times as far apart, or less where they round alike.

    Args:
        model: the policy's.
        exact: the same model with ``compute_dtype`` float32.
        params: the policy's, which sampled.
        sampled: responses, [B, K, P + R].
        temperature: the one that they were sampled at.
        held: the parameters as the sampler holds them, in 8 bits say, with which ``model`` runs; ``params`` by default.

    Returns:
        Nats a token, [].
    """
    batch = as_batch(sampled)
    own = forward({"policy": model}, {"policy": params if held is None else held}, batch, temperature=temperature)
    with jax.default_matmul_precision("highest"):
        best = forward({"policy": exact}, {"policy": params}, batch, temperature=temperature)
    return gap_metrics(own.logprobs, best.logprobs, sampled.mask)["logprob_gap"][0]


def is_exact(compute_dtype: str, platform: str) -> bool:
    """Whether a policy's matrix products are those of float32 numbers in float32.

    On a GPU or TPU products of float32 are made in fewer bits (TensorFloat32, bfloat16) unless
    ``jax_default_matmul_precision`` says otherwise.

    Args:
        compute_dtype: what the policy computes in, ``float32`` or ``bfloat16``.
        platform: the devices', ``cpu``, ``gpu`` or ``tpu``.

    Example:
        >>> is_exact("float32", "cpu"), is_exact("bfloat16", "cpu"), is_exact("float32", "gpu")
        (True, False, False)
    """
    products = platform == "cpu" or jax.default_matmul_precision.value in ("float32", "highest")
    return compute_dtype == "float32" and products


class Gate:
    """A gate that stops a run whose sampler and trainer are further apart than rounding explains.

    Args:
        stage: its name, for the message.
        limit: largest mean gap, nats a token (the config's ``max_logprob_gap``). 0 takes a default: 0.001 where
            products are exact, and where they are not, twice the rounding of the trainer's own pass, with matrices in 8
            bits where the sampler has them so.
        compute_dtype: what the policy computes in.
        platform: the devices'.
        int8: whether the sampler holds anything in 8 bits, which rounds as well.
    """

    def __init__(self, stage: str, limit: float, *, compute_dtype: str, platform: str, int8: bool = False):
        self._stage = stage
        self._allowed = limit or EXACT
        self._measures = not limit and (int8 or not is_exact(compute_dtype, platform))
        self._rounds = "a sampler in 8 bits" if int8 else "the trainer alone"
        self._default = "" if limit or self._measures else ", the default for exact float32"

    def check(self, iteration: int, info: Metrics, measure: Callable[[], float]) -> None:
        """Raise a ``SamplerMismatch`` when the mean gap of an iteration is above what is allowed, or is no number.

        Args:
            iteration: counted from 1.
            info: with what ``gap_metrics`` gave.
            measure: gives the rounding of the trainer's pass in this iteration. It is called in the first one, and then
                only where the gap is above what that allowed: rounding grows as a policy becomes more certain.
        """
        mean, p99, largest = (float(info[f"logprob_gap{name}"][0]) for name in ("", "_p99", "_max"))
        if mean > self._allowed and self._measures:
            rounds = measure()
            self._allowed = max(EXACT, ROUNDINGS * rounds)
            self._default = f", {ROUNDINGS:g} times the {rounds:.3g} that {self._rounds} is from float32"
        if mean <= self._allowed:
            return
        raise SamplerMismatch(
            f"{self._stage}: at iteration {iteration} the sampler's and the trainer's log-probabilities of the same "
            f"tokens are {mean:.3g} nats a token apart in the mean (99th percentile {p99:.3g}, maximum {largest:.3g}), "
            f"and max_logprob_gap is {self._allowed:.3g}{self._default}. The policy that is trained is not the one "
            "that sampled: every ratio would be wrong. Look at what one of them has and the other has not: a mask of "
            "prompt and padding, positions, sampling.temperature, the parameters of another step. If the same run with "
            "compute_dtype float32 has no gap, a higher --max-logprob-gap is in order"
        )
