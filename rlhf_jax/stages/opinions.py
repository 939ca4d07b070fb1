"""What people said of responses: comparisons, ratings or labels, to train on, to choose a checkpoint on, to report on.

Ratings by several people become comparisons: responses to one prompt are drawn into groups, anew in every epoch.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import data, evaluation, feedback
from rlhf_jax.data import Comparison, DataError, Example, RatedResponse, Tokenizer, degenerate, equal
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.parts import prompt_key
from rlhf_jax.data.rows import LabelledResponse
from rlhf_jax.stages import rankings, raters
from rlhf_jax.stages.held_out import HeldOutPairs
from rlhf_jax.stages.sources import counted, encode_usable, find_task
from rlhf_jax.stages.task import Task


class Comparisons(NamedTuple):
    """Comparisons to train and be measured on; ``heldout`` and ``test`` take how many pairs to draw a response."""

    epoch: Callable[[int], list[Example]]
    heldout: Callable[[int], HeldOutPairs]  # chooses the best checkpoint
    test: Callable[[int], HeldOutPairs]  # gives the final figures
    warnings: tuple[str, ...] = ()  # oddities of the rows, and what a reader of the figures has to know
    trained: frozenset[str] = frozenset()  # keys of the prompts that are trained on, ``data.parts.prompt_key``
    rows: Callable[[], dict[str, int]] = dict  # how many are used for what, ``sources.counted``; asked at the end


class Labels(NamedTuple):
    """Single responses with labels, for KTO to train on and be measured by; an example holds one response."""

    epoch: Callable[[int], list[Example]]
    heldout: list[Example]  # chooses the best checkpoint
    test: list[Example]  # gives the final figures
    warnings: tuple[str, ...] = ()
    trained: frozenset[str] = frozenset()
    rows: Callable[[], dict[str, int]] = dict


def comparisons(
    config: DataConfig, tokenizer: Tokenizer, *, group_size: int, seed: int, task: Task | None = None
) -> Comparisons:
    """Read comparisons by votes: rated responses in groups drawn anew each epoch, or rows that are pairs.

    Args:
        config: where the rows are.
        tokenizer: the policy's.
        group_size: how many rated responses of a prompt are compared with each other.
        seed: decides groups and order.
        task: the data set's, from ``find_task`` if it is not given.

    Raises:
        DataError: on a bad row, and when the rows are single responses with labels.
    """
    found = _opinions(config, tokenizer, task or find_task(config), group_size=group_size, seed=seed)
    if isinstance(found, Labels):
        raise DataError(
            f"{config.source}: expected comparisons or ratings, found single responses with labels; rlhf preference "
            "--objective kto learns from them"
        )
    return found


def preferences(
    config: DataConfig, tokenizer: Tokenizer, *, min_share: float, seed: int, task: Task | None = None
) -> Comparisons | Labels:
    """Read comparisons in pairs, the response that more people prefer first; pairs of rated responses change by epoch.

    Pairs whose votes tie, or whose majority is smaller than ``min_share``, are left out of training and counted. Rows
    that are single responses with labels are no pairs; they are returned as ``Labels``.

    Raises:
        DataError: on a bad row, and in ``epoch`` when no pair has a majority of at least ``min_share``.
    """
    drawn = _opinions(config, tokenizer, task or find_task(config), group_size=2, seed=seed, in_pairs=True)
    if isinstance(drawn, Labels):
        return drawn
    pairs = drawn.epoch

    def epoch(number: int) -> list[Example]:
        ordered = [data.chosen_first(example, min_share) for example in pairs(number)]
        kept = [example for example in ordered if example is not None]
        if not kept:
            raise DataError(f"{config.source}: no training pair has a majority of at least min_share, {min_share}")
        return kept

    first = pairs(0)
    out = sum(data.chosen_first(example, min_share) is None for example in first)
    rated = any(example.ratings is not None for example in first)  # whose pairs are no rows, and change by epoch
    told = _said(
        [
            f"{config.source}: {out} of {len(first)} pairs to train on{' in the first epoch' if rated else ''} have no "
            f"majority of at least min_share, {min_share}, and are left out"
        ]
        * (out > 0)
    )

    def rows() -> dict[str, int]:
        every, lost = drawn.rows(), 0 if rated else out
        return {**every, "trained": every["trained"] - lost, "left_out": every["left_out"] + lost}

    return drawn._replace(epoch=epoch, rows=rows, warnings=(*drawn.warnings, *told))


def _opinions(
    config: DataConfig, tokenizer: Tokenizer, task: Task, *, group_size: int, seed: int, in_pairs: bool = False
) -> Comparisons | Labels:
    """Read what people said of responses, in whichever of three forms the rows have: comparisons, ratings or labels."""
    rows = task.asked("opinions", config.source)(config)
    kinds = {type(row) for part in (rows.train, rows.validation, rows.test) for row in part}
    if len(kinds) > 1:
        raise DataError(
            f"{config.source}: expected only pairs, only rated responses or only labels, found more than one of them; "
            "split the data"
        )
    odd: tuple[str, ...] = ()
    if kinds == {Comparison}:  # in the order in which people saw them, which gathered rows have not
        odd = _odd_labels([*rows.train, *rows.validation, *(rows.test if rows.test is not rows.validation else [])])
    rows = raters.gathered(rankings.in_pairs(rows) if in_pairs else rows, config)
    kinds = {type(row) for row in rows.train}
    trained = frozenset(prompt_key(row) for row in rows.train)
    used: dict[int, list[Any]] = {}  # the rows of a part that fit, once it was encoded

    def encode(part: Sequence[Any]) -> tuple[list[Any], list[Example]]:
        used[id(part)], examples = encode_usable(part, tokenizer, config, task)
        return used[id(part)], examples

    def count() -> dict[str, int]:
        return counted(rows.left_out, rows[:3], [used.get(id(part), part) for part in rows[:3]])

    def distinct(part: Sequence[Any], what: str) -> tuple[list[Any], list[Example], tuple[str, ...]]:
        found = _telling(part, f"{config.source}, {what}", encode)
        used[id(part)] = found[0]
        return found

    if kinds == {LabelledResponse}:
        (_, known, notes), held = distinct(rows.train, "to train on"), distinct(rows.validation, "held out")[1]
        test = held if rows.test is rows.validation else distinct(rows.test, "for the final figures")[1]
        warnings = _said([degenerate.one_sided(known)])
        return Labels(_given_epochs(known, seed), held, test, (*warnings, *notes, *rows.notes), trained, count)
    if kinds == {RatedResponse}:
        pairs = functools.partial(_rated_pairs, task=task, encode=encode)
        epoch = _rated_epochs(rows.train, config, encode, group_size, seed)
        alone = _alone(rows.train, group_size, config.source)
        warnings = (*_odd_ratings(rows.train), *alone, *_undecided(epoch(0), config.source))
    else:
        pairs = functools.partial(_given_pairs, encode=functools.partial(distinct, what="held out"))
        kept, known, notes = distinct(rows.train, "to train on")
        epoch = _given_epochs(_weighed(kept, known), seed)
        warnings = (*odd, *_undecided(known, config.source), *notes)
    # What is encoded twice would be complained of twice.
    heldout = functools.cache(lambda count: pairs(rows.validation, count))
    test_pairs = heldout if rows.test is rows.validation else functools.cache(lambda count: pairs(rows.test, count))
    return Comparisons(epoch, heldout, test_pairs, (*warnings, *rows.notes), trained, count)


def _weighed(rows: Sequence[Comparison], examples: list[Example]) -> list[Example]:
    """Give every group what its row counts for, where the rows do not all count the same."""
    if all(row.weight == 1 for row in rows):
        return examples
    return [example._replace(weight=row.weight) for row, example in zip(rows, examples, strict=True)]


def _telling(
    rows: Sequence[Any], part: str, encode: Callable[..., Any]
) -> tuple[list[Any], list[Example], tuple[str, ...]]:
    """Encode pairs or labelled responses, and leave out those that say nothing: equal tokens, or votes to a draw."""
    kept, examples = encode(rows)
    places, notes = equal.telling(examples)
    said = _said([f"{part}: {note}" for note in notes])
    if not places:
        raise DataError(f"{part}: none of {len(rows)} rows says which response is better: {'; '.join(notes)}")
    return [kept[i] for i in places], [examples[i] for i in places], said


def _undecided(examples: Sequence[Example], source: str) -> tuple[str, ...]:
    """Refuse comparisons that prefer nothing at all."""
    if said := degenerate.undecided(examples):
        raise DataError(f"{source}: {said}")
    return ()


def _odd_labels(rows: Sequence[Comparison]) -> tuple[str, ...]:
    """Find what is odd about the labels of comparisons, in the rows as they were read, and print it."""
    voted = [row for row in rows if row.votes.shape == (2, 2)]
    share = [float(row.votes[0, 1] / row.votes.sum()) if row.votes.sum() else 0.5 for row in voted]
    lengths = [[len(text) for text in row.responses] for row in voted]
    return _said(evaluation.label_warnings(share, lengths, [not row.chosen_first for row in voted]))


def _odd_ratings(rows: Sequence[RatedResponse]) -> tuple[str, ...]:
    """What is odd about ratings, told from random pairs of responses to the same prompt; nobody put these in order."""
    # Where there are few, the same is drawn again and again.
    pairs = _once_each(feedback.random_pairs([str(row.prompt) for row in rows], 1, seed=0))
    votes = feedback.votes_from_histograms(feedback.histograms([row.ratings for row in rows])[pairs])
    share = _share(votes)
    lengths = np.array([len(row.response) for row in rows])[pairs]
    return _said(evaluation.label_warnings(share, lengths, np.zeros(len(pairs), bool)))


def _alone(rows: Sequence[RatedResponse], group_size: int, source: str) -> tuple[str, ...]:
    """Count the rated responses that are in no comparison, or not in every epoch, and print it."""
    counts = Counter(row.prompt for row in rows).values()
    alone, odd = sum(n == 1 for n in counts), sum(n > 1 and n % 2 == 1 for n in counts)
    found = []
    if alone:
        found.append(
            f"{source}: {alone} of {len(rows)} rated responses are the only ones to their prompts: nothing compares "
            "them, and they are not trained on"
        )
    if odd and group_size == 2:
        found.append(
            f"{source}: {odd} prompts have an odd number of rated responses: one of each, drawn anew in every epoch, "
            "is in no pair"
        )
    return _said(found)


def _said(warnings: list[str]) -> tuple[str, ...]:
    said = tuple(filter(None, warnings))
    for text in said:
        print(f"warning: {text}", file=sys.stderr)
    return said


def _share(votes: np.ndarray) -> np.ndarray:
    """Compute the share of votes for the first of each pair, a half where everybody finds them equal: [m]."""
    first, both = votes[:, 0, 1].astype(np.float64), votes[:, 0, 1] + votes[:, 1, 0]
    return np.divide(first, both, out=np.full(len(votes), 0.5), where=both > 0)


def _given_epochs(examples: list[Example], seed: int) -> Callable[[int], list[Example]]:
    return lambda number: [examples[i] for i in data.epoch_order(len(examples), seed, number)]


def _rated_epochs(
    rows: Sequence[RatedResponse], config: DataConfig, encode: Callable[..., Any], group_size: int, seed: int
) -> Callable[[int], list[Example]]:
    kept, examples = encode(rows)
    names = [row.prompt for row in kept]
    counts = feedback.histograms([row.ratings for row in kept])
    examples = [
        example._replace(ratings=np.array([row.ratings.mean()], np.float32))
        for example, row in zip(examples, kept, strict=True)
    ]

    def epoch(number: int) -> list[Example]:
        groups = data.rated_groups(
            examples,
            names,
            counts,
            group_size=group_size,
            votes=feedback.votes_from_histograms,
            seed=seed,
            epoch=number,
        )
        if not groups:
            raise DataError(f"{config.source}: no prompt has 2 rated responses to compare with each other")
        return [groups[i] for i in data.epoch_order(len(groups), seed, number)]

    return epoch


def _rated_pairs(
    rows: Sequence[RatedResponse], pairs_per_response: int, *, task: Task, encode: Callable[..., Any]
) -> HeldOutPairs:
    """Draw random pairs of responses to the same prompt, always the same pairs, so that runs can be compared.

    A prompt with few responses has few pairs: what is drawn again counts once.
    """
    kept, examples = encode(rows)
    # Responses to one prompt are compared, in a data set with domains those of a domain.
    together = [task.domain(row.prompt) or row.prompt for row in kept]
    pairs = _once_each(feedback.random_pairs(together, pairs_per_response, seed=0))
    pairs = pairs[[not np.array_equal(examples[i].tokens[0], examples[j].tokens[0]) for i, j in pairs.tolist()]]
    counts = feedback.histograms([row.ratings for row in kept])
    votes = feedback.votes_from_histograms(counts[pairs])
    golden = feedback.golden_set([_Rated(row.where, row.ratings) for row in kept]) if len(kept) > 500 else None
    return HeldOutPairs(
        sequences=[e.tokens[0] for e in examples],
        starts=[e.starts[0] for e in examples],
        texts=[row.response for row in kept],
        ratings=[np.asarray(row.ratings) for row in kept],
        pairs=pairs,
        share=_share(votes),
        votes=votes.astype(np.float32),
        domains=[task.domain(row.prompt) or "all" for row in kept],
        golden=golden,
    )


def _once_each(pairs: np.ndarray) -> np.ndarray:
    """The first of each pair, whichever way round it was drawn, in their order; [m, 2]."""
    _, first = np.unique(np.sort(pairs, axis=1), axis=0, return_index=True)
    return pairs[np.sort(first)]


def _given_pairs(rows: Sequence[Comparison], pairs_per_response: int, *, encode: Callable[..., Any]) -> HeldOutPairs:
    """Take the pairs as they are, each once, and all pairs of a ranking; ``pairs_per_response`` is for ratings only."""
    kept, examples, _ = encode(rows)
    sizes = [len(row.responses) for row in kept]
    starts = np.cumsum([0, *sizes[:-1]])
    voted = [
        (start, i, j, row.votes)
        for start, row in zip(starts.tolist(), kept, strict=True)
        for i, j in zip(*np.triu_indices(len(row.responses), k=1), strict=True)
        if len(row.responses) == 2 or row.votes[i, j] + row.votes[j, i] > 0
    ]
    pairs = np.array([(start + i, start + j) for start, i, j, _ in voted], np.int64)
    votes = np.stack([table[np.ix_((i, j), (i, j))] for _, i, j, table in voted])
    share = _share(votes)
    # The chosen response of such rows always comes first; every other pair is turned, so that its place says nothing.
    turned = np.arange(len(pairs)) % 2 == 1
    return HeldOutPairs(
        sequences=[tokens for e in examples for tokens in e.tokens],
        starts=[start for e in examples for start in e.starts],
        texts=[text for row in kept for text in row.responses],
        ratings=[],
        pairs=np.where(turned[:, None], pairs[:, ::-1], pairs),
        share=np.where(turned, 1 - share, share),
        votes=np.where(turned[:, None, None], votes[:, ::-1, ::-1], votes).astype(np.float32),
        domains=["all"] * sum(sizes),
        golden=None,
    )


class _Rated(NamedTuple):
    id: str
    ratings: np.ndarray
