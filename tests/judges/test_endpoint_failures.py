"""Planted failures: what passes is asked again, and what stays wrong is an abstention that is counted, never a vote."""

import contextlib
import json
import sqlite3
import threading
import time

import numpy as np
import pytest
from planted_server import (
    answer,
    completion,
    dripping,
    endpoint,
    half,
    half_in_chunks,
    half_of_unknown_length,
    raw,
    reset,
    serving,
    silent,
    status,
)

from rlhf_jax.cli import errors
from rlhf_jax.data.rows import Message
from rlhf_jax.judges.endpoint import Address, Endpoint, EndpointConfig, EndpointError, EndpointUnavailable
from rlhf_jax.runs.errors import RunError

WRONG_LOGPROB = json.dumps(completion("A", [("A", {"A": 0.5})]))
# What a server may do instead of answering; asked again, it answers.
PASSES = {
    "429": status(429),
    "500": status(500),
    "502": status(502),
    "503": raw("<html>busy</html>", 503),
    "timeout": silent(6),
    "dripping": dripping(6),
    "half": half,
    "half of unknown length": half_of_unknown_length,
    "half in chunks": half_in_chunks,
    "reset": reset,
    "empty": raw(""),
    "wrong JSON": raw('{"choices": [{"message": {"content": "A"}}'),
    "HTML": raw("<html>A</html>"),
    "an error with status 200": raw('{"error": {"message": "overloaded"}}'),
    "no choices": raw('{"choices": []}'),
    "a list": raw("[]"),
    "no message": raw('{"choices": [{"text": "A"}]}'),
    "content is a number": raw('{"choices": [{"message": {"content": 1}}]}'),
    "NaN": raw(WRONG_LOGPROB.replace("0.5", "NaN")),
    "a log-probability above 0": raw(WRONG_LOGPROB),
    "log-probabilities of another form": raw(json.dumps(completion("A", [])).replace("[]", "3")),
    "deeper than any": raw("[" * 100_000),
    "gzip that is none": raw("A", 200, [("content-encoding", "gzip")]),
}
# What a server may answer that is no answer to the question; asked again, it would say the same.
UNREADABLE = {
    "C": "C",
    "both": "A or B",
    "an echo": "A: Hello. B: No.",
    "nothing": "",
    "prose": "A response should be kind.",
    "thoughts without an end": "<think>A",
    "a number": "1",
}


def question(text):
    return (Message("user", text),)


def patience(name):
    """Seconds until an answer is given up: few where that is planted, many where a busy machine may need them."""
    return 1.5 if name in ("timeout", "dripping") else 30.0


@pytest.mark.parametrize("name", PASSES)
def test_what_passes_is_asked_again(name, tmp_path):
    with serving(lambda text, count: PASSES[name] if count == 1 else answer("B")) as server:
        asked = endpoint(server, tmp_path, timeout=patience(name), top_logprobs=5)
        assert asked.choose([question("Which?")], "AB").tolist() == [[0.0, 1.0]]
    assert len(server.asked) == 2
    assert (asked.counts.tries, asked.counts.failed, asked.counts.unreadable) == (2, 0, 0)


@pytest.mark.parametrize("name", PASSES)
def test_what_stays_wrong_is_an_abstention(name, tmp_path):
    def plan(text, count):
        return PASSES[name] if "bad" in text else answer("B")

    with serving(plan) as server:
        asked = endpoint(server, tmp_path, timeout=patience(name), retries=1)
        said = asked.choose([question("good"), question("bad"), question("fine")], "AB")
        assert said[[0, 2]].tolist() == [[0.0, 1.0], [0.0, 1.0]]
        assert np.isnan(said[1]).all()
        assert (asked.counts.failed, asked.counts.abstained, asked.counts.tries) == (1, 1, 4)
        # A failure is no answer: it is not kept as one, but it is noted, and the next run asks again.
        with contextlib.closing(sqlite3.connect(asked.cache)) as db:
            assert db.execute("SELECT count(*) FROM answers").fetchone() == (2,)
            assert db.execute("SELECT count(*) FROM failures").fetchone() == (2,)
        before = len(server.asked)
        server.plan = lambda text, count: answer("A")
        again = endpoint(server, tmp_path).choose([question("good"), question("bad"), question("fine")], "AB")
        assert again.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
        assert len(server.asked) == before + 1


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_answer_that_says_nothing_is_an_abstention(name, tmp_path):
    with serving(lambda text, count: answer(UNREADABLE[name])) as server:
        for _ in range(2):  # it is kept as it is: at temperature 0 it would be the same again
            asked = endpoint(server, tmp_path)
            assert np.isnan(asked.choose([question("Which?")], "AB")).all()
            assert (asked.counts.unreadable, asked.counts.failed) == (1, 0)
        assert len(server.asked) == 1


def test_a_refusal_without_text_is_an_abstention(tmp_path):
    body = completion(None)
    with serving(lambda text, count: raw(json.dumps(body))) as server:
        asked = endpoint(server, tmp_path)
        assert np.isnan(asked.choose([question("Which?")], "AB")).all()
        assert asked.counts.unreadable == 1


def test_a_question_that_the_server_refuses_is_not_asked_again(tmp_path):
    def plan(text, count):
        return status(400, message="context too long") if "long" in text else answer("A")

    with serving(plan) as server:
        asked = endpoint(server, tmp_path)
        said = asked.choose([question("long"), question("short")], "AB")
        assert np.isnan(said[0]).all()
        assert said[1].tolist() == [1.0, 0.0]
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("code", "hint"), [(401, "--endpoint.key"), (404, "the model are right"), (301, "what the server wants")]
)
def test_what_is_wrong_for_all_ends_the_work(code, hint, tmp_path):
    with serving(lambda text, count: status(code, message="planted words")) as server:
        asked = endpoint(server, tmp_path, concurrency=1)
        with pytest.raises(EndpointError, match=f"status {code}: planted words.*{hint}") as caught:
            asked.choose([question(f"{i}") for i in range(9)], "AB")
        assert not isinstance(caught.value, EndpointUnavailable)
        assert len(server.asked) == 1


def test_the_server_is_left_alone_as_long_as_it_asks(tmp_path):
    def plan(text, count):
        return status(429, ("retry-after", "1")) if text == "first" and count == 1 else answer("A")

    with serving(plan) as server:
        asked = endpoint(server, tmp_path, concurrency=1)
        assert (asked.choose([question("first"), question("second")], "AB")[:, 0] == 1).all()
        assert server.times[1] - server.times[0] > 0.95
        assert [request["messages"][0]["content"] for request in server.asked] == ["first", "first", "second"]


def test_one_that_asks_for_long_is_left_alone(tmp_path):
    with serving(lambda text, count: status(429, ("retry-after", "3600"))) as server:
        asked = endpoint(server, tmp_path)
        with pytest.raises(EndpointUnavailable, match=r"left alone for 3600 s.*answers\.sqlite"):
            asked.choose([question("Which?")], "AB")
        assert len(server.asked) == 1


def test_where_nothing_is_answered_any_more_the_work_ends(tmp_path):
    with serving(lambda text, count: answer("A") if text in "0123" else status(500)) as server:
        asked = endpoint(server, tmp_path, give_up=5, retries=0, concurrency=2)
        questions = [question(str(i)) for i in range(100)]
        with pytest.raises(EndpointUnavailable, match=r"no answer to 5 questions in a row.*status 500: planted"):
            asked.choose(questions, "AB")
        assert len(server.asked) <= 4 + 5 + 2
        server.plan = lambda text, count: answer("B")  # what was answered is there, and the rest is asked
        said = endpoint(server, tmp_path).choose(questions, "AB")
        assert said[:, 0].tolist() == [1.0] * 4 + [0.0] * 96


def test_a_server_that_is_not_there_is_an_error(tmp_path):
    with serving(lambda text, count: answer("A")) as server:
        pass
    asked = endpoint(server, tmp_path, retries=1)
    with pytest.raises(EndpointUnavailable, match="is not there") as caught:
        asked.choose([question("Which?")], "AB")
    wrapped = RunError("reward judge:x: it failed")
    wrapped.__cause__ = caught.value
    assert [errors.explain(error)[1] for error in (caught.value, wrapped, EndpointError("x"))] == [74, 74, 2]


def test_log_probabilities_that_are_refused_are_done_without(tmp_path, capsys):
    def plan(text, count):
        wanted = "logprobs" in server.asked[-1]
        return status(400, message="logprobs are not supported by this model") if wanted else answer("B")

    with serving(plan) as server:
        asked = endpoint(server, tmp_path, concurrency=1)
        assert asked.choose([question(str(i)) for i in range(3)], "AB").tolist() == [[0.0, 1.0]] * 3
        assert asked.choose([question("4")], "AB").tolist() == [[0.0, 1.0]]
        assert sum("logprobs" in request for request in server.asked) == 1
        assert endpoint(server, tmp_path).choose([question("1")], "AB").tolist() == [[0.0, 1.0]]
        assert len(server.asked) == 5
    assert capsys.readouterr().err.count("gives no log-probabilities") == 1


def test_a_rate_is_kept_by_all_together(tmp_path):
    with serving(lambda text, count: answer("A")) as server:
        begun = time.monotonic()
        endpoint(server, tmp_path, rate=20.0, concurrency=8).choose([question(str(i)) for i in range(11)], "AB")
        assert time.monotonic() - begun > 0.48


def test_many_are_asked_at_once_and_no_more(tmp_path):
    together = threading.Barrier(4)

    def plan(text, count):
        together.wait(30)  # none is answered before four have been asked
        return answer("A")

    with serving(plan) as server:
        asked = endpoint(server, tmp_path, concurrency=4, timeout=60.0)
        assert (asked.choose([question(str(i)) for i in range(16)], "AB")[:, 0] == 1).all()
        assert server.most_under_way == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": "sk-very-secret"}, "name of an environment variable"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"timeout": 0.0}, "timeout must be above 0"),
        ({"rate": -1.0}, "rate must be at least 0"),
    ],
)
def test_fields_are_looked_at(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        EndpointConfig(**fields)
    assert "secret" not in str(caught.value)


def test_a_key_that_is_not_set_is_an_error(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(EndpointError, match="NO_SUCH_KEY"):
        Endpoint(Address("http://127.0.0.1:1/v1", "m"), EndpointConfig(key="NO_SUCH_KEY"))
