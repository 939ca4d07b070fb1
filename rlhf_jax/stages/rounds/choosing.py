"""Which pairs of a round are worth a label: at random, where a reward model disputes, where it is sure and wrong."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlhf_jax.compare.choosing import share
from rlhf_jax.compare.dispute import disputed
from rlhf_jax.stages.rounds.config import ChooseConfig

Why = Literal["random", "disputed", "hard"]


class Chosen(NamedTuple):
    """One pair that is to be labelled."""

    pair: int  # which of the candidates
    why: Why


def candidate_pairs(responses: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """List the pairs of different responses to each prompt.

    Args:
        responses: texts to each of n prompts. Those that are empty, or the same but for white space around them as an
            earlier one, are in no pair.

    Returns:
        (pairs, prompts): int64 [m, 2], places in the flattened list of all responses; int64 [m], which prompt.

    Example:
        >>> pairs, prompts = candidate_pairs([["yes", "yes ", "no"], ["", "well"], ["a", "b"]])
        >>> pairs.tolist(), prompts.tolist()
        ([[0, 2], [5, 6]], [0, 2])
    """
    pairs, prompts, start = [], [], 0
    for i, texts in enumerate(responses):
        first: dict[str, int] = {}
        for j, text in enumerate(texts):
            if text.strip():
                first.setdefault(text.strip(), start + j)
        for pair in itertools.combinations(first.values(), 2):
            pairs.append(pair)
            prompts.append(i)
        start += len(texts)
    return np.array(pairs, np.int64).reshape(-1, 2), np.array(prompts, np.int64)


def dispute(members: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Measure how much a reward model disputes each pair; larger is more.

    An ensemble of M members: the standard deviation over them of ``s_a - s_b``; a single model: ``-|s_a - s_b|``.

    Args:
        members: [M, n], every member's score of each response.
        pairs: int [m, 2].

    Returns:
        float64 [m].

    Example:
        >>> pairs = np.array([[0, 1], [1, 2]])
        >>> dispute(np.array([[1.0, 0.0, 3.0], [-1.0, 0.0, 3.0]]), pairs), dispute(np.array([[1.0, 0.0, 3.0]]), pairs)
        (array([1., 0.]), array([-1., -3.]))

    Source: Christiano et al. 2017, Deep Reinforcement Learning from Human Preferences, section 2.2.4.
    """
    gap, spread = disputed(members[:, pairs[:, 0]], members[:, pairs[:, 1]])
    return spread if len(members) > 1 else -abs(gap)


def hardness(proxy: np.ndarray, judge: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Measure how sure a reward model is of what a judge finds worse; above 0 where they contradict each other.

    ``h = min(|p_a - p_b| / sd(p_a - p_b), |q_a - q_b| / sd(q_a - q_b))``, times -1 where proxy p and judge q agree on
    the pair; sd is the root mean square over all pairs.

    Args:
        proxy: [n], the reward model's score of each response.
        judge: [n], the judge's.
        pairs: int [m, 2].

    Returns:
        float64 [m].

    Example:
        >>> pairs = np.array([[0, 1], [0, 2]])
        >>> hardness(np.array([0.0, 1.0, 1.0]), np.array([0.0, -1.0, 1.0]), pairs)
        array([ 1., -1.])
    """
    gaps = [np.asarray(x, np.float64)[pairs[:, 0]] - np.asarray(x, np.float64)[pairs[:, 1]] for x in (proxy, judge)]
    p, q = (gap / max(float(np.sqrt(np.mean(np.square(gap)))) if len(gap) else 0.0, 1e-12) for gap in gaps)
    return np.minimum(abs(p), abs(q)) * -np.sign(p) * np.sign(q)


def choose(
    pairs: np.ndarray,
    prompts: np.ndarray,
    config: ChooseConfig,
    *,
    members: np.ndarray | None = None,
    judge: np.ndarray | None = None,
    seed: int,
) -> list[Chosen]:
    """Choose the pairs of a round, no more than ``per_prompt`` of a prompt.

    Those at random are drawn first, so that they are a sample of all candidates; then come the most disputed ones, then
    the hardest, as far as proxy and judge contradict each other.

    Args:
        pairs: int [m, 2], from ``candidate_pairs``.
        prompts: int [m], which prompt each pair belongs to.
        config: how many of each kind.
        members: [M, n], the reward model's scores; needed unless all are drawn at random.
        judge: [n], scores of the judge that ``hard`` is measured by.
        seed: what is drawn at random comes from it.

    Returns:
        The pairs, in the order in which they were chosen; fewer of a kind where there are no more.

    Raises:
        ValueError: if scores are missing.

    Example:
        >>> config = ChooseConfig(random=0, disputed=1)
        >>> members = np.array([[1.0, 0.0, 3.0, 0.0], [-1.0, 0.0, 3.0, 0.0]])
        >>> choose(np.array([[2, 3], [0, 1]]), np.array([0, 1]), config, members=members, seed=0)
        [Chosen(pair=1, why='disputed')]
    """
    if (config.disputed or config.hard) and members is None:
        raise ValueError("choose: disputed and hard pairs need the scores of a reward model")
    if config.hard and judge is None:
        raise ValueError("choose: hard pairs need the scores of a judge")
    mixed = np.array([share(seed, "pair", *pair) for pair in pairs.tolist()])
    orders: list[tuple[Why, int, np.ndarray]] = [("random", config.random, np.argsort(mixed, kind="stable"))]
    if config.disputed and members is not None:
        orders.append(("disputed", config.disputed, np.lexsort((mixed, -dispute(members, pairs)))))
    if config.hard and members is not None and judge is not None:
        hard = hardness(members.mean(0), judge, pairs)
        orders.append(("hard", config.hard, np.lexsort((mixed, -hard))[: int((hard > 0).sum())]))
    taken: dict[int, int] = {}
    chosen: dict[int, Chosen] = {}
    for why, count, order in orders:
        left = count
        for pair in order.tolist():
            if not left:
                break
            prompt = int(prompts[pair])
            if pair not in chosen and taken.get(prompt, 0) < config.per_prompt:
                chosen[pair] = Chosen(pair, why)
                taken[prompt] = taken.get(prompt, 0) + 1
                left -= 1
    return list(chosen.values())
