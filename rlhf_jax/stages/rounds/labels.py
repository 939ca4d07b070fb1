"""Who labels the pairs of a round: people, an AI judge, the data set's gold judge, or those who have voted already."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data import Comparison, DataError, layouts
from rlhf_jax.data.layouts.turns import prompt_of
from rlhf_jax.data.one_file import read_rows
from rlhf_jax.data.rows import Prompt, prompt_field, prompt_text
from rlhf_jax.feedback.judges import from_scores, judged
from rlhf_jax.judges import JudgeConfig
from rlhf_jax.rewards import TextReward
from rlhf_jax.runs.errors import NeedsPeople, RunError
from rlhf_jax.stages.labelling import LabelConfig
from rlhf_jax.stages.labelling import label as label_pairs
from rlhf_jax.stages.rounds.config import RoundsConfig
from rlhf_jax.stages.rounds.drawing import read, write

# What whoever labels writes beside an opinion, for other programs.
_BESIDE = ("pair", "model_a", "model_b", "shown_first", "shown_second", "score_a", "score_b")


class Pair(NamedTuple):
    """One pair of a round: what was asked, and why."""

    prompt: Prompt
    a: str
    b: str
    why: str
    heldout: str  # "" where it is trained on, else validation or test
    share: float | None = None  # for a, among those who voted before

    @property
    def id(self) -> str:
        """The pair's name by content, whichever of its responses comes first."""
        return pair_id(self.prompt, (self.a, self.b))


def pair_id(prompt: Prompt, responses: Sequence[str]) -> str:
    """Name a pair by its content, whichever of its responses comes first.

    Example:
        >>> pair_id("Hi.", ("a", "b")) == pair_id("Hi.", ("b", "a"))
        True
    """
    text = json.dumps([prompt_field(prompt), *sorted(responses)])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def read_pairs(path: Path) -> list[Pair]:
    """Read the pairs that a round has chosen."""
    return [
        Pair(
            prompt_of(row, f"{path}:{place}"),
            str(row["a"]),
            str(row["b"]),
            str(row["chosen_by"]),
            str(row["heldout"]),
            row.get("share"),
        )
        for place, row in enumerate(read(path), start=1)
    ]


def label(
    config: RoundsConfig, directory: Path, pairs: Sequence[Pair], number: int, judges: Mapping[str, TextReward]
) -> Path:
    """Have the pairs of a round labelled, or find that they are.

    Args:
        config: the rounds'.
        directory: the round's folder.
        pairs: what is to be labelled.
        number: which round.
        judges: those that measure policies; ``gold`` labels where the config says so.

    Returns:
        The file of labels, rows of ``prompt``, ``a``, ``b``, ``preference`` and who said it. Pairs of which a judge
        says nothing are not in it.

    Raises:
        NeedsPeople: when people have not labelled them yet.
        RunError: when there is no such judge, or it has no opinion at all.
    """
    to = directory / "labels.jsonl"
    if to.exists():
        if not to.read_bytes().strip():
            raise NeedsPeople(f"{to} has no row yet: {_commands(directory, len(pairs), number)}")
        return to
    if config.label == "people":
        raise NeedsPeople(_commands(directory, len(pairs), number))
    if config.label == "votes":
        rows = _rows(pairs, [pair.share for pair in pairs], rater="votes", source="person", number=number)
    elif config.label == "gold":
        rows = _rows(pairs, _gold(config, pairs, judges), rater="gold", source="judge", number=number)
    else:
        rows = _by_judge(config, directory, number)
    if not rows:
        raise RunError(
            f"round {number}: {config.label} has no opinion on any of {len(pairs):,} pairs, so nothing can be learnt"
        )
    write(to, rows)
    return to


def _rows(
    pairs: Sequence[Pair], shares: Sequence[float | None], *, rater: str, source: str, number: int
) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt_field(pair.prompt),
            "a": pair.a,
            "b": pair.b,
            "preference": share,
            "rater": rater,
            "source": source,
            "round": number,
            "pair": pair.id,
        }
        for pair, share in zip(pairs, shares, strict=True)
        if share is not None
    ]


def _gold(config: RoundsConfig, pairs: Sequence[Pair], judges: Mapping[str, TextReward]) -> list[float]:
    """The share of the gold judge for the first of each pair."""
    if "gold" not in judges:
        raise RunError(
            "label gold: the data set has no judge called gold: name one with --judge gold=FILE.py:function, or have "
            "the pairs labelled by judge:SPEC or by people"
        )
    gold, asked = from_scores(judges["gold"], scale=config.gold_scale), [prompt_text(pair.prompt) for pair in pairs]
    votes = judged(gold, asked, [[pair.a, pair.b] for pair in pairs], called="the judge gold").votes
    return [float(share) for share in votes[:, 0, 1]]


def _by_judge(config: RoundsConfig, directory: Path, number: int) -> list[dict[str, Any]]:
    """The rows of an AI judge, who goes on where it was stopped."""
    judge = JudgeConfig(judge=config.label.removeprefix("judge:"))
    asked = LabelConfig(
        source=str(directory / "pairs.jsonl"), to=str(directory / "judged.jsonl"), judge=judge, limit=0, round=number
    )
    return label_pairs(asked).rows


def labelled(path: Path, pairs: Sequence[Pair]) -> dict[str, list[Comparison]]:
    """Read the labels of a round, by what they are for.

    Args:
        path: the file of labels.
        pairs: what was asked.

    Returns:
        Comparisons by ``""`` (to train on), ``validation`` and ``test``; several of a pair where several raters have
        said something.

    Raises:
        DataError: when a row is no comparison of two, or of a pair that was not asked.

    Example:
        >>> labelled(Path("labels.jsonl"), read_pairs(Path("pairs.jsonl")))  # doctest: +SKIP
    """
    asked = {pair.id: pair for pair in pairs}
    found: dict[str, list[Comparison]] = {"": [], "validation": [], "test": []}
    said: set[str] = set()
    for row in read_rows(path, layouts.judged, "error", known=_BESIDE):
        if not isinstance(row, Comparison) or len(row.responses) != 2:
            raise DataError(f"{row.where}: expected what somebody said of two responses, 'prompt', 'a', 'b', ...")
        pair = asked.get(pair_id(row.prompt, row.responses))
        if pair is None:
            raise DataError(
                f"{row.where}: this pair is none of {len(asked)} in {path.parent / 'pairs.jsonl'}: the labels of a "
                "round are about its own pairs alone"
            )
        found[pair.heldout].append(row)
        said.add(pair.id)
    if len(said) < len(asked):
        print(
            f"{path} says something of {len(said):,} of {len(asked):,} pairs; the others are left out", file=sys.stderr
        )
    return found


def _commands(directory: Path, count: int, number: int) -> str:
    pairs, said, labels = (directory / name for name in ("pairs.jsonl", "said.sqlite", "labels.jsonl"))
    return (
        f"round {number} waits for people, who are to compare the {count:,} pairs of {pairs}:\n"
        f"  rlhf compare {pairs} --to {said} --pairs 0 --round {number} --raters NAME,NAME\n"
        f"  rlhf data {said} --to {labels}\n"
        "and then the same rlhf rounds command again, which goes on from there"
    )
