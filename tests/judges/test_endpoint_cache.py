"""What is kept: every answer, whatever happens; no question is paid for twice; no key is written anywhere."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from planted_server import answer, endpoint, serving, status

from rlhf_jax.data.rows import Message
from rlhf_jax.judges.endpoint import EndpointError, read_address
from rlhf_jax.judges.endpoint.cache import key_of, opened

QUESTIONS = [(Message("user", f"{i}: which?"),) for i in range(12)]


def rows(path, what):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute(what).fetchall()


def test_a_question_is_asked_once_ever(tmp_path):
    with serving(lambda text, count: answer("A", usage=(100, 2))) as server:
        asked = endpoint(server, tmp_path, price_in=2.0, price_out=10.0)
        assert asked.choose([*QUESTIONS, *QUESTIONS], "AB").shape == (24, 2)
        assert len(server.asked) == 12
        assert asked.cost == pytest.approx(12 * (2.0 * 100 + 10.0 * 2) / 1e6)
        assert (asked.counts.tokens_in, asked.counts.tokens_out) == (1200, 24)
        again = endpoint(server, tmp_path, price_in=2.0, price_out=10.0)
        assert again.choose(QUESTIONS, "AB")[:, 0].tolist() == [1.0] * 12
        assert (again.cost, again.counts.cached, again.counts.questions, len(server.asked)) == (0.0, 12, 12, 12)
        # Whatever the answer depends on is part of its name.
        for fields in ({"temperature": 0.5}, {"temperature": None}, {"answer_tokens": 3}, {"top_logprobs": 0}):
            endpoint(server, tmp_path, **fields).choose(QUESTIONS[:1], "AB")
        assert len(server.asked) == 16


def test_the_file_is_the_record(tmp_path):
    with serving(lambda text, count: answer("B") if count > 1 else status(500)) as server:
        asked = endpoint(server, tmp_path, concurrency=1, price_in=1.0)
        asked.choose(QUESTIONS[:1], "AB")
    columns = "url, model, request, answer, tokens_in, tokens_out, cost, tries, seconds, time"
    [(url, model, request, body, tokens_in, tokens_out, cost, tries, seconds, time)] = rows(
        asked.cache, f"SELECT {columns} FROM answers"
    )
    assert (url, model, tokens_in, tokens_out, cost, tries) == (server.base, "judge-1", 10, 1, 1e-5, 2)
    assert json.loads(request) == server.asked[1]
    assert json.loads(request)["messages"] == [{"role": "user", "content": "0: which?"}]
    assert json.loads(body)["choices"][0]["message"]["content"] == "B"
    assert 0 < seconds < 5
    assert time.startswith("20")
    assert rows(asked.cache, "SELECT what, status FROM failures") == [("status 500: planted", 500)]


def test_the_key_is_sent_and_written_nowhere(tmp_path, monkeypatch, capsys):
    key = "sk-planted-0123456789"
    monkeypatch.setenv("PLANTED_KEY", key)

    def plan(text, count):
        return answer(f"A: {key}") if count > 1 else status(500, message=f"wrong key {key}")

    with serving(plan) as server:
        asked = endpoint(server, tmp_path, key="PLANTED_KEY")
        assert asked.choose(QUESTIONS[:2], "AB")[:, 0].tolist() == [1.0, 1.0]
        assert {headers["authorization"] for headers in server.headers} == {f"Bearer {key}"}
        server.plan = lambda text, count: status(401, message=f"wrong key {key}")
        with pytest.raises(EndpointError) as caught:
            asked.choose(QUESTIONS[2:3], "AB")
    assert key not in str(caught.value)
    assert key not in "".join(capsys.readouterr())
    for file in tmp_path.iterdir():
        assert key.encode() not in file.read_bytes(), file
    assert key not in repr(asked.config)


def test_no_key_is_sent_where_none_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    with serving(lambda text, count: answer("A")) as server:
        endpoint(server, tmp_path).choose(QUESTIONS[:1], "AB")
        assert "authorization" not in {name.lower() for name in server.headers[0]}


def test_a_redirection_takes_no_key_along(tmp_path, monkeypatch):
    monkeypatch.setenv("PLANTED_KEY", "sk-planted")
    with serving(lambda text, count: answer("A")) as other:
        moved = ("location", f"{other.base}/chat/completions")
        with (
            serving(lambda text, count: status(307, moved)) as server,
            pytest.raises(EndpointError, match="status 307"),
        ):
            endpoint(server, tmp_path, key="PLANTED_KEY").choose(QUESTIONS[:1], "AB")
        assert not other.asked


ASKING = """
import sys
from rlhf_jax.data.rows import Message
from rlhf_jax.judges.endpoint import Endpoint, EndpointConfig, Address
asked = Endpoint(Address(sys.argv[1], "judge-1"), EndpointConfig(cache=sys.argv[2], concurrency=2))
print(asked.choose([(Message("user", f"{i}: which?"),) for i in range(12)], "AB")[:, 0].sum())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_anywhere_it_goes_on(how, tmp_path):
    """The server kills who asks as it gets the sixth question: those that were answered before are kept."""
    cache = tmp_path / "answers.sqlite"
    process = None

    def plan(text, count):
        if len(server.asked) == 6:
            os.kill(process.pid, how)
        return answer("A")

    with serving(plan) as server:
        process = subprocess.Popen([sys.executable, "-c", ASKING, server.base, str(cache)], stderr=subprocess.DEVNULL)
        assert process.wait(240) == -how
        kept = rows(cache, "SELECT count(*) FROM answers")[0][0]
        assert (4 if how == signal.SIGKILL else 6) <= kept <= 8
        assert rows(cache, "PRAGMA integrity_check") == [("ok",)]
        before = len(server.asked)
        assert endpoint(server, tmp_path).choose(QUESTIONS, "AB")[:, 0].sum() == 12
        assert len(server.asked) == before + 12 - kept


def test_two_may_share_a_file(tmp_path):
    with opened(tmp_path / "a.sqlite") as one, opened(tmp_path / "a.sqlite") as other:
        from rlhf_jax.judges.endpoint.cache import Answer

        for cache, body in ((one, "first"), (other, "second")):
            cache.keep("k", "http://a/v1", "m", Answer({}, body, None, None, 0.0, 0.1, 1))
        assert one.find(["k"]) == other.find(["k"]) == {"k": "first"}


def test_what_is_no_unicode_is_asked_and_kept(tmp_path):
    with serving(lambda text, count: answer("A\n\ud800")) as server:
        for _ in range(2):
            said = endpoint(server, tmp_path).choose([(Message("user", "\ud800 which?"),)], "AB")
            assert said.tolist() == [[1.0, 0.0]]
        assert [request["messages"][0]["content"] for request in server.asked] == ["\ud800 which?"]


@pytest.mark.parametrize("content", [b"no database at all, but long enough to look at", None])
def test_another_file_is_left_as_it_is(content, tmp_path):
    path = tmp_path / "answers.sqlite"
    if content is None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE mine (a)")
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(EndpointError, match=r"answers\.sqlite"), opened(path):
        raise AssertionError("it was opened")
    assert path.read_bytes() == before


def test_keys_are_of_the_content_alone():
    one = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
    assert key_of("http://a/v1", one) == key_of("http://a/v1", dict(reversed(one.items())))
    assert key_of("http://a/v1", one) != key_of("http://b/v1", one)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http://127.0.0.1:8000/v1", "names no model"),
        ("http://127.0.0.1:8000/v1#", "names no model"),
        ("http://#m", "expected http://HOST"),
        ("http://a:port/v1#m", "expected http://HOST"),
        ("http://a/v1?key=1#m", "expected http://HOST"),
        ("ftp://a/v1#m", "expected http://HOST"),
        ("http://a/v1/chat/completions#m", "leave out"),
        ("http://me:planted@a/v1#m", "environment variable"),
    ],
)
def test_addresses_are_looked_at(name, message):
    with pytest.raises(EndpointError, match=message) as caught:
        read_address(name)
    assert "planted" not in str(caught.value)
