"""From what models write to shares: worked by hand, and what says nothing of the kind is NaN."""

import json
import math

import numpy as np
import pytest
from planted_server import completion

from rlhf_jax.judges.endpoint.reading import read_choice, read_order
from rlhf_jax.judges.endpoint.replies import Reply, read_reply

NUMBERS = [str(n) for n in range(1, 11)]
A = ["A", "(A)", "**A**", "A.", " A\n", "'A'", "[[A]]", "Answer: A", "The answer is A.", "The better response is A."]
A += ["A. Response B is rude.", "A (A is kinder)"]
A += [
    "Response A is better.",
    "A: it is kinder.",
    "A\nIt is kinder than B.",
    "<think>B? no</think>\n\nA",
    "A is better than B",
]
NEITHER = [
    "",
    "C",
    "a",
    "A or B",
    "A, B",
    "A/B",
    "AB",
    "A and B",
    "Both A",
    "A response",
    "I think A",
    "<think>A",
    "1",
    "A > B",
]
NEITHER += ["A: Hello. B: No.", "Neither A nor B", "Response", "A?B"]
NEITHER += [
    "A\nB",
    "A. B.",
    "A - B",
    "A (or B)",
    "A: B",
    "A\n\nActually, B is better.",
    "A.\nFinal answer: B",
    "A (tie)",
]
NEITHER += [
    "A. Neither is good.",
    "A is better than B in length, but B is kinder",
    "A - no, both",
    "A\nAnswer with A or B",
]
SCORES = {
    "1 (not at all)": 1,
    "7 (out of 10)": 7,
    "7\nIt holds 3 reasons.": 7,
    "7. It is kind.": 7,
    "7": 7,
    "10": 10,
    "7/10": 7,
    "8 out of 10": 8,
    "Score: 8": 8,
    "Rating: 9/10": 9,
    "7.": 7,
    "**3**": 3,
}
NO_SCORES = ["11", "0", "-3", "7.5", "80%", "7th", "7 or 8", "7-8", "8 out of 100", "9/5", "I give 7"]
NO_SCORES += [
    "7 - 8",
    "7 (or 8)",
    "7. 5",
    "7\n8",
    "7 (out of 20)",
    "1 (not at all) to 10 (entirely)",
    "1. It is clear",
    "5 \u2013 9",
]
ORDERS = ["B > A > C", "B>A>C", "B, A, C", "B A C", "Ranking: B > A > C.", "B > A > C\nB is kind."]
NO_ORDERS = [
    "A > B > C; B > A > C",
    "A B C\nAnswer: C > B > A",
    "A > B > C (or C > B > A)",
    "B > A",
    "B > A > A",
    "A > B > C > D",
    "B = A > C",
    "BAC",
    "",
    "the order is unclear",
]
USAGES = [{}, {"prompt_tokens": -1}, {"prompt_tokens": "9"}, {"prompt_tokens": True}, [], None]


@pytest.mark.parametrize("text", A)
def test_what_says_a(text):
    assert read_choice(Reply(text), "AB").tolist() == [1.0, 0.0]
    turned = text.translate(str.maketrans("AB", "BA"))  # "The Answer" has an A of its own
    if "Answer" not in text:
        assert read_choice(Reply(turned), "AB").tolist() == [0.0, 1.0]


@pytest.mark.parametrize("text", NEITHER)
def test_what_says_neither(text):
    assert np.isnan(read_choice(Reply(text), "AB")).all()


@pytest.mark.parametrize("text", [*SCORES, *NO_SCORES])
def test_scores(text):
    shares = read_choice(Reply(text), NUMBERS)
    if text in SCORES:
        assert shares.tolist() == [float(n == SCORES[text]) for n in range(1, 11)]
    else:
        assert np.isnan(shares).all()


@pytest.mark.parametrize("text", ORDERS)
def test_orders(text):
    assert read_order(Reply(text), 3).tolist() == [[0, 0, 1], [1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("text", NO_ORDERS)
def test_what_is_no_order(text):
    assert np.isnan(read_order(Reply(text), 3)).all()


def reply(text, places):
    return read_reply(json.dumps(completion(text, places)))


def test_shares_are_those_of_the_token_that_says_it():
    """Half and half at the first token is of the lead-in; at the last A has 0.6 in two spellings, B 0.2."""
    log = math.log
    places = [
        ("Answer", {"Answer": log(0.5), "B": log(0.5)}),
        (":", {":": -0.1}),
        (" A", {" A": log(0.4), "A": log(0.2), " B": log(0.2), " C": log(0.1)}),
    ]
    assert read_choice(reply("Answer: A", places), "AB") == pytest.approx([0.75, 0.25])


def test_scores_have_all_their_shares():
    places = [("7", {"7": math.log(0.5), "9": math.log(0.25), "x": math.log(0.2)})]
    shares = read_choice(reply("7", places), NUMBERS)
    assert shares @ np.arange(1, 11) == pytest.approx((7 * 0.5 + 9 * 0.25) / 0.75)


def test_a_ten_of_two_digits_is_no_one():
    """Where a tokenizer splits numbers, the first token's probability is that of 1 and 10 together."""
    places = [("1", {"1": -0.01, "7": -5.0}), ("0", {"0": -0.01})]
    assert read_choice(reply("10", places), NUMBERS)[9] == 1.0


def test_tokens_that_are_not_the_text_leave_a_whole_vote():
    assert read_choice(reply("A", [("<s>", {"<s>": -0.1})]), "AB").tolist() == [1.0, 0.0]


def test_what_a_server_writes_for_minus_infinity():
    body = json.dumps(completion("A", [("A", {"A": -0.5, "B": -9999.0})]))
    assert read_choice(read_reply(body), "AB").tolist() == [1.0, 0.0]
    assert read_choice(read_reply(body.replace("-9999.0", "null")), "AB").tolist() == [1.0, 0.0]


def test_tokens_of_thoughts_say_nothing_of_the_answer():
    thought = [("A", {"A": math.log(0.5), "B": math.log(0.5)}), (" good one", {" good one": -0.1})]
    assert read_choice(reply("A", thought), "AB").tolist() == [1.0, 0.0]


def test_spaces_that_a_server_takes_off_move_no_token():
    places = [("\n\n", {"\n\n": -0.1}), ("A", {"A": math.log(0.6), "B": math.log(0.2)})]
    assert read_choice(reply("A", places), "AB") == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize(("ended", "said"), [("stop", 1.0), ("length", math.nan), ("content_filter", math.nan)])
def test_an_answer_that_the_server_ended_is_none(ended, said):
    """A of "A or B", and 1 of 10, when no more tokens were allowed."""
    body = json.dumps(completion("1")).replace('"stop"', f'"{ended}"')
    assert read_choice(read_reply(body), NUMBERS)[0] == pytest.approx(said, nan_ok=True)
    body = json.dumps(completion("A")).replace('"stop"', f'"{ended}"')
    assert read_choice(read_reply(body), "AB")[0] == pytest.approx(said, nan_ok=True)


def test_the_first_token_alone_is_an_answer_where_its_probability_is_known():
    places = [("A", {"A": math.log(0.6), "B": math.log(0.2)})]
    body = json.dumps(completion("A", places)).replace('"stop"', '"length"')
    assert read_choice(read_reply(body), "AB") == pytest.approx([0.75, 0.25])
    body = json.dumps(completion("1", [("1", {"1": -0.1})])).replace('"stop"', '"length"')
    assert np.isnan(read_choice(read_reply(body), NUMBERS)).all()  # the 1 of a 10, it may be


def test_an_answer_that_broke_off_or_was_refused():
    with pytest.raises(ValueError, match="finish_reason is abort"):
        read_reply(json.dumps(completion("A")).replace('"stop"', '"abort"'))
    refused = completion("A")
    refused["choices"][0]["message"]["refusal"] = "I cannot compare these."
    assert read_reply(json.dumps(refused)).text == ""


def test_tokens_of_one_text_count_together():
    body = json.dumps(completion("A", [("A", {"A": math.log(0.3), "B": math.log(0.3), "b": math.log(0.3)})]))
    twice = read_reply(body.replace('"b"', '"B"'))
    assert read_choice(twice, "AB") == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize(
    "usage", [{}, {"prompt_tokens": -1}, {"prompt_tokens": "9"}, {"prompt_tokens": True}, [], None]
)
def test_tokens_that_are_not_known_take_no_answer_away(usage):
    body = {**completion("A"), "usage": usage}
    assert read_reply(json.dumps(body))[2:4] == (None, None)


@pytest.mark.parametrize(
    "text", ["positive", " Positive.", " positive\nText: I hate it.\nSentiment: negative", "**positive**"]
)
def test_answers_may_be_words(text):
    assert read_choice(Reply(text), ["negative", "positive"]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "text",
    [
        "positively",
        "pos",
        "positive or negative",
        "not positive",
        "neutral",
        "positive\nnegative",
        "positive (or negative)",
    ],
)
def test_what_is_no_such_word(text):
    assert np.isnan(read_choice(Reply(text), ["negative", "positive"])).all()


def test_a_word_of_several_tokens_goes_by_its_first():
    places = [
        (" pos", {" pos": math.log(0.6), " neg": math.log(0.2), " the": math.log(0.2)}),
        ("itive", {"itive": -0.1}),
    ]
    assert read_choice(reply(" positive", places), ["negative", "positive"]) == pytest.approx([0.25, 0.75])


def test_a_first_token_that_two_answers_begin_with_says_neither():
    places = [("un", {"un": -0.1, "kind": -3.0}), ("kind", {"kind": -0.1})]
    assert read_choice(reply("unkind", places), ["unkind", "unfair"]).tolist() == [1.0, 0.0]


CONTINUED = {
    "choices": [
        {
            "text": " positive\n",
            "logprobs": {
                "tokens": [" positive", "\n"],
                "token_logprobs": [math.log(0.6), -0.1],
                "top_logprobs": [{" positive": math.log(0.6), " negative": math.log(0.3)}, None],
            },
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}


def test_a_text_that_goes_on():
    found = read_reply(json.dumps(CONTINUED), chat=False)
    assert (found.text, found.tokens_in, found.tokens_out) == (" positive\n", 5, 2)
    assert read_choice(found, ["negative", "positive"]) == pytest.approx([1 / 3, 2 / 3])


BROKEN = {'" positive", "\\n"': '" positive"', "[{": "[3, {", '"text"': '"said"', "null": "7", "-0.1": "0.5"}


@pytest.mark.parametrize(("old", "new"), BROKEN.items())
def test_a_text_that_goes_on_in_no_known_form(old, new):
    body = json.dumps(CONTINUED)
    assert old in body
    with pytest.raises(ValueError):
        read_reply(body.replace(old, new, 1), chat=False)
