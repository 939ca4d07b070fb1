"""An endpoint as a judge: from its name to votes, in the words and by the rules of every judge that is asked."""

import json
import math

import numpy as np
import pytest
from planted_server import answer, endpoint, half, raw, serving

from rlhf_jax.feedback.judges import judged
from rlhf_jax.judges import AskingJudge, EndpointConfig, JudgeConfig, find_judge
from rlhf_jax.judges.asking import pair_question
from rlhf_jax.judges.endpoint import Endpoint, read_address
from rlhf_jax.runs.content import content_of
from rlhf_jax.runs.errors import RunError

PROMPTS, RESPONSES = ["Hi.", "Ho."], [["one", "two", "three"], ["four", "five", "six"]]


def of(server, folder, **fields):
    config = EndpointConfig(backoff=0.01, cache=str(folder / "answers.sqlite"))
    return find_judge(JudgeConfig(judge=f"{server.base}#judge-1", endpoint=config, **fields))


def longer(text, count):
    """Of "Response A: ... Response B: ..." the longer one, by three to one; an equal one is B."""
    a, b = (len(text.split(f"Response {letter}: ")[1].split("\n")[0]) for letter in "AB")
    first = 0.75 if a > b else 0.25
    return answer("A" if a > b else "B", [("A" if a > b else "B", {"A": math.log(first), "B": math.log(1 - first)})])


def test_pairs_are_asked_in_both_orders_and_softly(tmp_path):
    with serving(longer) as server:
        found = judged(of(server, tmp_path), PROMPTS, RESPONSES, called="it")
        assert len(server.asked) == 2 * 6
        wanted = pair_question("Hi.", "two", "three")[0].content
        assert wanted in [request["messages"][0]["content"] for request in server.asked]
    # "one" and "two" are equally long, so whoever is shown second wins, which the mean of both orders takes away.
    assert found.votes[0] == pytest.approx(np.array([[0, 0.5, 0.25], [0.5, 0, 0.25], [0.75, 0.75, 0]]))
    assert found.shown[0, 0, 1] == pytest.approx(0.25)


def test_scores_are_expected_values(tmp_path):
    score = answer("7", [("7", {"7": math.log(0.5), "9": math.log(0.5)})])
    with serving(lambda text, count: score) as server:
        found = judged(of(server, tmp_path, how="scores"), PROMPTS, RESPONSES, called="it")
    assert found.scores == pytest.approx(np.full((2, 3), 8.0))
    assert found.votes[0] == pytest.approx(np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]))


def test_an_order_is_asked_from_every_place(tmp_path):
    with serving(lambda text, count: answer("A > B > C")) as server:  # whoever stands first
        found = judged(of(server, tmp_path, how="ranking"), PROMPTS, RESPONSES, called="it")
        assert len(server.asked) == 2 * 3
    assert (found.votes + np.swapaxes(found.votes, 1, 2))[0] == pytest.approx(1 - np.eye(3))
    assert found.votes[0, 0, 1] == pytest.approx(2 / 3)  # first in two of three turns


def test_an_order_without_an_answer_leaves_its_pair_without_a_vote(tmp_path):
    """One order alone would be biased; the votes of other pairs are there."""

    def plan(text, count):
        return half if "bad" in text and text.index("bad") < text.index("one") else answer("A")

    with serving(plan) as server:
        judge = AskingJudge(endpoint(server, tmp_path, retries=0))
        found = judged(judge, PROMPTS, [["one", "bad"], ["one", "two"]], called="it").votes
    assert np.isnan(found[0, [0, 1], [1, 0]]).all()
    assert found[1].tolist() == [[0.0, 0.5], [0.5, 0.0]]


def test_a_file_names_an_endpoint(tmp_path):
    with serving(longer) as server:
        file = tmp_path / "judge.toml"
        cache = (tmp_path / "mine.sqlite").as_posix()
        file.write_text(f'judge = "{server.base}#judge-1"\n[endpoint]\ncache = "{cache}"\nprice_in = 1.0\n')
        judge = find_judge(JudgeConfig(judge=str(file)))
        judged(judge, PROMPTS, RESPONSES, called="it")
        assert judge.model.cost == pytest.approx(12 * 10 / 1e6)
        assert (tmp_path / "mine.sqlite").exists()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("[endpoint]\nspeed = 3", "unknown field endpoint.speed: it may have concurrency"),
        ("[endpoint]\nretries = -1", "endpoint.retries must be at least 0"),
        ("[endpoint]\nkey = 'sk-planted'", "endpoint.key must be the name of an environment variable"),
        ("endpoint = 3", "endpoint must be a table"),
    ],
)
def test_a_file_that_says_it_wrong(lines, message, tmp_path):
    file = tmp_path / "judge.toml"
    file.write_text(f'judge = "http://127.0.0.1:1/v1#m"\n{lines}\n')
    with pytest.raises(RunError, match=message) as caught:
        find_judge(JudgeConfig(judge=str(file)))
    assert "planted" not in str(caught.value)


def test_names_that_do_not_fit():
    with pytest.raises(RunError, match="names no model"):
        find_judge(JudgeConfig(judge="http://127.0.0.1:1/v1"))
    with pytest.raises(RunError, match="is no endpoint"):
        find_judge(JudgeConfig(judge="mine.py:f", endpoint=EndpointConfig(retries=1)))


def test_another_pace_is_the_same_judge(monkeypatch):
    """A run goes on with another price, pace or key, and not with another model or temperature."""
    monkeypatch.setenv("PLANTED_KEY", "sk-planted")

    def content(model="m", **fields):
        judge = AskingJudge(Endpoint(read_address(f"http://127.0.0.1:1/v1#{model}"), EndpointConfig(**fields)))
        return content_of(judge)

    one = content()
    assert one.unknown == ()
    assert one == content(concurrency=1, price_in=3.0, key="PLANTED_KEY", cache="x.sqlite", timeout=1.0)
    assert one != content(temperature=0.5)
    assert one != content(model="n")


def test_a_rubric_in_words_of_its_own_is_asked_as_a_text_that_goes_on(tmp_path):
    rubric = tmp_path / "tone.toml"
    rubric.write_text(
        '[[criteria]]\ntext = "It is positive."\ncompletion = "Text: {response}\\nSentiment:"\n'
        'answers = ["negative", "positive"]\n'
    )

    def plan(text, count):
        word = " positive" if "o" in text.split("\n")[0] else " negative"
        return raw(json.dumps({"choices": [{"text": word}]}))

    with serving(plan) as server:
        found = judged(of(server, tmp_path, how="scores", rubric=str(rubric)), ["Hi."], [["good", "bad"]], called="it")
        assert {request["prompt"] for request in server.asked} == {
            "Text: good\nSentiment:",
            "Text: bad\nSentiment:",
        }
    assert found.scores.tolist() == [[10.0, 1.0]]
    assert found.votes[0, 0, 1] == 1.0
