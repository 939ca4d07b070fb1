"""Chat templates: programs of any shape, those of published models mutated, and the tokenizer files beside them."""

import json

import chat_families
import pytest
from fuzzing import TEXTS, VALUES, changed, mutated, read_or_refused, share
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data import DataError, Message, Tokenizer
from rlhf_jax.data.rows import ROLES
from rlhf_jax.data.tokenizer import template_process
from rlhf_jax.data.tokenizer.chat_template import ChatTemplate

# What is written where an expression may stand; most are whole, some are hostile.
ATOMS = """
m.content m.role m['content'] messages messages[0] loop.index0 bos_token eos_token 'a' 0 1 -1 10**9 1e308 none true []
{} '' ns.x range(3) range(10**9) messages|map(attribute='content') raise_exception('no') strftime_now('%Y')
''.__class__ messages.__class__.__mro__ cycler self lipsum namespace undefined f(1) joiner() [messages]*99
add_generation_prompt
"""
OPERATORS = "+ - * / // % ** ~ == != < in not_in and or is if | ."
FILTERS = """
trim upper length list string tojson join(',') replace('a','bb') center(10**9) first int indent(9999) sort sum reverse
default('x') selectattr('role') batch(10**7,0) attr('__class__') format(1,2) unique wordwrap(1) pprint items dictsort
xmlattr urlize map('upper') random round(99)
"""


def words(text):
    return st.sampled_from(text.split()).map(lambda word: word.replace("not_in", "not in"))


EXPRESSIONS = st.recursive(
    words(ATOMS),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, words(OPERATORS), inner),
        st.builds("({} | {})".format, inner, words(FILTERS)),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("({}).ljust({})".format, inner, inner),
    ),
    max_leaves=6,
)
BLOCKS = st.recursive(
    st.one_of(st.builds("{{{{ {} }}}}".format, EXPRESSIONS), st.sampled_from(["</s>", "text", "\n", "{% break %}"])),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("{{% for m in {} %}}{}{{% endfor %}}".format, st.one_of(st.just("messages"), EXPRESSIONS), inner),
        st.builds("{{% for m in messages recursive %}}{}{{{{ loop(messages) }}}}{{% endfor %}}".format, inner),
        st.builds("{{% if {} %}}{}{{% else %}}{}{{% endif %}}".format, EXPRESSIONS, inner, inner),
        st.builds("{{% set ns = namespace(x={}) %}}{}{{% set ns.x = {} %}}".format, EXPRESSIONS, inner, EXPRESSIONS),
        st.builds("{{% macro f(n) %}}{}{{{{ f(n) }}}}{{% endmacro %}}{{{{ f(1) }}}}".format, inner),
        st.builds("{{% set x %}}{}{{% endset %}}{{{{ x * 10 ** 6 }}}}".format, inner),
        st.builds("{{% generation %}}{}{{% endgeneration %}}".format, inner),
        st.builds("{{% filter {} %}}{}{{% endfilter %}}".format, words(FILTERS), inner),
    ),
    max_leaves=5,
)
SAID = st.one_of(st.text(max_size=9), st.just("a</s>b"))
CHATS = st.lists(st.builds(Message, st.sampled_from(ROLES), SAID), min_size=1, max_size=4)
PLAIN = b"{% for m in messages %}{{ m.content }}</s>{% endfor %}"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(template_process, "SECONDS", 0.2)


def render(source, chat, tokens=TOKENS):
    template = ChatTemplate(source, tokens, tuple(tokens.values()))
    for write in (template.dialogue, template.prompt):
        with read_or_refused(DataError):
            text, turns, _ = write(chat)
            assert all(0 <= start <= end <= len(text) for start, end in turns)
            text.encode()


@share(40)
@given(BLOCKS, CHATS)
def test_any_program(source, chat):
    render(source, chat)


@share(20)
@given(st.one_of(st.text(), mutated(PLAIN).map(lambda text: text.decode("latin-1"))), CHATS)
def test_any_text(source, chat):
    render(source, chat)


@share(20)
@given(st.sampled_from(sorted(chat_families.FAMILIES)), CHATS, st.data())
def test_a_published_template_mutated(name, chat, data):
    family = chat_families.FAMILIES[name]
    source = data.draw(mutated(family.template.encode())).decode("utf-8", errors="replace")
    render(
        source, chat, {f"{n}_token": token for n, token in zip(("bos", "eos", "pad"), family.specials, strict=False)}
    )


@share(20)
@given(st.sampled_from(["chatml", "llama3"]), st.sampled_from(["tokenizer.json", "tokenizer_config.json"]), st.data())
def test_a_tokenizers_files_changed(tmp_path, name, file, data):
    """What is read can also be used, or says why it cannot."""
    chat_families.write_folder(tmp_path, chat_families.FAMILIES[name])
    path = tmp_path / file
    other = st.one_of(VALUES, TEXTS, st.just([{"name": "default", "template": "{{ 1 }}"}]), st.just([{"name": 3}, 3]))
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(mutated(path.read_bytes())))
    else:
        path.write_text(json.dumps(data.draw(changed(json.loads(path.read_text()), other))))
    with read_or_refused(DataError):
        tokenizer = Tokenizer.load(tmp_path)
        ids = tokenizer.encode_prompt("What is two and two?")
        tokenizer.decode([*ids, *tokenizer.encode_response("It is four.")])
