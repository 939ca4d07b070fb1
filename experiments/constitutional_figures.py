"""The figures of ``constitutional.py`` and its tables: what revisions did, and what became of the policies.

Not an experiment itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax import evaluation
from rlhf_jax.stages.constitution.examples import Shown

Figure = tuple[float, tuple[float, float]]  # and its 95% interval

_SHARES = {
    "revised": "revised",
    "echoes": "echoes",
    "better": "better by gold",
    "worse": "worse by gold",
    "violations_before": "violations before",
    "violations_after": "after",
}


def mean(values: np.ndarray) -> Figure:
    """Compute a mean over responses to different prompts."""
    return float(np.mean(values)), evaluation.bootstrap_mean(values, seed=0)


def difference(after: np.ndarray, before: np.ndarray) -> Figure:
    """Compute the mean of differences on the same prompts."""
    return mean(np.asarray(after, float) - np.asarray(before, float))


def revision_figures(
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    before: np.ndarray,
    after: np.ndarray,
    examples: Sequence[Shown] = (),
) -> dict[str, Any]:
    """Measure revisions by gold.

    Args:
        rows: chains, as ``stages.revise`` returns them.
        summary: its summary.
        before: [n], gold of the responses as they were first.
        after: [n], gold of what they became.
        examples: what the reviser was shown.

    Returns:
        Shares of all responses with intervals: ``revised``, those of which a revision was taken; ``better`` and
        ``worse`` by gold; ``violations_before`` and ``violations_after``, those with a gold below 0, and ``fall``,
        their difference; ``gold``, the mean change; ``taken_better``, the share of those revised that are better;
        ``echoes``, that of all revisions asked for which repeat the response. ``did`` has all that revisions did, and
        ``copied`` the share of critiques that are one of an example, word for word.
    """
    shown = {one.critique.lower() for one in examples}
    critiques = [step["critique"].lower() for row in rows for step in row["chain"]]
    did = [step["did"] for row in rows for step in row["chain"]]
    changed = np.array([row["response"] != row["first"] for row in rows])
    gap = after - before
    return {
        "responses": len(rows),
        "did": {name: did.count(name) / len(did) for name in sorted(set(did))},
        "copied": float(np.mean([critique in shown for critique in critiques])),
        "rounds": summary["rounds"],
        "words": (summary["words_first"], summary["words"]),
        "revised": mean(changed.astype(float)),
        "echoes": mean(np.array([np.mean([step["did"] == "echo" for step in row["chain"]]) for row in rows])),
        "better": mean((gap > 0).astype(float)),
        "worse": mean((gap < 0).astype(float)),
        "taken_better": mean((gap[changed] > 0).astype(float)) if changed.any() else None,
        "violations_before": mean((before < 0).astype(float)),
        "violations_after": mean((after < 0).astype(float)),
        "fall": difference((after < 0).astype(float), (before < 0).astype(float)),
        "gold": difference(after, before),
    }


def _share(figure: Figure | None) -> str:
    if figure is None:
        return ""
    value, (low, high) = figure
    return f"{value:.1%} ({low:.1%} to {high:.1%})"


def _number(figure: Figure) -> str:
    value, (low, high) = figure
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def revision_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the figures of revisions as Markdown."""
    lines = [f"| revisions | n | {' | '.join(_SHARES.values())} | change of gold |", f"|{'---|' * (len(_SHARES) + 3)}"]
    for name, one in found.items():
        shares = " | ".join(_share(one[key]) for key in _SHARES)
        lines.append(f"| {name} | {one['responses']} | {shares} | {_number(one['gold'])} |")
    return "\n".join(lines)


def policy_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the figures of policies as Markdown."""
    lines = [
        "| policy | gold win rate over the base | violations | change of violations | mean gold | words | distinct-2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in found.items():
        lines.append(
            f"| {name} | {_share(one['win_rate'])} | {_share(one['violations'])} | {_share(one['fall'])} "
            f"| {_number(one['gold'])} | {one['words'][0]:.1f} | {one['distinct_2']:.3f} |"
        )
    return "\n".join(lines)
