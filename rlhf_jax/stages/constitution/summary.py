"""What became of responses: how often a revision was one, by round and by principle; and the rows to learn from."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from rlhf_jax.evaluation.intervals import bootstrap_groups
from rlhf_jax.evaluation.monitors.patterns import words_of

_LISTED = ("revised", "echo", "request", "critique", "unfinished", "empty")
_ENOUGH = 20  # prompts to resample

Row = Mapping[str, Any]


def rows_of(chains: Sequence[Row], digest: str, *, keep: Literal["all", "revised"]) -> Iterator[dict[str, Any]]:
    """Make the rows to imitate.

    Args:
        chains: as ``chain.revised`` makes them.
        digest: the version of the principles.
        keep: whether responses are among them of which no revision was taken.

    Yields:
        ``prompt``, ``response``, and in ``revision`` what it came of: ``principles``, ``first``, ``sample``, ``chain``.
    """
    for row in chains:
        if keep == "revised" and not was_revised(row):
            continue
        came_of = {"principles": digest, "first": row["first"], "sample": row["sample"], "chain": row["chain"]}
        yield {"prompt": row["prompt"], "response": row["response"], "revision": came_of}


def pairs_of(chains: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Make pairs of the last revision and the response as it was first, where they differ.

    Nobody has compared them: that the revision is chosen is what revising is for.

    Args:
        chains: as ``chain.revised`` makes them.

    Yields:
        ``prompt``, ``chosen``, ``rejected``, and ``source``, which is ``principle``.

    Example:
        >>> row = {"prompt": "Hi.", "first": "No.", "response": "Yes.", "chain": [{"did": "revised"}]}
        >>> list(pairs_of([row]))
        [{'prompt': 'Hi.', 'chosen': 'Yes.', 'rejected': 'No.', 'source': 'principle'}]
    """
    for row in chains:
        if was_revised(row):
            yield {
                "prompt": row["prompt"],
                "chosen": row["response"],
                "rejected": row["first"],
                "source": "principle",
            }


def was_revised(row: Row) -> bool:
    """Tell whether a revision was taken, and is not the first response after all."""
    return row["response"] != row["first"] and any(step["did"] == "revised" for step in row["chain"])


def summarised(chains: Sequence[Row]) -> dict[str, Any]:
    """Summarise chains.

    Args:
        chains: as ``chain.revised`` makes them.

    Returns:
        ``responses``; ``revised``, the share of which a revision was taken, and ``revised_ci``, its 95% interval, which
        resamples prompts, or responses where there are fewer than 20 prompts; ``rounds``, for each the shares of what
        revisions did; ``by_principle``, for each name how often it was drawn and the share of revisions that were
        taken; ``words_first`` and ``words``, mean lengths.
    """
    taken = np.array([was_revised(row) for row in chains], np.float64)
    prompts = [json.dumps(row["prompt"]) for row in chains]
    units = prompts if len(set(prompts)) >= _ENOUGH else list(map(str, range(len(chains))))
    rounds = max((len(row["chain"]) for row in chains), default=0)
    drawn: dict[str, list[bool]] = collections.defaultdict(list)
    for row in chains:
        for step in row["chain"]:
            drawn[step["principle"]].append(step["did"] == "revised")
    return {
        "responses": len(chains),
        "revised": float(taken.mean()),
        "revised_ci": list(bootstrap_groups(taken, units, seed=0, within=(0, 1))),
        "rounds": [
            {did: float(np.mean([row["chain"][each]["did"] == did for row in chains])) for did in _LISTED}
            for each in range(rounds)
        ],
        "by_principle": {
            name: {"drawn": len(found), "revised": float(np.mean(found))} for name, found in sorted(drawn.items())
        },
        "words_first": float(np.mean([len(words_of(row["first"])) for row in chains])),
        "words": float(np.mean([len(words_of(row["response"])) for row in chains])),
    }


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Say the figures of a summary to people.

    Args:
        summary: from ``stages.revise``.
    """
    low, high = summary["revised_ci"]
    lines = [
        f"{summary['responses']:,} responses; {summary['revised']:.1%} ({low:.1%} to {high:.1%}) are revised, from "
        f"{summary['words_first']:.1f} words to {summary['words']:.1f} (principles {summary['principles']})"
    ]
    for number, shares in enumerate(summary["rounds"], 1):
        said = ", ".join(f"{did} {share:.1%}" for did, share in shares.items() if share)
        lines.append(f"round {number}: {said}")
    for name, found in summary["by_principle"].items():
        lines.append(f"{name}: drawn {found['drawn']:,} times, {found['revised']:.1%} of the revisions taken")
    return lines
