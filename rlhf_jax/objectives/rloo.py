"""RLOO: REINFORCE whose baseline is the reward of the other responses to the same prompt."""

from __future__ import annotations

from rlhf_jax import losses
from rlhf_jax.objectives.group import (
    check_clips,
    check_entropy_coef,
    check_kl_coef,
    clipped_group,
    penalised_reward,
)
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def rloo(
    outputs: Outputs,
    batch: SequenceBatch,
    *,
    kl_coef: float = 0.05,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    entropy_coef: float = 0.0,
) -> Loss:
    """The clipped policy gradient of whole responses, each measured against the mean of the others.

    ``L = -min(rho A_k, clip(rho, 1 - clip_low, 1 + clip_high) A_k) - entropy_coef sum_t H_t``,
    ``rho = pi(y_k) / pi_old(y_k)``, ``A_k = R_k - mean_{j != k} R_j``,
    ``R = r(x, y) - kl_coef sum_t (log pi_old(y_t) - log pi_ref(y_t))``

    A response is one action: it has one probability, one ratio and one KL, all summed over its tokens. On the first
    update of a batch the ratio is 1 and the gradient is ``-A_k grad log pi(y_k)``.

    Args:
        outputs: ``logprobs`` [B, K, S]; ``entropy`` [B, K, S] with an entropy bonus, otherwise logged if it is there.
        batch: ``mask`` and ``old_logprobs`` [B, K, S], ``reward`` [B, K]; with a KL ``ref_logprobs`` [B, K, S]. A
            controller's ``kl_coef`` [B, K], if it is there, replaces the number of that name. No gradient flows into
            any of them.
        kl_coef: price of a nat of KL to the reference, paid in the reward; usually 0.01 to 0.1 (Ahmadian et al. 2024);
            0 needs no reference.
        clip_low: room of the response's probability ratio below 1; usually 0.2; inf switches it off. With one update a
            batch it never acts.
        clip_high: room above 1; usually 0.2.
        entropy_coef: weight of the entropy bonus; usually 0, up to 0.01 (Schulman et al. 2017).

    Returns:
        One loss a response, [B, K], averaged over responses by ``losses.token_mean``. An empty response is compared
        with nobody and does not count; nor do the others of its group lose by it. Metrics: ``policy_loss``, ``ratio``
        and ``clip_fraction`` (a share of responses), ``approx_kl`` (k3 a token, from the sampling policy to this one),
        ``advantage``, ``advantage_abs``, ``reward``, ``entropy`` if the outputs have it, and with a KL ``ref_kl``
        (k1 to the reference, nats a token).

    Raises:
        ValueError: if K < 2, a field is missing, a clip is not above 0 or a weight is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.zeros((1, 2, 3))
        >>> batch = SequenceBatch(x.astype(int), x == 0, x.astype(int) + 1, jnp.broadcast_to(jnp.arange(3), (1, 2, 3)),
        ...                       old_logprobs=x, reward=jnp.array([[5.0, 1.0]]))
        >>> print(rloo(Outputs(logprobs=x), batch, kl_coef=0.0).values)
        [[-4.  4.]]

    Source: Ahmadian et al. 2024 (arXiv:2402.14740); Kool et al. 2019.
    """
    check_clips(clip_low, clip_high, 0.05, 0.5, "Schulman et al. 2017")
    check_kl_coef(kl_coef, "Ahmadian et al. 2024")
    check_entropy_coef(entropy_coef, "Schulman et al. 2017")
    _, penalised, kl = penalised_reward(batch, kl_coef)
    loss = clipped_group(
        outputs,
        batch,
        losses.rloo_advantages(penalised, mask=batch.mask.any(-1)),
        clip_low=clip_low,
        clip_high=clip_high,
        pool=losses.masked_sum,
        reduction=losses.token_mean,
        kl_coef=None,
        entropy_coef=entropy_coef,
    )
    return loss if kl is None else loss._replace(metrics={**loss.metrics, "ref_kl": (kl, batch.mask)})
