"""A template that takes too much is ended, and the next one is rendered as if nothing had been."""

import json
import os
import subprocess
import sys

import pytest

from rlhf_jax.data import DataError, Message
from rlhf_jax.data.tokenizer import template_process, template_worker
from rlhf_jax.data.tokenizer.chat_template import ChatTemplate
from rlhf_jax.data.tokenizer.template_process import TemplateFailed, TemplateProcess

GOOD = "{% for m in messages %}{{ m.content }}{% endfor %}"
CHAT = [Message("user", "Hi.")]
DOUBLED = "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
NESTED = "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(template_process, "SECONDS", 0.3)


@pytest.fixture
def process():
    made = TemplateProcess()
    yield made
    made.close()


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ 'a' * 10**12 }}",
        "{{ 'a'.ljust(10**12) }}",
        "{{ '%99999999999d' % 1 }}",
        "{{ (10 ** (10 ** 10)) % 7 }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(90) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}",
        "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
        DOUBLED,
        NESTED,
        "{{ messages | map('tojson', indent=10**12) | list }}",
    ],
    ids=range(13),
)
def test_a_template_that_counts_without_end_is_refused(source, impatient):
    with pytest.raises(DataError, match="chat template: it does not render a chat of user"):
        ChatTemplate(source).render(CHAT)
    assert ChatTemplate(GOOD).render(CHAT) == "Hi."


def test_what_was_stopped_is_said(impatient, process):
    with pytest.raises(
        TemplateFailed, match=r"it takes more than 0.3 s or too much memory, and was stopped, signal \d+"
    ):
        process.render(
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "1970-01-01", {}
        )


def test_a_process_that_somebody_ended_is_started_again(process):
    assert process.render("{{ x }}", "1970-01-01", {"x": 1}) == "1"
    process._process.kill()
    process._process.wait()
    assert process.render("{{ x }}", "1970-01-01", {"x": 2}) == "2"


def test_a_fork_has_a_process_of_its_own(process):
    """Answers that two processes read from one pipe would be mixed up."""
    process.render("{{ x }}", "1970-01-01", {"x": 1})
    first = process._process.pid
    process._parent = os.getpid() + 1  # as in a fork
    before = process._process
    assert process.render("{{ x }}", "1970-01-01", {"x": 2}) == "2"
    assert process._process.pid != first
    before.kill()
    before.communicate()


def test_text_of_any_kind_goes_both_ways(process):
    said = "Grüße\u2028\n\t\0 😀 \ufdd0"
    assert process.render("{{ x }}", "1970-01-01", {"x": said}) == said
    with pytest.raises(TemplateFailed, match="surrogates not allowed"):
        process.render("{{ x }}", "1970-01-01", {"x": "\ud800"})


def test_a_template_writes_no_more_than_a_chat_is_long():
    said = template_worker.answer({"source": "{{ 'a' * n }}", "date": "1970-01-01", "variables": {"n": 2**24 + 1}})
    assert said == {"error": "it writes 16,777,217 characters, of at most 16,777,216"}


def test_the_process_answers_a_line_for_a_line_and_ends_with_its_input():
    request = {"source": "{{ x }}\n!", "date": "1970-01-01", "variables": {"x": "ä"}, "seconds": 9}
    done = subprocess.run(
        [sys.executable, "-P", template_worker.__file__],
        input="".join(json.dumps(r) + "\n" for r in (request, {**request, "source": "{{"})),
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == {"text": "ä\n!"}
    assert list(second) == ["error"]
