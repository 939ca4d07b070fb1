"""Two scorers beside each other: the same rows, and a paired interval of how much more often one is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.data import DataError
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.rows import prompt_text
from rlhf_jax.evaluation.choices import outcomes
from rlhf_jax.evaluation.win_rates import Difference, paired_difference, places_of
from rlhf_jax.fields import check_seed
from rlhf_jax.rewards import EnsembleConfig, TextReward
from rlhf_jax.stages.evaluate import rows
from rlhf_jax.stages.evaluate.find import find_scorer
from rlhf_jax.stages.evaluate.measure import Measured, evaluation, golden_items, measure
from rlhf_jax.stages.evaluate.result import Beside
from rlhf_jax.stages.evaluate.rows import EvaluatedRow


def evaluate_beside(
    run: str | Path | TextReward,
    other: str | Path | TextReward,
    data: str | Path,
    *,
    by: str = "",
    golden: str | Path = "",
    split: str = "",
    on_bad_row: OnBadRow = "error",
    templated: bool = False,
    ensemble: EnsembleConfig | None = None,
    seed: int = 0,
) -> Beside:
    """Evaluate two scorers on the same rows, and compare them row by row.

    Args:
        run: the one, as ``evaluate`` takes it.
        other: the other.
        data: pairs in any layout, or best-of-K rows.
        by: the field that names the subsets.
        golden: a file of items whose answer is known.
        split: the split of ``data``, where it has several.
        on_bad_row: a row that is bad, or too long for either, stops it, or is skipped and listed.
        templated: the texts hold the chat template already applied.
        ensemble: how the members of an ensemble are combined.
        seed: what the intervals' resampling depends on.

    Returns:
        Both evaluations, and the difference over the rows that both could be measured on.

    Raises:
        DataError: on a bad row, and where no row is left for both.
        RunError: when one of them scores no responses.
    """
    check_seed("seed", seed)
    read = rows.read(str(data), by, on_bad_row, split=split)
    items = rows.read(str(golden), "", on_bad_row, golden=True) if golden else None
    scorers = [find_scorer(one, ensemble=ensemble, templated=templated) for one in (run, other)]
    each, found = [], []
    for scorer in scorers:
        known = golden_items(measure(items, scorer, on_bad_row), str(golden), seed=seed) if items else None
        each.append(measure(read, scorer, on_bad_row))
        found.append(evaluation(each[-1], read, scorer.what, str(data), golden=known, seed=seed))
    right = [right_by_row(measured) for measured in each]
    both = [row for row in read.rows if row.number in right[0] and row.number in right[1]]
    if not both:
        raise DataError(f"{data}: people picked a response in no row that both could be measured on")

    def difference(some: Sequence[EvaluatedRow]) -> Difference:
        first, second = ([found[row.number] for row in some] for found in right)
        return paired_difference(first, second, [prompt_text(row.choice.prompt) for row in some], seed=seed)

    parts = places_of([row.subset for row in both])
    return Beside(
        first=found[0],
        second=found[1],
        difference=difference(both),
        by={name: difference([both[i] for i in places]) for name, places in parts.items()},
    )


def right_by_row(measured: Measured) -> dict[int, float]:
    """Say of every row that people decided, by its number, how far the scores pick what people picked.

    Args:
        measured: the rows with their scores.
    """
    decided = [(row, scored) for row, scored in zip(measured.rows, measured.scored, strict=True) if scored.right]
    found = outcomes([scored for _, scored in decided])
    return {row.number: float(right) for (row, _), right in zip(decided, found, strict=True)}
