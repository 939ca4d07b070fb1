"""Learning from people: pairs of segments as rows of clips, and what was said of them as preferences."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.control.alternate import Learner, Task, first_questions, hear, improve, questions, start
from rlhf_jax.control.clips import clip, describe, segment_name
from rlhf_jax.control.environment import Array
from rlhf_jax.control.queries import Pairs

Row = dict[str, Any]
# (round, rows to be compared) -> rows that were answered, any number of them, with segment_a, segment_b, preference
Ask = Callable[[int, list[Row]], Sequence[Mapping[str, Any]]]
PREFERENCES = {"a": 1.0, "b": 0.0, "tie": 0.5}


def question_rows(name: str, question: str, pairs: Pairs) -> list[Row]:
    """Write pairs as rows that the page of ``rlhf compare`` shows.

    Args:
        name: the environment's, one that ``clips`` draws.
        question: what people are asked, such as "Which one balances the pole better?".
        pairs: [k].

    Returns:
        Rows of ``prompt``, ``a`` and ``b`` (what each shows, in words), ``clip_a`` and ``clip_b``; a is the first one.

    Raises:
        ValueError: nobody has drawn this environment.
    """
    first, second = (np.asarray(side.observations) for side in pairs)
    return [
        {
            "prompt": question,
            "a": describe(name, a),
            "b": describe(name, b),
            "clip_a": clip(name, a),
            "clip_b": clip(name, b),
        }
        for a, b in zip(first, second, strict=True)
    ]


def answered(pairs: Pairs, said: Sequence[Mapping[str, Any]]) -> tuple[Pairs, np.ndarray, int]:
    """Find what people said of pairs: the mean over those who answered, by the names of the segments.

    Args:
        pairs: [k], that people were asked about.
        said: rows of an export: ``segment_a``, ``segment_b`` and ``preference`` ("a", "b" or "tie"); rows of other
            segments are passed over.

    Returns:
        The pairs, those that were answered in front; their preferences, [k], 1/2 where nobody answered; and how many
        were answered.

    Raises:
        ValueError: a preference is none of the three.

    Example:
        >>> from rlhf_jax.control.segments import Segments
        >>> one, two = (Segments(np.full((2, 5, 1), x), np.zeros((2, 5, 1)), np.zeros((2, 5))) for x in (1.0, 2.0))
        >>> names = {"segment_a": segment_name(one.observations[0]), "segment_b": segment_name(two.observations[0])}
        >>> votes = [{**names, "preference": "a"}, {**names, "preference": "tie"}]
        >>> answered(Pairs(one, two), votes)[1:]
        (array([0.75, 0.75]), 2)
    """
    votes: dict[tuple[str, str], list[float]] = {}
    for row in said:
        if row["preference"] not in PREFERENCES:
            raise ValueError(f"a preference is a, b or tie, found {row['preference']!r:.40}")
        segments = row.get("segment_a", ""), row.get("segment_b", "")
        votes.setdefault(segments, []).append(PREFERENCES[row["preference"]])
    first, second = (np.asarray(side.observations) for side in pairs)
    names = [(segment_name(a), segment_name(b)) for a, b in zip(first, second, strict=True)]
    order = sorted(range(len(names)), key=lambda i: names[i] not in votes)
    preferences = np.array([np.mean(votes.get(names[i], [0.5])) for i in order])
    in_order = jax.tree.map(lambda x: x[np.array(order, int)], pairs)
    return in_order, preferences, sum(name in votes for name in names)


def from_people(key: Array, task: Task, ask: Ask, schedule: Sequence[int], *, question: str) -> Learner:
    """Learn a reward from people's preferences and a policy from the reward, in rounds: ask, then train.

    Everything but the answers follows from the key. Stopped in the middle and begun again with the same key, it asks
    the same questions; an ``ask`` that keeps what was said has answers to them already, and so training goes on.

    Args:
        key: everything random comes from it.
        task: what is to be learnt, in an environment that ``clips`` draws and that hides its ends.
        ask: (round, rows) -> rows with answers, as ``stages.ask_people`` makes it; round 0 comes before training.
        schedule: [rounds], how many pairs each round asks about, as ``label_schedule(labels, rounds - 1)`` says.
        question: what people are asked.

    Returns:
        The learner at the end.

    Raises:
        ValueError: the iterations are no multiple of the rounds, or there is no room for the answers.

    Source: Christiano et al. 2017, section 2.2 (arXiv:1706.03741).
    """
    rounds = len(schedule)
    if not rounds or task.iterations % rounds:
        raise ValueError(f"the rounds of asking must divide the {task.iterations} iterations, found {rounds}")
    if sum(schedule) > task.labels:
        raise ValueError(f"there is room for {task.labels} labels, and {sum(schedule)} are to be asked for")
    for_start, for_first, *for_rounds = jax.random.split(key, 2 + rounds)
    most = max(1, *(int(count) for count in schedule))

    def heard(key: Array, learner: Learner, pairs: Pairs, at: int) -> Learner:
        count = int(schedule[at])
        if not count:
            return learner
        asked = jax.tree.map(lambda x: x[:count], pairs)
        found = answered(asked, ask(at, question_rows(task.environment.name, question, asked)))
        # Padded to as many as there were, so that rounds of different counts share a compiled program.
        room = len(pairs.first.rewards) - count
        padded = jax.tree.map(lambda x: jnp.pad(jnp.asarray(x), [(0, room)] + [(0, 0)] * (x.ndim - 1)), found[:2])
        return _hear(key, task, learner, *padded, jnp.int32(found[2]))

    learner, pairs = _begin(for_start, for_first, task, most)
    for at, for_round in enumerate(for_rounds):
        for_hear, for_training = jax.random.split(for_round)
        learner = heard(for_hear, learner, pairs, at)
        learner, pairs = _train(for_training, task, learner, task.iterations // rounds, most)
    return learner


# A task is hashable: whoever learns it again, after a stop say, has the programs compiled.


@functools.partial(jax.jit, static_argnames=("task", "count"))
def _begin(for_start: Array, for_first: Array, task: Task, count: int) -> tuple[Learner, Pairs]:
    return first_questions(for_first, task, start(for_start, task), count)


@functools.partial(jax.jit, static_argnames="task")
def _hear(key: Array, task: Task, learner: Learner, pairs: Pairs, preferences: Array, count: Array) -> Learner:
    return hear(key, task, learner, pairs, preferences, count, updates=task.asking.first_updates)[0]


@functools.partial(jax.jit, static_argnames=("task", "iterations", "count"))
def _train(key: Array, task: Task, learner: Learner, iterations: int, count: int) -> tuple[Learner, Pairs]:
    """Train policy and reward in turn, while nobody is asked, and choose pairs of the last steps to ask about."""
    nobody = jnp.full(count, 0.5), jnp.int32(0)

    def iteration(learner: Learner, key: Array) -> tuple[Learner, Pairs]:
        for_act, for_hear, for_agent = jax.random.split(key, 3)
        learner, rollout, pairs = questions(for_act, task, learner, count)
        learner, _ = hear(for_hear, task, learner, pairs, *nobody, updates=task.asking.updates)
        return improve(for_agent, task, learner, rollout)[0], pairs

    learner, pairs = jax.lax.scan(iteration, learner, jax.random.split(key, iterations))
    return learner, jax.tree.map(lambda x: x[-1], pairs)
