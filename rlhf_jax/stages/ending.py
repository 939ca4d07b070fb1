"""How a stage ended: which checkpoint it left and why, how many updates counted, and whether anything was trained.

The facts stand in ``summary.json``; ``stages.verdicts`` turns them into what the console and the page say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rlhf_jax.training import FitResult, SkippedUpdates, TrainState

Row = Mapping[str, Any]


class NothingTrained(SkippedUpdates):
    """A stage that came to its end without a result; what it left is written all the same.

    Args:
        message: what happened and what to do.
        directory: the run folder.
    """

    def __init__(self, message: str, directory: Path):
        super().__init__(message)
        self.directory = directory


def counts(trained: TrainState) -> dict[str, int]:
    """Count the optimiser's updates: those that were tried, and those that were left out as not finite."""
    return {"updates": int(trained.step), "skipped_updates": int(trained.skipped)}


def kept_by_loss(
    stage: str, fitted: FitResult, *, keep: Literal["best", "last"], start: str = "what it started from"
) -> dict[str, Any]:
    """Say which step's parameters a stage left that chooses by the loss on held-out rows.

    Args:
        stage: names the figures in the history.
        fitted: the loop's result, with the step that is left.
        keep: the config's.
        start: what the parameters before the first step are called.

    Returns:
        ``best_step``, ``evaluations`` (after step 0) and ``kept``, a sentence.
    """
    losses = _series(fitted.history, f"{stage}/heldout_loss")
    later = [loss for step, loss in losses if step > 0]
    finite = [loss for loss in later if loss is not None]
    steps, best = last_step(fitted), fitted.best_step
    if keep == "last":
        value = later[-1] if later else None
        found = f"with a held-out loss of {value:.4g}" if value is not None else "although its held-out loss is none"
        kept = f"Step {steps}, the last one, was kept, {found}."
    elif best > 0:
        kept = f"Step {best} of {steps} was kept: it has the lowest held-out loss, {fitted.best_value:.4g}."
    elif not finite:
        kept = f"Step 0, {start}, was kept: no evaluation after it has a finite held-out loss."
    else:
        kept = (
            f"No checkpoint beat {start}: the lowest held-out loss of {_evaluations(len(later))} is {min(finite):.4g}, "
            f"that of step 0 {fitted.best_value:.4g}. Step 0 was kept."
        )
    return {"best_step": best, "evaluations": len(later), "kept": kept}


def kept_by_reward(stage: str, fitted: FitResult, *, max_kl: float, start: str) -> dict[str, Any]:
    """Say which step's parameters a stage left that chooses by the proxy reward on held-out prompts, within a KL.

    Args:
        stage: names the figures in the history.
        fitted: the loop's result, with the step that is left.
        max_kl: the config's.
        start: what the policy of step 0 is called.

    Returns:
        ``best_step``, ``evaluations`` (after step 0), ``max_kl`` and ``kept``, a sentence.
    """
    proxies = dict(_series(fitted.history, f"{stage}/heldout_proxy"))
    later = [(step, kl) for step, kl in _series(fitted.history, f"{stage}/heldout_kl") if step > 0]
    before, best = proxies.get(0), fitted.best_step
    if best > 0:
        once = f"; {before:.4g} at step 0" if before is not None else ""
        kept = (
            f"Step {best} of {last_step(fitted)} was kept: it has the highest proxy reward on held-out prompts "
            f"({proxies[best]:.4g}{once}) at a KL of at most max_kl, {max_kl:g}."
        )
    else:
        far = sum(kl is not None and kl > max_kl for _, kl in later)
        odd = sum(kl is None or (kl <= max_kl and proxies.get(step) is None) for step, kl in later)
        low = len(later) - far - odd
        was = f"{before:.4g}" if before is not None else "its own"
        further, closer = "more iterations or a higher learning rate go further", "a higher KL coefficient stays closer"
        why = [
            (low, f"{low} had a proxy reward no higher than {was}; {further}"),
            (far, f"{far} had a KL above max_kl, {max_kl:g}; {closer}"),
            (odd, f"{odd} had figures that are not finite"),
        ]
        reasons = ". ".join(text[0].upper() + text[1:] for count, text in why if count)
        kept = f"No checkpoint beat {start}, so step 0 was kept, which is {start} itself. "
        if not later:
            kept += "It was not evaluated after step 0."
        elif len(later) == 1:
            kept += f"The only evaluation after it {reasons.removeprefix('1 ')}."
        else:
            kept += f"Among {len(later)} evaluations after it: {reasons}."
    return {"best_step": best, "evaluations": len(later), "max_kl": max_kl, "kept": kept}


def failure(figures: Mapping[str, Any], history: Sequence[Row], heldout: str, *, keep_last: bool = False) -> str:
    """Say why a stage that came to its end has no result; an empty text where it has one.

    Args:
        figures: ``updates`` and ``skipped_updates``.
        history: the stage's rows of metrics.
        heldout: the figure of an evaluation that has to be finite.
        keep_last: whether the last parameters are left, whatever they are like.

    Example:
        >>> failure({"updates": 4, "skipped_updates": 4}, [], "sft/heldout_loss")
        'all 4 updates were skipped, because the loss or a gradient was not finite'
    """
    tried, skipped = figures["updates"], figures["skipped_updates"]
    later = [value for step, value in _series(history, heldout) if step > 0]
    name = heldout_name(heldout.rpartition("/")[2])
    if skipped and 2 * skipped >= tried:
        of = f"all {tried}" if skipped >= tried else f"{skipped} of {tried}"
        return f"{of} updates were skipped, because the loss or a gradient was not finite"
    if later and all(value is None for value in later):
        return f"{name} was not finite at any evaluation after step 0"
    if keep_last and later and later[-1] is None:
        return f"{name} is not finite after the last step, whose parameters are kept"
    return ""


def raise_if_failed(directory: Path, stage: str, summary: Mapping[str, Any]) -> None:
    """Raise what a stage's summary says of its failure, after everything is written.

    Raises:
        NothingTrained: when the summary holds a ``failed``.
    """
    if summary.get("failed"):
        raise NothingTrained(
            f"{summary['failed']}, so the parameters in {directory / 'params' / stage} are no result. Lower the "
            "learning rate, or look for what is not finite in rows, rewards and objective, and name another folder "
            "with --out",
            directory,
        )


def heldout_name(figure: str) -> str:
    """Write the name of an evaluation's figure for a sentence.

    Example:
        >>> heldout_name("heldout_loss"), heldout_name("heldout_kl")
        ('the held-out loss', 'the held-out KL')
    """
    name = figure.removeprefix("heldout_").replace("_", " ")
    return f"the held-out {'KL' if name == 'kl' else name}"


def last_step(fitted: FitResult) -> int:
    """Find the last step that was logged."""
    return int(fitted.history[-1]["step"]) if fitted.history else 0


def _evaluations(count: int) -> str:
    return "the only evaluation after it" if count == 1 else f"{count} evaluations after it"


def _series(history: Sequence[Row], name: str) -> list[tuple[int, float | None]]:
    """The (step, value) of every row that has the figure; None where it was not finite."""
    found = [(int(row["step"]), row[name]) for row in history if name in row]
    return [(step, value if value is not None and math.isfinite(value) else None) for step, value in found]
