"""Asking for critiques and revisions, and what a revision did: by hand, with functions in place of a model."""

from __future__ import annotations

import pytest

from rlhf_jax.data.rows import Message
from rlhf_jax.feedback.principles import Principle, parse_principles
from rlhf_jax.stages.constitution.asking import for_critique, for_revision
from rlhf_jax.stages.constitution.chain import Case, Said, revised
from rlhf_jax.stages.constitution.echoes import alike, unwrapped, what_it_did

KIND = parse_principles("kind: The response is kind.\n  critique: What is unkind?\n  revision: Say it kindly.")


def test_a_chain_is_asked_for_turn_by_turn():
    (kind,) = KIND.all
    asked = for_revision((Message("system", "Be brief."), Message("user", "Hi.")), "Go!", kind, "It is rude.")
    assert [(turn.role, turn.content) for turn in asked] == [
        ("system", "Be brief."),
        ("user", "Hi."),
        ("assistant", "Go!"),
        ("user", "What is unkind?"),
        ("assistant", "It is rude."),
        ("user", "Say it kindly."),
    ]
    assert for_revision("Hi.", "Go!", kind, "")[-2:] == (Message("assistant", "Go!"), Message("user", "Say it kindly."))
    plain = Principle("brief", "The response is brief.")
    assert "The response is brief." in for_critique("Hi.", "Go!", plain)[-1].content


@pytest.mark.parametrize(
    ("revision", "finished", "did"),
    [
        ("", True, "empty"),
        ("...!", True, "empty"),
        ("Please come in, my friend", False, "unfinished"),
        ("go away, you are a bad person!", True, "echo"),
        ("Go away you are a bad person now.", True, "echo"),  # 7 of 7 and 8 words: 14/15
        ("Write it again so that it is kind and friendly.", True, "request"),
        ("It is rude to call somebody a bad person.", True, "critique"),
        ("Please come in.", True, "revised"),
        ("Stay here, you are a good person!", True, "revised"),
        ("Yes.", True, "revised"),
    ],
)
def test_what_a_revision_did(revision, finished, did):
    said = what_it_did(
        revision,
        "Go away, you are a bad person.",
        asked="The response is kind. Write it again so that it is kind and friendly.",
        critique="It is rude to call somebody a bad person.",
        finished=finished,
    )
    assert said == did


def test_words_that_two_texts_share():
    assert alike("The cat sat", "the CAT sat!") == 1
    assert alike("a b c d", "a x c d") == 0.75
    assert alike("a", "b") == 0


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        (' "Go on." \n', "Go on."),
        ("\u201cGo.\u201d", "Go."),
        ('"a" or "b"', '"a" or "b"'),
        ('"', '"'),
        ("it's", "it's"),
    ],
)
def test_quotation_marks_around_a_whole_text(text, bare):
    assert unwrapped(text) == bare


def test_a_revision_that_is_none_leaves_the_response_and_is_asked_for_again():
    asked = []
    answers = [["It is rude."], ["Go away!"], ["Still."], ['"Please come in."'], ["Fine."], ["Please come in"]]

    def say(chats):
        asked.append(chats)
        return [Said(text, True) for text in answers[len(asked) - 1]]

    (row,) = revised([Case("Hi.", 0, "Go away!")], KIND, say, rounds=3, critique=True, seed=0)
    assert row["first"] == "Go away!"
    assert row["response"] == "Please come in."
    assert [step["did"] for step in row["chain"]] == ["echo", "revised", "echo"]
    assert [step["critique"] for step in row["chain"]] == ["It is rude.", "Still.", "Fine."]
    # The response under discussion in each round: the first one again, then the revision.
    assert [chats[0][1].content for chats in asked] == ["Go away!"] * 4 + ["Please come in."] * 2


def test_principles_are_drawn_for_prompt_sample_and_round():
    principles = parse_principles("\n\n".join(f"p{i}: It is {i}." for i in range(3)))
    cases = [Case(f"Say {i}.", sample, "No.") for i in range(40) for sample in range(2)]
    rows = revised(cases, principles, lambda chats: [Said("Yes.", True)] * len(chats), rounds=2, critique=False, seed=1)
    drawn = [tuple(step["principle"] for step in row["chain"]) for row in rows]
    assert len(set(drawn)) == 9
    assert any(one != other for one, other in zip(drawn[::2], drawn[1::2], strict=True))
    backwards = revised(
        cases[::-1], principles, lambda chats: [Said("Yes.", True)] * len(chats), rounds=2, critique=False, seed=1
    )
    assert [tuple(step["principle"] for step in row["chain"]) for row in backwards[::-1]] == drawn
