"""Names that users give, where they meet ours: a judge or a metric of an objective must not replace a figure.

A judge called ``kl`` would take the place of the KL by which the best checkpoint is chosen, a metric called ``loss``
that of the loss. Such names are refused before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_jax.runs.errors import RunError

# Figures of an evaluation, of a summary and of rows of samples that are written beside those of judges.
OF_EVALUATIONS = frozenset(
    {
        *("kl", "proxy", "selection", "loss", "accuracy", "length", "eos", "eos_rate", "test_prompts"),
        *("proxy_accuracy", "proxy_accuracy_ci", "proxy_accuracy_pairs", "proxy_accuracy_before"),
        *("distinct_1", "distinct_2", "unique_tokens", "prompt", "domain", "before", "after", "step", "stage"),
    }
)
# Figures of a step that are written beside those of an objective.
OF_STEPS = frozenset(
    {
        *("step", "stage", "loss", "ptx_loss", "grad_norm", "skipped", "learning_rate", "padding", "selection"),
        *("length", "length_std", "eos_rate", "distinct_1", "distinct_2", "unique_tokens", "most_common"),
        *("kl", "kl_per_token", "kl_coef", "proxy_mean", "proxy_std", "shaped_reward", "disagreement"),
        *("explained_variance", "logprob_gap", "logprob_gap_p99", "logprob_gap_max"),
        *("staleness", "importance_weight", "effective_sample_size", "effective_responses"),
    }
)


def check_judges(judges: Any) -> None:
    """Refuse judges that are no mapping from names to callables, and names that are taken.

    Args:
        judges: what a stage was given.

    Raises:
        RunError: naming the judge and what to do.

    Example:
        >>> check_judges({"kl": len})
        Traceback (most recent call last):
        ...
        rlhf_jax.runs.errors.RunError: judges: 'kl' is the name of a figure of ours, which a judge of that name ...
    """
    if not isinstance(judges, Mapping):
        raise RunError(
            f'judges must be a dict from names to functions, found {judges!r:.60}; {{"gold": judge}} is one with one'
        )
    for name, judge in judges.items():
        _check_name(name, "judges", OF_EVALUATIONS, "judge")
        if not callable(judge):
            raise RunError(f"judges: {name!r} must be a function of (prompts, responses), found {judge!r:.60}")


def check_metrics(names: Iterable[Any], objective: str) -> None:
    """Refuse an objective's metrics whose names are taken.

    Args:
        names: those of ``Loss.metrics``.
        objective: what the message calls the objective.

    Raises:
        RunError: naming the metric and what to do.
    """
    for name in names:
        _check_name(name, f"objective {objective}", OF_STEPS, "metric")


def beside(ours: Mapping[str, float], theirs: Mapping[str, float], what: str) -> dict[str, float]:
    """Join figures of ours with those that carry users' names.

    Raises:
        RunError: a name is in both.

    Example:
        >>> beside({"loss": 0.5}, {"margin": 1.0}, "metrics")
        {'loss': 0.5, 'margin': 1.0}
    """
    for name in theirs:
        if name in ours:
            raise RunError(f"{what}: {name!r} is there twice, as a figure of ours and as one of yours: rename yours")
    return {**ours, **theirs}


def _check_name(name: Any, where: str, taken: frozenset[str], what: str) -> None:
    if not isinstance(name, str) or not name or name != name.strip() or not name.isprintable() or "/" in name:
        raise RunError(
            f"{where}: a {what} must have a name of letters, digits, dots, dashes or underscores, found {name!r}"
        )
    if name in taken or name.startswith("heldout_"):
        raise RunError(
            f"{where}: {name!r} is the name of a figure of ours, which a {what} of that name would replace: "
            f"give it another one, my_{name} say"
        )
