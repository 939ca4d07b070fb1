"""How far the sampler's log-probabilities are from the trainer's, and how far they may be.

Both run the same policy on the same tokens, but in different programs: one token at a time with a cache, and whole rows
at once. What is left between them is rounding. A wrong mask, position or temperature, or parameters of another step,
leave more, and then every probability ratio is wrong.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.evaluation.alarms import LARGEST_GAP
from rlhf_jax.training import Metrics
from rlhf_jax.types import Array


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


def largest_gap(limit: float, compute_dtype: str, platform: str) -> float:
    """Look up the largest mean gap that is allowed, nats a token.

    Args:
        limit: the config's ``max_logprob_gap``; 0 takes the default of the precision.
        compute_dtype: what the policy computes in, ``float32`` or ``bfloat16``.
        platform: the devices', ``cpu``, ``gpu`` or ``tpu``. But for a CPU, products of float32 are made in fewer bits
            (TensorFloat32, bfloat16) unless ``jax_default_matmul_precision`` says ``float32`` or ``highest``; their
            default is that of bfloat16.

    Example:
        >>> largest_gap(0.0, "float32", "cpu"), largest_gap(0.0, "bfloat16", "cpu"), largest_gap(0.2, "float32", "gpu")
        (0.001, 0.06, 0.2)
    """
    if limit:
        return limit
    exact = platform == "cpu" or jax.default_matmul_precision.value in ("float32", "highest")
    return LARGEST_GAP["float32" if compute_dtype == "float32" and exact else "bfloat16"]


def check_gap(stage: str, iteration: int, info: Metrics, *, limit: float, compute_dtype: str, platform: str) -> None:
    """Raise a ``SamplerMismatch`` when the mean gap of an iteration is above what is allowed, or is no number.

    Args:
        stage: its name, for the message.
        iteration: counted from 1.
        info: with what ``gap_metrics`` gave.
        limit: the config's ``max_logprob_gap``.
        compute_dtype: what the policy computes in.
        platform: the devices'.
    """
    most = largest_gap(limit, compute_dtype, platform)
    if float(info["logprob_gap"][0]) <= most:
        return
    mean, p99, largest = (float(info[f"logprob_gap{name}"][0]) for name in ("", "_p99", "_max"))
    said = "" if limit else f", the default for {compute_dtype} on a {platform}"
    raise SamplerMismatch(
        f"{stage}: at iteration {iteration} the sampler's and the trainer's log-probabilities of the same tokens are "
        f"{mean:.3g} nats a token apart in the mean (99th percentile {p99:.3g}, maximum {largest:.3g}), and "
        f"max_logprob_gap is {most:g}{said}. The policy that is trained is not the one that sampled: every ratio would "
        "be wrong. Look at what one of them has and the other has not: a mask of prompt and padding, positions, "
        "sampling.temperature, the parameters of another step. Rounding in bfloat16 grows with depth: if the same run "
        "with compute_dtype float32 has no gap, a higher --max-logprob-gap is in order"
    )
