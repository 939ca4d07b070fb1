"""Single responses with thumbs up or down: which objectives learn from them, and what they say of a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import evaluation
from rlhf_jax.data import Example
from rlhf_jax.data.order import evenly
from rlhf_jax.stages import run
from rlhf_jax.stages.choose import try_objective
from rlhf_jax.types import Objective

LABELS = (("logprobs", "entropy"), ("label", "ref_logprobs", "kl"))  # what an objective is given of them
_MOST = 256  # responses of either sort that a figure compares: the pairs are these squared


class Labels(NamedTuple):
    """What KTO trains on and is measured by, where nobody compared two responses; groups of one, with their labels."""

    epoch: Callable[[int], list[Example]]
    heldout: list[Example]


def try_single(objective: Objective, name: str, source: str) -> None:
    """Call an objective on shapes of single responses, before anything is written.

    Args:
        objective: hyperparameters bound.
        name: for the message.
        source: where the rows come from, for the message.

    Raises:
        RunError: when the objective needs pairs or votes.
    """
    try:
        try_objective(objective, name, LABELS, responses=1)
    except run.RunError as error:
        raise run.RunError(
            f"{source} holds single responses with labels, which this objective cannot learn from; use kto, or rows of "
            f"prompt, chosen and rejected ({error})"
        ) from error


def reward_auc(gained: np.ndarray, heldout: Sequence[Example]) -> dict[str, Any]:
    """The area under the ROC curve: how often thumbs up gained more log-probability than thumbs down.

    Args:
        gained: [n], log-probability under the policy less that under the reference, nats.
        heldout: n groups of one response with its label.

    Returns:
        ``label_auc`` with its 95% interval, over all couples of one of either sort (at most 256 of a sort, spread over
        all there are), left out where one sort is missing; ``responses``, and the share of thumbs up, ``desirable``.

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
    interval = evaluation.bootstrap_pairs(better, couples, seed=0)
    return {"label_auc": float(better.mean()), "label_auc_ci": list(interval), **found}
