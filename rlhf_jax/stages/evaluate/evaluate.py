"""Evaluate one scorer on rows in which people picked."""

from __future__ import annotations

from pathlib import Path

from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_seed
from rlhf_jax.rewards import EnsembleConfig, TextReward
from rlhf_jax.stages.evaluate import rows
from rlhf_jax.stages.evaluate.find import find_scorer
from rlhf_jax.stages.evaluate.measure import evaluation, golden_items, measure
from rlhf_jax.stages.evaluate.result import Evaluation


def evaluate(
    run: str | Path | TextReward,
    data: str | Path,
    *,
    by: str = "",
    golden: str | Path = "",
    split: str = "",
    on_bad_row: OnBadRow = "error",
    templated: bool = False,
    ensemble: EnsembleConfig | None = None,
    seed: int = 0,
) -> Evaluation:
    """Measure how well scores pick what people picked: a reward model's, a policy's implicit reward, or a judge's.

    A pair is right where the response that people prefer has the higher score; equal scores count half, and rows in
    which people tie are left out of the accuracy.

    Args:
        run: what is evaluated: ``RUN``, ``RUN:reward``, ``RUN:preference``, the folder of a sequence classifier,
            ``FILE.py:function``, or a function of (prompts, responses).
        data: pairs in any layout, or best-of-K rows: a file, a folder, or a data set on the hub.
        by: the field that names the subsets, dots between the names of nested ones; a benchmark's ``subset`` by
            default.
        golden: a file of items whose answer is known, in any of these layouts.
        split: the split of ``data``, where it has several.
        on_bad_row: a bad row, or one that is too long for the model, stops it, or is skipped and listed.
        templated: the texts hold the chat template already applied.
        ensemble: how the members of an ensemble are combined; by their mean by default.
        seed: what the intervals' resampling depends on.

    Returns:
        The figures.

    Raises:
        DataError: on a bad row, and where no row is left.
        RunError: when nothing that scores responses is there.

    Example:
        >>> found = evaluate("runs/mine", "pairs.jsonl", by="domain")  # doctest: +SKIP
        >>> found.quality.accuracy, found.worst  # doctest: +SKIP
    """
    check_seed("seed", seed)
    read = rows.read(str(data), by, on_bad_row, split=split)
    items = rows.read(str(golden), "", on_bad_row, golden=True) if golden else None
    scorer = find_scorer(run, ensemble=ensemble, templated=templated)
    known = golden_items(measure(items, scorer, on_bad_row), str(golden), seed=seed) if items else None
    measured = measure(read, scorer, on_bad_row)
    return evaluation(measured, read, scorer.what, str(data), golden=known, seed=seed)
