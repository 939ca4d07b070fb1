"""The audit of a judge on rows: what is read of people, who is asked how often, and what the command says."""

import json
import math

import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.cli.evaluate import evaluate
from rlhf_jax.cli.parsing import UsageError
from rlhf_jax.data import DataError
from rlhf_jax.feedback.judges import Verdicts, from_scores
from rlhf_jax.stages.audit import ask

JUDGE = """
def longer(prompts, responses):
    return [float(len(a) > len(b)) for a, b in responses]

def nothing(prompts, responses):
    return [float("nan")] * len(responses)
"""


def longer(prompts, responses):
    return [float(len(a) > len(b)) for a, b in responses]


def first(prompts, responses):
    return [1.0 for _ in responses]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(i, better, worse, **more):
    return {"prompt": f"Question {i}?", "chosen": better, "rejected": worse, **more}


@pytest.fixture
def pairs(tmp_path):
    """Six pairs in which people prefer the longer response, and two in which they do not."""
    rows = [row(i, "a" * (i + 3), "b", domain="x") for i in range(6)]
    return write(tmp_path / "pairs.jsonl", [*rows, *(row(i, "c", "ddd", domain="y") for i in range(6, 8))])


def test_a_judge_is_right_as_often_as_it_is(pairs):
    found = stages.audit(longer, pairs, by="domain")
    assert (found.quality.n, found.quality.accuracy) == (8, 0.75)
    assert {name: quality.accuracy for name, quality in found.by.items()} == {"x": 1.0, "y": 0.0}
    assert found.quality.longer == 1.0
    assert found.quality.longer_excess == 0.25
    assert found.panel is None


def test_who_always_takes_the_first_gains_nothing_by_rows_that_put_the_better_one_first(tmp_path):
    """Shown as the rows have them, or in the order of the texts, it would be always right."""
    pairs = write(tmp_path / "sorted.jsonl", [row(i, f"a{i}", f"b{i}") for i in range(100)])
    found = stages.audit(first, pairs)
    assert 0.35 < found.quality.accuracy < 0.65
    assert (found.quality.first, found.quality.consistent, found.quality.one_order) == (1.0, 0.0, 0.5)


def test_what_several_people_said_of_the_same_two_is_one_pair(tmp_path):
    """Whichever of the two each of them saw first; the judge stands among them as one more rater."""
    said = [("ann", "long one", "no", "a"), ("bo", "no", "long one", "b"), ("cy", "long one", "no", "b")]
    rows = [{"prompt": "Hi.", "a": a, "b": b, "preference": p, "rater": r} for r, a, b, p in said]
    other = [{"prompt": "Yo.", "a": "x", "b": "yyy", "preference": "b", "rater": r} for r in ("ann", "bo")]
    found = stages.audit(longer, write(tmp_path / "said.jsonl", [*rows, *other]))
    assert (found.quality.pairs, found.quality.accuracy) == (2, 1.0)
    # People's shares for the judge's side are 2/3 and 1, its own votes 1 and 1.
    assert found.quality.brier == pytest.approx((1 / 3) ** 2 / 2)
    assert found.panel.raters[:3] == ("ann", "bo", "cy")
    assert found.panel.n == (2, 2, 1, 2)
    assert found.panel.others[3] == 1.0
    assert found.panel.others[2] == 0.0
    assert found.to_json()["panel"]["raters"][3] == "the judge test_audit.py:longer"


def test_best_of_k_and_rankings_are_all_their_pairs(tmp_path):
    """A judge of K responses is asked about all of them at once, whatever K the rows have."""
    asked = []

    def judge(prompts, responses):
        asked.append(sorted({len(r) for r in responses}))
        lengths = np.array([[len(text) for text in r] for r in responses], float)
        return Verdicts(0.5 * (1 + np.sign(lengths[:, :, None] - lengths[:, None, :])) * (1 - np.eye(lengths.shape[1])))

    rows = [
        {"prompt": "Q", "chosen": ["long answer"], "rejected": ["b", "cc"]},
        {"prompt": "R", "responses": ["b", "dddd", "cc", "eeeeeeee"], "ranking": [3, 2, 4, 1]},
        {"prompt": "S", "chosen": "x", "rejected": "yy"},
    ]
    found = stages.audit(judge, write(tmp_path / "rows.jsonl", rows))
    assert {tuple(sizes) for sizes in asked} == {(2,), (3,), (4,)}
    assert found.quality.pairs == 2 + 6 + 1
    # All of the first, five of the ranking (whose "b" is above "cc"), none of the last.
    assert found.quality.accuracy == pytest.approx((2 + 5 + 0) / 9)


def test_a_judge_that_scores_is_asked_once_and_one_that_votes_twice():
    calls = []

    def score(prompts, responses):
        calls.append("score")
        return [len(text) for text in responses]

    def vote(prompts, responses):
        calls.append("vote")
        return longer(prompts, responses)

    prompts, responses = ["Hi."] * 5, [["aaa", "b"]] * 5
    assert ask(from_scores(score), prompts, responses, called="it").shown is None
    assert ask(vote, prompts, responses, called="it", at_once=2).shown.shape == (5, 2, 2)
    assert calls == ["score"] + ["vote"] * 6


def test_what_a_judge_says_of_both_orders_is_taken_as_it_is():
    shown = np.array([[[0.0, 0.9], [0.4, 0.0]]], np.float32)
    votes = np.array([[[0.0, 0.75], [0.25, 0.0]]], np.float32)
    told = []
    found = ask(lambda p, r: Verdicts(votes, shown=shown), ["Hi."], [["a", "b"]], called="it", tell=told.append)
    assert found.shown is not None
    np.testing.assert_array_equal(found.shown, shown)
    assert told == [1]


def test_both_orders_of_three():
    """[i, j] of ``shown`` is what was said where i stood before j: a judge of places has 1 everywhere."""

    def places(prompts, responses):
        return np.triu(np.ones((len(prompts), 3, 3)), 1)

    found = ask(places, ["Hi."], [["a", "b", "c"]], called="it")
    np.testing.assert_array_equal(found.shown[0], 1 - np.eye(3))


def test_rows_that_compare_nothing_are_refused(tmp_path):
    same = write(tmp_path / "same.jsonl", [{"prompt": "Q", "a": "x", "b": "x", "preference": "tie"}])
    with pytest.raises(DataError, match="no two different responses"):
        stages.audit(longer, same)
    with pytest.raises(DataError, match=r"no row has the field 'kind' \(--by\)"):
        stages.audit(longer, write(tmp_path / "p.jsonl", [row(0, "a", "b")]), by="kind")


def test_the_command_prints_the_audit_and_writes_it(pairs, tmp_path, capsys):
    file, out = tmp_path / "mine.py", tmp_path / "audit.json"
    file.write_text(JUDGE)
    evaluate([f"judge:{file}:longer", "--data", pairs, "--by", "domain", "--json", str(out)])
    printed = capsys.readouterr().out
    assert "75.0%" in printed
    assert "prefers the longer response in 100.0%, people in 75.0%" in printed
    written = json.loads(out.read_text())
    assert written["accuracy"] == 0.75
    assert written["by"]["y"]["accuracy"] == 0.0
    evaluate([f"judge:{file}:nothing", "--data", pairs])
    assert "100.0%" in capsys.readouterr().out  # it always abstains


@pytest.mark.parametrize("option", [["--against", "runs/x"], ["--samples", "2"], ["--golden", "g.jsonl"]])
def test_options_that_an_audit_does_not_read_are_refused(option, pairs):
    with pytest.raises(UsageError, match=f"{option[0]} is not for an audit"):
        evaluate(["judge:mine.py:longer", "--data", pairs, *option])


def test_a_judge_without_a_name_is_refused(pairs):
    with pytest.raises(UsageError, match="names no judge"):
        evaluate(["judge:", "--data", pairs])


def test_votes_that_are_none_are_an_error(pairs):
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        stages.audit(lambda prompts, responses: [math.pi for _ in responses], pairs)
