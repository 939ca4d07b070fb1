"""A loop with people in it: what they see is enough to learn from, and a loop that was stopped asks the same again."""

import jax
import numpy as np
import pytest

from rlhf_jax.control import AgentConfig, PreferenceConfig, Task, line
from rlhf_jax.control.ensemble import differences
from rlhf_jax.control.people import answered, from_people, question_rows
from rlhf_jax.control.queries import Pairs
from rlhf_jax.control.segments import Segments

SCHEDULE = [24, 8]


@pytest.fixture(scope="module")
def task():
    acting = AgentConfig(environments=8, steps=20, epochs=1, minibatches=1, hidden=(8,))
    asking = PreferenceConfig(segment=10, hidden=(16,), first_updates=200, updates=1, learning_rate=1e-2)
    return Task(line(limit=np.inf), acting, asking, iterations=2, labels=32)


def by_sight(row):
    """Prefer the clip whose point is nearer to the middle, by the shapes alone."""
    far = [np.mean([abs(frame[0][1] - 150) for frame in row[side]["frames"]]) for side in ("clip_a", "clip_b")]
    names = {f"segment_{side}": row[f"clip_{side}"]["segment"] for side in "ab"}
    return {**names, "preference": "a" if far[0] < far[1] else "b"}


def test_a_reward_is_learnt_from_what_people_see_and_a_stopped_loop_asks_the_same(task):
    asked, said = [], {}

    def ask(at, rows):
        asked.append((at, rows))
        if at == 1 and len(asked) == 2:
            raise KeyboardInterrupt
        return said.setdefault(at, [by_sight(row) for row in rows])

    learn = lambda: from_people(jax.random.key(0), task, ask, SCHEDULE, question="Which is nearer to 0?")  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        learn()
    learner = learn()
    assert [at for at, _ in asked] == [0, 1, 0, 1]
    assert asked[0] == asked[2]
    assert asked[1] == asked[3]
    assert [len(rows) for _, rows in asked[2:]] == SCHEDULE
    assert int(learner.said.number) == 32
    said = learner.said
    apart = differences(learner.ensemble, learner.agent.moments, said.first, said.second).mean(0)
    assert ((apart > 0) == (said.preferences == 1)).mean() > 0.8  # towards what they prefer, and not away from it


def pairs_of(*places):
    """Pairs of one-step segments at these places."""
    sides = np.asarray(places, np.float32).T[..., None, None] * np.ones((1, 1, 1, 2), np.float32)
    return Pairs(*(Segments(side, np.zeros((len(side), 1, 3)), side[..., 0]) for side in sides))


def test_answers_are_found_by_segment_and_those_without_one_come_last():
    pairs = pairs_of((0.1, 0.2), (0.3, 0.4), (0.5, 0.6))
    rows = question_rows("line", "Which?", pairs)
    names = [{"segment_a": row["clip_a"]["segment"], "segment_b": row["clip_b"]["segment"]} for row in rows]
    votes = [{**names[2], "preference": "b"}, {**names[1], "preference": "a"}, {**names[1], "preference": "tie"}]
    stranger = {"segment_a": "x", "segment_b": "y", "preference": "a"}
    found, preferences, count = answered(pairs, [*votes, stranger])
    assert count == 2
    assert preferences.tolist() == [0.75, 0.0, 0.5]
    np.testing.assert_allclose(found.first.observations[:, 0, 0], [0.3, 0.5, 0.1], rtol=1e-6)
    assert answered(pairs, [])[2] == 0
    with pytest.raises(ValueError, match="a preference is a, b or tie, found 'both'"):
        answered(pairs, [{**names[0], "preference": "both"}])


def test_rounds_that_do_not_fit_are_refused_before_anybody_is_asked(task):
    for schedule, said in (([1, 1, 1], "must divide the 2 iterations, found 3"), ([30, 5], "room for 32 labels")):
        with pytest.raises(ValueError, match=said):
            from_people(jax.random.key(0), task, None, schedule, question="Which?")
