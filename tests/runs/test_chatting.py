"""Talking to a policy: what streams is what is sampled, and what was said is remembered as long as it fits."""

import dataclasses
import io

import pytest
from gguf_files import byte_letters

from rlhf_jax import cli
from rlhf_jax.data.rows import Message
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.chat import Conversation
from rlhf_jax.stages import Policy, RunError

SAMPLING = SamplingConfig(max_new_tokens=9, window=2)
BYTES = byte_letters()


@pytest.fixture(scope="module")
def policy(sft_run):
    return Policy(sft_run.model_config, sft_run.params["policy"], sft_run.tokenizer, "sft")


def test_the_pieces_are_the_answer_and_the_same_seed_gives_the_same_one(policy):
    answers = []
    for seed in (0, 0, 1):
        conversation = Conversation(policy, SAMPLING, seed=seed)
        pieces = list(conversation.ask("The cat and"))
        assert len(pieces) > 1
        assert conversation.turns == (Message("user", "The cat and"), Message("assistant", "".join(pieces)))
        answers.append("".join(pieces))
    assert answers[0] == answers[1] != answers[2]


def test_the_engine_streams_what_it_samples(policy):
    import jax
    import numpy as np

    from rlhf_jax import models, rollout

    engine = rollout.Engine(models.build(policy.config), SAMPLING, pad_id=0, eos_id=2)
    prompt = policy.tokenizer.encode_prompt("The dog or")
    streamed = list(engine.stream(policy.params, prompt, key=jax.random.key(5), bucket=8))
    sampled = engine(policy.params, [prompt], key=jax.random.key(5), bucket=8)
    assert streamed == np.asarray(sampled.tokens)[0, 0][np.asarray(sampled.mask)[0, 0]].tolist()


def test_earlier_turns_and_the_system_are_in_the_prompt(policy, monkeypatch):
    asked = []
    conversation = Conversation(policy, SAMPLING, system="Be brief.")
    monkeypatch.setattr(
        conversation._engine, "stream", lambda params, prompt, **_: asked.append(prompt) or iter([5, 2])
    )
    first = "".join(conversation.ask("One?"))
    list(conversation.ask("Two?"))
    text = policy.tokenizer.decode(asked[1])
    assert [text.count(x) for x in ("Be brief.", "One?", "Two?")] == [1, 1, 1]
    assert first in text
    conversation.reset()
    list(conversation.ask("Three?"))
    assert "One?" not in policy.tokenizer.decode(asked[2])


def test_the_oldest_turns_go_when_the_context_is_full(policy, monkeypatch):
    narrow = dataclasses.replace(policy, config=dataclasses.replace(policy.config, max_length=90))
    conversation = Conversation(narrow, SAMPLING)
    asked = []
    monkeypatch.setattr(
        conversation._engine, "stream", lambda params, prompt, **_: asked.append(prompt) or iter([5, 2])
    )
    for i in range(6):
        list(conversation.ask(f"Question number {i}?"))
    assert max(map(len, asked)) <= 90 - SAMPLING.max_new_tokens
    assert "number 0?" not in policy.tokenizer.decode(asked[-1])
    assert "number 5?" in policy.tokenizer.decode(asked[-1])
    with pytest.raises(RunError, match="shorten it, or lower --max-new-tokens"):
        list(conversation.ask("far " * 200))


def test_a_character_of_several_tokens_comes_whole_and_the_start_of_one_not_at_all(policy, monkeypatch):
    conversation = Conversation(policy, SAMPLING)
    ids = [int(i) for byte in "né 😀!".encode() for i in [policy.tokenizer._backend.token_to_id(BYTES[byte])]]
    half = policy.tokenizer._backend.token_to_id(BYTES["é".encode()[0]])
    monkeypatch.setattr(conversation._engine, "stream", lambda *_, **__: iter([*ids, half]))
    assert list(conversation.ask("One?")) == ["n", "é", " ", "😀", "!"]
    assert conversation.turns[-1] == Message("assistant", "né 😀!")


def test_an_answer_that_is_cut_short_is_remembered_as_far_as_it_went(policy):
    conversation = Conversation(policy, SAMPLING)
    answer = conversation.ask("The cat and")
    said = next(answer) + next(answer)
    answer.close()
    assert conversation.turns == (Message("user", "The cat and"), Message("assistant", said))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_person_stops_an_answer_and_goes_on_after_a_mistake(policy, sft_run, monkeypatch, capsys):
    """Ctrl-C in the first answer, a question that is too long, a third one; and Ctrl-C at the prompt ends it."""
    narrow = dataclasses.replace(policy, config=dataclasses.replace(policy.config, max_length=90))
    monkeypatch.setattr(Policy, "load", lambda *_: narrow)
    asked = []

    def stream(self, params, prompt, **_):
        asked.append(prompt)
        yield 50
        if len(asked) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_jax.rollout.Engine.stream", stream)
    lines = iter(["One?", "far " * 200, "Three?"])

    def ask(_):
        for line in lines:
            return line
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", ask)
    assert cli.run(["chat", str(sft_run.directory), "--max-new-tokens", "4"]) == 0
    said = capsys.readouterr()
    assert "shorten it" in said.err
    assert len(asked) == 2
    assert "One?" in policy.tokenizer.decode(asked[1])
    assert said.out.count(policy.tokenizer.decode_response([50])) >= 2


def test_the_command_answers_every_line_until_the_end(sft_run, monkeypatch, capsys):
    answers = []
    ask = Conversation.ask

    def noted(self, text):
        pieces = list(ask(self, text))
        answers.append((text, "".join(pieces)))
        return iter(pieces)

    monkeypatch.setattr(Conversation, "ask", noted)
    monkeypatch.setattr("sys.stdin", io.StringIO("The cat and\n\n/reset\nThe dog or\n/exit\nnever\n"))
    assert cli.run(["chat", str(sft_run.directory), "--stage", "sft", "--max-new-tokens", "4"]) == 0
    assert [text for text, _ in answers] == ["The cat and", "The dog or"]
    assert capsys.readouterr().out == "".join(f"{answer}\n" for _, answer in answers)
