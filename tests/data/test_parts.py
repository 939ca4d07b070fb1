"""Three parts without a prompt in common, the same ones on any machine, and what is said where that cannot be."""

import pytest

from rlhf_jax.data import DataError, Demonstration
from rlhf_jax.data.parts import Parts, halve, hold_out, prompt_key, separate
from rlhf_jax.data.rows import Comparison, Dialogue, Message, PromptRow


def rows(*prompts):
    return [Demonstration(prompt, f"answer {i}", f"f:{i}") for i, prompt in enumerate(prompts)]


def numbered(count, copies=1):
    return rows(*[f"Question {i}?" for i in range(count) for _ in range(copies)])


def asked(part):
    return {row.prompt for row in part}


def test_a_tenth_of_the_prompts_each_with_all_their_rows():
    train, validation, test = hold_out("f", numbered(50, copies=3))
    assert (len(train), len(validation), len(test)) == (120, 15, 15)
    assert len(asked(validation) | asked(test) | asked(train)) == 50
    assert not asked(validation) & asked(test)
    assert not asked(train) & (asked(validation) | asked(test))
    assert len(asked(validation)) == len(asked(test)) == 5


def test_the_choice_is_the_hash_of_the_prompt():
    """Neither the order of the rows nor their number changes where a prompt that comes first is."""
    train, validation, test = hold_out("f", numbered(50))
    again = hold_out("f", numbered(50)[::-1])
    assert [asked(part) for part in again] == [asked(part) for part in (train, validation, test)]
    assert hold_out("f", numbered(50), count=1)[1] == test  # the first tenth


@pytest.mark.parametrize(("count", "sizes"), [(3, (1, 1, 1)), (9, (7, 1, 1)), (20, (16, 2, 2))])
def test_few_prompts_are_one_in_each_part_at_least(count, sizes):
    assert tuple(map(len, hold_out("f", numbered(count)))) == sizes


def test_two_rows_are_too_few_for_three_parts_and_that_is_said():
    train, validation, test = hold_out("f", numbered(2))
    assert (len(train), validation) == (1, test)
    (note,) = separate(Parts(train, validation, test)).notes
    assert "too few rows for three parts: the 1 held-out rows" in note
    assert "the final figures are not held out from that choice" in note
    with pytest.raises(DataError, match="f: expected at least 2 rows, one of them to be held out, found 1"):
        hold_out("f", numbered(1))


def test_rows_of_one_prompt_are_told_apart_by_their_text():
    train, validation, test = hold_out("f", rows(*["The same."] * 30))
    assert (len(train), len(validation), len(test)) == (24, 3, 3)
    assert len({row.response for part in (train, validation, test) for row in part}) == 30


def test_rows_that_are_all_the_same_are_told_apart_by_their_place():
    same = [PromptRow("p", "f")] * 20
    parts = Parts(*hold_out("f", same))
    assert [len(part) for part in parts[:3]] == [16, 2, 2]
    assert separate(parts).notes == ("all rows have one prompt, so the three parts have it in common",)


def test_a_prompt_that_most_rows_share_is_trained_on():
    often = [*rows(*["The same."] * 90), *numbered(10)]
    train, validation, test = hold_out("f", often)
    assert (len(train), len(validation), len(test)) == (96, 2, 2)
    assert "The same." in asked(train)


def test_near_duplicates_of_a_prompt_stay_together():
    spelt = [
        "What is  2 + 2?",
        "what is 2 + 2",
        "WHAT is 2 + 2 ?!",
        "\uff37hat is 2 + 2.",
    ]  # the last W is a full-width one
    assert len({prompt_key(row) for row in rows(*spelt)}) == 1
    assert prompt_key(rows("What is 2 - 2?")[0]) != prompt_key(rows("What is 2 + 2?")[0])
    for first, second in ((0, 1), (2, 3)):
        for part in hold_out("f", [*numbered(40), *rows(spelt[first], spelt[second])]):
            assert len({spelt[first], spelt[second]} & asked(part)) in (0, 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [("?!", "..."), ("Rate \N{GRINNING FACE}", "Rate \N{UPSIDE-DOWN FACE}"), ("Close: ((", "Close: ("),
     ("\u0915\u093f", "\u0915\u093e"), ("a_b", "a b"), ("x = 1", "x = 2")],
)  # fmt: skip
def test_what_means_something_else_is_another_prompt(one, other):
    assert prompt_key(PromptRow(one, "f:1")) != prompt_key(PromptRow(other, "f:2"))


def test_a_single_question_is_the_same_as_a_text_and_as_a_message():
    assert prompt_key(PromptRow("Why me?", "f")) == prompt_key(PromptRow((Message("user", "why me"),), "f"))
    opened = [Dialogue((Message("assistant", text), Message("user", "?")), "f") for text in ("Hi.", "Hello.")]
    assert prompt_key(opened[0]) != prompt_key(opened[1])


def test_chats_belong_together_by_what_comes_before_the_first_answer():
    def chat(*said):
        return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said))

    one, other = Dialogue(chat("Why?", "So.", "And?", "Well."), "f:1"), Demonstration(chat("Why?"), "Because.", "f:2")
    assert prompt_key(one) == prompt_key(other) != prompt_key(Dialogue(chat("How?", "So."), "f:3"))


def test_text_without_a_prompt_is_told_apart_by_itself():
    first, second = (Demonstration("", text, "f") for text in ("Once upon a time.", "In the end."))
    assert prompt_key(first) != prompt_key(second)
    pair = Comparison("", ("a", "b"), None, "f")
    assert prompt_key(pair) != prompt_key(pair._replace(responses=("a", "c")))


def test_half_of_what_is_held_out_is_for_the_final_figures():
    validation, test = halve(numbered(21, copies=2))
    assert (len(validation), len(test)) == (22, 20)
    assert not asked(validation) & asked(test)
    one = numbered(1)
    assert halve(one) == (one, one)


def test_a_prompt_of_the_test_rows_leaves_the_others():
    """Nothing is lost, nothing doubled, and the note counts what was moved."""
    train, validation, test = rows("a", "b", "c", "d"), rows("b", "e", "x"), rows("c", "x", "y")
    parts = separate(Parts(train, validation, test))
    assert [[row.prompt for row in part] for part in parts[:3]] == [
        ["a", "d"],
        ["b", "e", "b"],
        ["c", "x", "y", "x", "c"],
    ]
    assert len(parts.notes) == 2
    assert parts.notes[0].startswith("1 validation rows were moved to the test rows")
    assert parts.notes[1].startswith("2 train rows were moved to the validation or test rows")


def test_disjoint_parts_are_left_alone():
    parts = Parts(rows("a"), rows("b"), rows("c"))
    assert separate(parts) == parts


def test_where_nothing_would_be_left_to_train_on_rows_stay_and_that_is_said():
    parts = separate(Parts(rows("a", "b"), rows("a"), rows("b", "c")))
    assert [len(part) for part in parts[:3]] == [2, 1, 2]
    assert "every prompt of the 2 train rows is a prompt of the validation or test rows too" in parts.notes[0]
    assert "not figures on prompts that training never saw" in parts.notes[0]


def test_validation_rows_that_are_all_test_rows_too_are_put_together_and_halved():
    parts = separate(Parts(rows("x", "y"), rows("a", "b"), rows("a", "b", "c", "d")))
    assert not asked(parts.validation) & asked(parts.test)
    assert asked(parts.validation) | asked(parts.test) == {"a", "b", "c", "d"}
    assert len(parts.validation) + len(parts.test) == 6
    assert parts.notes[0].startswith("every prompt of the 2 validation rows is a prompt of the test rows too")
