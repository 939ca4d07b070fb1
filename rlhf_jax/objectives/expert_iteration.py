"""Expert iteration: imitate the best of one's own samples."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.losses.checks import check_range
from rlhf_jax.objectives.fields import fixed, learned
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def expert_iteration(outputs: Outputs, batch: SequenceBatch, *, keep: int = 1) -> Loss:
    """Cross entropy of the best ``keep`` responses to each prompt; the others are left out.

    ``L = -sum_t log pi(y_t) / sum_t 1``, over the tokens of the responses kept

    Only the order of the rewards matters, not their scale. Sampled from the policy of the last round this is expert
    iteration; sampled from a fixed policy it distils that policy's best-of-n, which lies
    ``losses.best_of_n_kl(K)`` nats away from it for ``keep`` = 1.

    Args:
        outputs: ``logprobs`` [B, K, S]; ``entropy`` [B, K, S] is logged if it is there.
        batch: ``mask`` [B, K, S] and ``reward`` [B, K]. No gradient flows into them.
        keep: responses of each prompt to imitate, 1 to K; usually 1 of 4 to 64 (Dong et al. 2023). Among equal rewards
            the first come first; an empty response is never kept.

    Returns:
        Per-token losses, nats, reduced by ``losses.token_mean`` over the responses kept. Metrics: ``reward`` of all,
        ``kept_reward`` of those kept, and ``entropy`` (over all tokens) if the outputs have it.

    Raises:
        ValueError: if a field is missing, or ``keep`` is below 1 or above K.

    Example:
        >>> x = jnp.zeros((1, 2, 2))
        >>> batch = SequenceBatch(x.astype(int), x == 0, x.astype(int) + 1, jnp.broadcast_to(jnp.arange(2), (1, 2, 2)),
        ...                       reward=jnp.array([[1.0, 5.0]]))
        >>> print(expert_iteration(Outputs(logprobs=x - 3.0), batch).mask)
        [[[False False]
          [ True  True]]]

    Source: Anthony et al. 2017 (arXiv:1705.08439); for language models: Dong et al. 2023, RAFT (arXiv:2304.06767);
    Touvron et al. 2023, section 3.2.3 (arXiv:2307.09288).
    """
    mask, present = batch.mask, batch.mask.any(-1)
    check_range("keep", keep, at_least=1, at_most=mask.shape[1])
    logprobs = learned(outputs.logprobs, "outputs.logprobs", mask)
    reward = fixed(batch.reward, "batch.reward", present)

    best_first = jnp.lexsort((-reward, ~present), axis=-1)  # the last key leads; the sort is stable
    rank = jnp.argsort(best_first, axis=-1)
    kept = present & (rank < keep)
    metrics = {"reward": (reward, present), "kept_reward": (reward, kept)}
    if outputs.entropy is not None:
        metrics["entropy"] = (learned(outputs.entropy, "outputs.entropy", mask), mask)
    return Loss(-logprobs, mask & kept[..., None], losses.token_mean, metrics)
