"""Online DPO: pairs from the policy's own samples, told apart by a reward function."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.objectives.dpo import dpo
from rlhf_jax.objectives.fields import fixed, required
from rlhf_jax.types import Array, Loss, Outputs, SequenceBatch


def online_dpo(outputs: Outputs, batch: SequenceBatch, *, beta: float = 0.1, label_smoothing: float = 0.0) -> Loss:
    """DPO between the best and the worst of K samples to each prompt.

    ``L = -(1 - e) log sigmoid(d) - e log sigmoid(-d)``, ``d = beta [(s_w - s_w^ref) - (s_l - s_l^ref)]``,
    ``w = argmax_k r_k``, ``l = argmin_k r_k``

    Empty responses are never picked. Among equals the first is. A group whose rewards are all equal has no best and no
    worst, and does not count.

    Args:
        outputs: ``logprobs`` [B, K, S].
        batch: ``mask`` and ``ref_logprobs`` [B, K, S], ``reward`` [B, K]; K at least 2. No gradient flows into them.
        beta: weight of the KL to the reference; usually 0.01 to 0.5 (Rafailov et al. 2023; 0.1 in Guo et al. 2024).
        label_smoothing: ``e``, the share of comparisons in which the reward function is thought wrong; usually 0 to 0.5
            (Mitchell 2023).

    Returns:
        A loss averaged over the groups with a best and a worst response, nats. Metrics: those of ``dpo``,
        ``reward_gap`` (best less worst, what the reward function gave) and ``paired`` (share of groups that count).

    Raises:
        ValueError: if a field is missing, groups have fewer than two responses, ``beta`` is not above 0 or
            ``label_smoothing`` is outside [0, 1].

    Example:
        >>> ones = jnp.ones((1, 3, 1), int)
        >>> batch = SequenceBatch(ones, ones > 0, ones, ones - 1, reward=jnp.array([[0.0, 5.0, -5.0]]),
        ...                       ref_logprobs=jnp.full((1, 3, 1), -10.0))
        >>> loss = online_dpo(Outputs(logprobs=jnp.array([[[-3.0], [-8.0], [-10.0]]])), batch, beta=0.5)
        >>> print(f"{loss.values[0]:.4f}")  # the second against the third: log(1 + exp(-1))
        0.3133

    Source: Guo et al. 2024 (arXiv:2402.04792); best against worst of K: Dong et al. 2024 (arXiv:2405.07863).
    """
    if batch.mask.shape[1] < 2:
        raise ValueError(f"expected groups of two responses or more, found groups of {batch.mask.shape[1]}")
    present = batch.mask.any(-1)  # [B, K]
    reward = fixed(batch.reward, "batch.reward", present)
    best = jnp.argmax(jnp.where(present, reward, -jnp.inf), axis=-1)
    worst = jnp.argmin(jnp.where(present, reward, jnp.inf), axis=-1)
    picked = jnp.stack([best, worst], axis=-1)  # [B, 2]
    extremes = jnp.take_along_axis(reward, picked, axis=-1)
    gap = extremes[:, 0] - extremes[:, 1]
    decided = gap > 0

    def pick(x: Array) -> Array:
        return jnp.take_along_axis(x, picked[:, :, None], axis=1)  # [B, K, S] -> [B, 2, S]

    chosen_and_rejected = SequenceBatch(
        tokens=pick(batch.tokens),
        mask=pick(batch.mask) & decided[:, None, None],
        segment_ids=pick(batch.segment_ids),
        positions=pick(batch.positions),
        ref_logprobs=pick(required(batch.ref_logprobs, "batch.ref_logprobs")),
    )
    logprobs = pick(required(outputs.logprobs, "outputs.logprobs"))
    loss = dpo(Outputs(logprobs=logprobs), chosen_and_rejected, beta=beta, label_smoothing=label_smoothing)
    metrics = {**loss.metrics, "reward_gap": (gap, loss.mask), "paired": (decided, present.any(-1))}
    return loss._replace(metrics=metrics)
