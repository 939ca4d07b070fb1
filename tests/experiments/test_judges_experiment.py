"""What experiments/judges.py draws, asks and reports, on planted judges; no model is loaded."""

import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.data.hutto import Sentence
from rlhf_jax.feedback.judges import Verdicts, from_scores

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments"))  # as `python experiments/judges.py` has it

import judge_tables  # noqa: E402
import judges  # noqa: E402


@pytest.fixture(scope="module")
def sentences():
    """Sentences that begin with their mean rating; longer ones are no better."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(120):
        good = rng.normal(0, 1.5)
        ratings = np.clip(np.round(good + rng.normal(0, 1.5, 20)), -4, 4).astype(np.int32)
        text = f"{ratings.mean():.3f} " + "x" * int(rng.integers(1, 60))
        found.append(Sentence(str(i), ("movie", "tweets")[i % 2], text, ratings))
    return found


def good(prompts, responses):
    return [float(text.split()[0]) for text in responses]


def test_pairs_are_of_one_domain_and_share_no_sentence_and_more_of_them_begin_with_fewer(sentences):
    many, few = judges.apart(sentences, 40), judges.apart(sentences, 15)
    np.testing.assert_array_equal(many.pairs[:15], few.pairs)
    assert len(np.unique(many.pairs)) == 80
    assert all(sentences[i].domain == sentences[j].domain for i, j in many.pairs)
    i, j = many.pairs[0]
    a, b = sentences[i].ratings[:, None], sentences[j].ratings[None, :]
    assert many.share[0] == pytest.approx((a > b).mean() + 0.5 * (a == b).mean(), abs=1e-6)
    assert few.ratings == 30 * 20


def test_what_was_said_is_not_asked_again(sentences, tmp_path):
    """Killed after any chunk, it goes on there; with more pairs it asks about those alone; other pairs are refused."""
    asked, file = [], tmp_path / "votes.npz"

    def judge(prompts, responses):
        asked.extend(responses)
        if len(asked) > 12:
            raise KeyboardInterrupt
        return Verdicts(np.array([[[0, 0.75], [0.25, 0]]] * len(prompts)))

    def go_on(count, whom, sentences=sentences):
        pairs = judges.apart(sentences, count)
        return judges.asked(file, lambda: whom, pairs.prompts, pairs.responses, called="it", chunk=4), pairs

    with pytest.raises(KeyboardInterrupt):
        go_on(20, judge)
    asked.clear()
    found, _ = go_on(4, judge)
    assert (asked, found.votes.tolist(), found.shown.tolist()) == ([], [0.75] * 4, [[0.75, 0.75]] * 4)
    found, pairs = go_on(20, from_scores(lambda p, r: (asked.extend(r), good(p, r))[1]))
    assert found.votes[:4].tolist() == [0.75] * 4
    assert asked == [text for both in pairs.responses[4:] for text in both]
    assert found.votes.shape == (20,)
    assert go_on(6, judge)[0].votes.shape == (6,)  # fewer than there are
    with pytest.raises(SystemExit, match="is about other pairs"):
        go_on(20, judge, sentences[::-1])


def test_the_tables_say_of_planted_judges_what_they_are(sentences, tmp_path):
    pairs = judges.drawn(sentences, 2)
    whom = {
        "good": from_scores(good),
        "the longer one": from_scores(lambda prompts, responses: [len(text) for text in responses], scale=0.0),
        "the first": lambda prompts, responses: [0.75 for _ in responses],
    }
    said, found = {}, {"same": {}}
    for name, judge in whom.items():
        said[name] = judges.asked(
            tmp_path / f"{name}.npz", lambda judge=judge: judge, pairs.prompts, pairs.responses, called=name, chunk=500
        )
        quality = judges.measured(said[name], pairs, 50).to_json()
        found["same"][name] = {**quality, **judges.beside_a_person(said[name], pairs, 50), "ratings": pairs.ratings}
    assert found["same"]["good"]["accuracy"] > 0.9
    assert found["same"]["good"]["difference_ci"][0] > 0  # better than one person: it knows what all of them mean
    assert found["same"]["the longer one"]["longer"] == 1.0
    assert (found["same"]["the first"]["first"], found["same"]["the first"]["consistent"]) == (0.75, 0.0)
    found["panel"] = judges.panel({name: said[name] for name in ("good", "the longer one")}, pairs, 50)
    five = found["panel"]["consensus"]["5 people"]["accuracy"]
    assert found["panel"]["raters"]["person 1"]["accuracy"] < five
    assert found["panel"]["raters"]["good"]["right_by_all"] > 0.9
    own = {"n": 4, "win_rate": 0.5, "gold_win_rate": 0.25, "excess": 0.25, "excess_ci": [0.0, 0.5]}
    equal = {"at_equal_gold": 0.75, "at_equal_gold_ci": [0.4, 0.9]}
    found["own"] = {"good": {"PPO": {**own, **equal}}, "the first": {"PPO": None}}
    judge_tables.write(found, tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "| good | PPO | 4 | 50.0% | 25.0% | +25.0% (+0.0% to +50.0%) | 75.0% (40.0% to 90.0%) |" in table
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_scale_is_fitted_so_that_votes_are_calibrated(sentences):
    pairs = judges.drawn(sentences, 2)
    judge = judges.scaled(lambda texts: 1000 * np.array(good(None, texts)), pairs)
    votes = judge(pairs.prompts, pairs.responses).votes[:, 0, 1]
    assert np.abs(votes - pairs.share).mean() < 0.15


def test_nobody_scores_a_sentence_that_it_was_fitted_on(sentences, monkeypatch):
    fitted = []

    def ridge(texts, ratings):
        fitted.append(set(texts))
        return lambda asked: np.array([float(text in fitted[-1]) for text in asked])

    monkeypatch.setattr(judges.evaluation, "fit_ridge", ridge)
    found = judges.cross_fitted(sentences)
    assert set(found) == {s.text for s in sentences}
    assert not any(found.values())
    assert len(fitted) == 5


def test_the_rubrics_are_read():
    for file in (judges.TONE, judges.RUBRIC):
        assert judges.criteria_of(judges.JudgeConfig(judge="runs/x", how="scores", rubric=str(file)))("Hi.")
