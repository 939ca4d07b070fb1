"""A policy's implicit reward, the log-probability that it gained on each response, is measured against people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import evaluation, losses, parallel, processes
from rlhf_jax.data import Example
from rlhf_jax.data.batches import PackedEpochs
from rlhf_jax.data.order import evenly
from rlhf_jax.models.forward import forward
from rlhf_jax.stages.held_out import HeldOutPairs
from rlhf_jax.stages.opinions import Comparisons, Labels
from rlhf_jax.types import Array, Model, Params, SequenceBatch

_MOST = 256  # responses of either sort that a figure compares: the pairs are these squared


def sequence_logprobs(
    model: Model, policy: Params, examples: Sequence[Example], *, mesh: Mesh, rows: int, row_length: int, pad_id: int
) -> np.ndarray:
    """Compute the log-probability of n responses given their prompts, [n], nats; an example holds one response."""
    roles = {"policy": model}

    def summed(policy: Params, batch: SequenceBatch) -> Array:
        return losses.masked_sum(forward(roles, {"policy": policy}, batch).logprobs, batch.mask, axis=-1)

    total = jax.jit(parallel.traced_on(mesh, summed))

    batches = PackedEpochs(lambda _: examples, epochs=1, rows=rows, row_length=row_length, pad_id=pad_id)
    sums = [processes.fetch(total(policy, batches[i]))[: batches.count(i), 0] for i in range(len(batches))]
    return np.concatenate(sums)


def implicit_reward_accuracy(gained: np.ndarray, held: HeldOutPairs) -> dict[str, Any]:
    """Measure how often the response that more people prefer gained more log-probability, with a 95% interval."""
    counted, correct = evaluation.pair_accuracy(gained, held.pairs, held.share)
    if not counted.any():  # ties alone
        return {"accuracy": None, "accuracy_ci": None, "pairs": 0}
    interval = evaluation.bootstrap_pairs(correct[counted], held.pairs[counted], seed=0, within=(0, 1))
    return {
        "accuracy": float(correct[counted].mean()),
        "accuracy_ci": list(interval),
        "pairs": int(counted.sum()),
    }


def measured(
    pairs: Comparisons | Labels, pairs_per_response: int
) -> tuple[list[Example], Callable[[np.ndarray], dict[str, Any]]]:
    """Return test responses, one an example, and the function that makes figures of the log-probability they gained."""
    if isinstance(pairs, Labels):
        return pairs.test, lambda gained: reward_auc(gained, pairs.test)
    test = pairs.test(pairs_per_response)
    examples = [Example((t,), (start,)) for t, start in zip(test.sequences, test.starts, strict=True)]
    return examples, lambda gained: implicit_reward_accuracy(gained, test)


def reward_auc(gained: np.ndarray, heldout: Sequence[Example]) -> dict[str, Any]:
    """Compute the area under the ROC curve: how often thumbs up gained more log-probability than thumbs down.

    Args:
        gained: [n], log-probability under the policy less that under the reference, nats.
        heldout: n groups of one response with its label.

    Returns:
        ``label_auc`` with its 95% interval, over all couples of a thumbs up and a thumbs down (at most 256 of either,
        spread over all there are); it is left out where one sort is missing. ``responses`` counts them, and
        ``desirable`` is the share of thumbs up.

    Example:
        >>> up, down = (Example((np.array([1, 5]),), (1,), labels=np.array([y])) for y in (1.0, 0.0))
        >>> reward_auc(np.array([2.0, 0.0, 3.0]), [up, down, down])["label_auc"]
        0.5
    """
    liked = np.array([e.labels is not None and e.labels[0] > 0.5 for e in heldout])
    found: dict[str, Any] = {"responses": len(liked), "desirable": float(liked.mean())}
    up, down = (evenly(np.flatnonzero(which).tolist(), _MOST) for which in (liked, ~liked))
    if not up or not down:
        return found
    couples = np.stack(np.meshgrid(up, down, indexing="ij"), axis=-1).reshape(-1, 2)
    better = 0.5 + 0.5 * np.sign(gained[couples[:, 0]] - gained[couples[:, 1]])
    interval = evaluation.bootstrap_pairs(better, couples, seed=0, within=(0, 1))
    return {"label_auc": float(better.mean()), "label_auc_ci": list(interval), **found}
