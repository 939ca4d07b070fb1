"""Hold a judge against people, on rows in which they said what they prefer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf_jax import evaluation, feedback
from rlhf_jax.data import DataError
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.data.raters import label_table, pair_key
from rlhf_jax.data.rows import Comparison
from rlhf_jax.evaluation import JudgeQuality
from rlhf_jax.evaluation.win_rates import places_of
from rlhf_jax.feedback.judges import Judge, Verdicts
from rlhf_jax.fields import check_seed
from rlhf_jax.judges import JudgeConfig, find_judge
from rlhf_jax.runs.user_code import called
from rlhf_jax.stages.audit import rows as audited
from rlhf_jax.stages.audit.ask import ask
from rlhf_jax.stages.audit.result import Audit, Panel
from rlhf_jax.stages.audit.rows import AuditedRow
from rlhf_jax.training.progress import Progress


def audit(
    judge: str | JudgeConfig | Judge,
    data: str | Path,
    *,
    by: str = "",
    split: str = "",
    on_bad_row: OnBadRow = "error",
    seed: int = 0,
) -> Audit:
    """Measure how a judge votes on what people voted on.

    In which order responses are shown follows from a hash of their texts, so that a taste for the first place is no
    merit on rows that put what people prefer first; a judge that reads two in an order is asked in both.

    Args:
        judge: a name as ``JudgeConfig.judge`` has it, a config, or a function of (prompts, responses [K]).
        data: pairs in any layout, rankings, or best-of-K rows: a file, a folder, or a data set on the hub. Rows of
            several people about the same responses are one.
        by: the field that names the subsets, dots between the names of nested ones.
        split: the split of ``data``, where it has several.
        on_bad_row: a bad row stops it, or is skipped and listed.
        seed: what the intervals' resampling depends on.

    Returns:
        The figures.

    Raises:
        DataError: on a bad row, and where no row compares responses.
        RunError: when the judge cannot be loaded.
        ValueError: when the judge returns anything but votes.

    Example:
        >>> found = audit("runs/judge", "pairs.jsonl", by="domain")  # doctest: +SKIP
        >>> found.quality.accuracy, found.quality.first  # doctest: +SKIP
    """
    check_seed("seed", seed)
    read = audited.read(str(data), by, on_bad_row, split=split)
    pairs, share = audited.pairs_of(read.rows)
    if not len(pairs):
        raise DataError(f"{data}: no two different responses are compared")
    if isinstance(judge, str):
        judge = JudgeConfig(judge=judge)
    what = f"the judge {judge.judge if isinstance(judge, JudgeConfig) else called(judge)}"
    votes, shown = _votes(find_judge(judge) if isinstance(judge, JudgeConfig) else judge, read.rows, pairs, what)
    items, lengths = _items(read.rows, pairs)

    def quality(of: np.ndarray) -> JudgeQuality:
        both = None if shown is None else shown[of]
        return evaluation.judge_quality(votes[of], share[of], items[of], lengths, shown=both, seed=seed)

    subsets = places_of([read.rows[number].subset for number in pairs[:, 0]])
    return Audit(
        what=what,
        data=str(data),
        quality=quality(np.arange(len(pairs))),
        by={name: quality(where) for name, where in subsets.items()},
        panel=_panel(read.said, read.rows, pairs, votes, what) if read.said else None,
        left_out=read.left_out,
    )


def _votes(
    judge: Judge, rows: Sequence[AuditedRow], pairs: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Ask about all rows, those of as many responses together: votes [m] and, where there are orders, shown [m, 2]."""
    sizes = [len(row.responses) for row in rows]
    votes, shown = np.full(len(pairs), np.nan), np.full((len(pairs), 2), np.nan)
    ordered, done = False, 0
    with Progress("audit", len(rows)) as progress:
        for k in sorted(set(sizes)):
            own = [number for number, size in enumerate(sizes) if size == k]
            base = done
            found: Verdicts = ask(
                judge,
                [rows[number].prompt for number in own],
                [rows[number].responses for number in own],
                called=what,
                tell=lambda n, base=base: progress.update(base + n, {}),  # type: ignore[misc]
            )
            done += len(own)
            place = {number: at for at, number in enumerate(own)}
            here = np.array([number in place for number in pairs[:, 0]])
            at = np.array([place[number] for number in pairs[here, 0]], np.int64)
            i, j = pairs[here, 1], pairs[here, 2]
            votes[here] = found.votes[at, i, j]
            if found.shown is not None:
                ordered = True
                shown[here] = np.stack([found.shown[at, i, j], found.shown[at, j, i]], axis=1)
    return votes, shown if ordered else None


def _items(rows: Sequence[AuditedRow], pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the responses, the same text to the same prompt once: the two of each pair [m, 2], and lengths [n]."""
    known: dict[tuple[str, str], int] = {}
    found = [
        [known.setdefault((repr(rows[n].prompt), rows[n].responses[k]), len(known)) for k in (i, j)]
        for n, i, j in pairs.tolist()
    ]
    return np.array(found, np.int64), np.array([len(response) for _, response in known], np.float64)


def _panel(
    said: Sequence[Comparison], rows: Sequence[AuditedRow], pairs: np.ndarray, votes: np.ndarray, what: str
) -> Panel:
    """Put the judge beside the people who are named, as one more rater of their pairs."""
    table = label_table(said)
    own = {}
    for (n, i, j), vote in zip(pairs.tolist(), votes, strict=True):
        key, turned = pair_key(rows[n].prompt, rows[n].responses[i], rows[n].responses[j])
        own[key] = 1 - vote if turned else vote
    voted = feedback.labels_of_votes(np.array([own.get(item, np.nan) for item in table.items]))
    labels = np.concatenate([table.labels, voted[:, None]], axis=1)
    report = feedback.rater_report(labels)
    return Panel(
        raters=(*table.raters, what),
        n=tuple(report.n.tolist()),
        others=_numbers(report.others),
        right=_numbers(feedback.consensus(labels).right),
        weight=_numbers(report.weight),
        alpha=None if np.isnan(report.alpha) else report.alpha,
    )


def _numbers(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(x) else float(x) for x in values)
