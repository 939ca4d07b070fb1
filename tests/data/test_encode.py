import numpy as np
import pytest
from chat_families import FAMILIES, TALK, chat, write_folder

from rlhf_jax import feedback
from rlhf_jax.data import (
    Comparison,
    DataError,
    Demonstration,
    Dialogue,
    Example,
    LabelledResponse,
    PromptRow,
    Tokenizer,
    chosen_first,
    encode_prompts,
    encode_rows,
    rated_groups,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a good film", "a bad film"] * 4, 280)


def test_targets_are_the_response_and_the_end(tokenizer):
    (example,), bad = encode_rows([Demonstration("a film", "good", "f:1")], tokenizer, length=20)
    prompt, response = tokenizer.encode_prompt("a film"), tokenizer.encode_response("good")
    np.testing.assert_array_equal(example.tokens[0], [*prompt, *response])
    np.testing.assert_array_equal(example.tokens[0][example.starts[0] :], response)
    assert example.votes is None
    assert bad == []


def test_a_comparison_keeps_its_responses_and_votes(tokenizer):
    votes = np.array([[0, 0.75], [0.25, 0]], np.float32)
    (example,), _ = encode_rows([Comparison("a film", ("good", "bad film"), votes, "f:1")], tokenizer, length=20)
    assert [tokenizer.decode_response(t[s:]) for t, s in zip(example.tokens, example.starts, strict=True)] == [
        "good",
        "bad film",
    ]
    np.testing.assert_array_equal(example.votes, votes)


def test_rows_that_are_too_long_are_named(tokenizer):
    rows = [Demonstration("a", "good", "f:1"), Demonstration("a", "bad " * 50, "f:2")]
    longest = 1 + len(tokenizer.encode("a")) + len(tokenizer.encode_response("bad " * 50))
    with pytest.raises(DataError, match=rf"^f:2: expected at most 20 tokens, found {longest}; .*--on-bad-row skip"):
        encode_rows(rows, tokenizer, length=20)
    examples, bad = encode_rows(rows, tokenizer, length=20, on_bad_row="skip")
    assert len(examples) == 1
    assert len(bad) == 1
    prompts, kept, bad = encode_prompts(
        [PromptRow("bad " * 50, "f:1"), PromptRow("a", "f:2")], tokenizer, length=9, on_bad_row="skip"
    )
    assert [p.tolist() for p in prompts] == [tokenizer.encode_prompt("a").tolist()]
    assert kept == [1]
    assert bad[0].startswith("f:1: expected at most 9 tokens")


def test_rated_groups_stay_in_their_domain_and_carry_their_votes():
    generator = np.random.default_rng(0)
    domains = ["x"] * 10 + ["y"] * 7 + ["z"]
    ratings = [generator.integers(-4, 5, 6) for _ in domains]
    sentences = [Example((np.array([1, n, 2], np.int32),), (1,)) for n in range(18)]
    arguments = dict(group_size=3, votes=feedback.votes_from_histograms, seed=5)
    histograms = feedback.histograms(ratings)
    groups = rated_groups(sentences, domains, histograms, epoch=0, **arguments)
    # Of x three full groups and one left, which is given a partner; of y likewise; z is alone.
    assert [len(group.tokens) for group in groups] == [3, 3, 2, 2, 3, 2, 2]
    seen = [int(tokens[1]) for group in groups for tokens in group.tokens]
    assert sorted(seen) == list(range(17))
    for group in groups:
        members = [int(tokens[1]) for tokens in group.tokens]
        assert len({domains[m] for m in members}) == 1
        np.testing.assert_allclose(group.votes, feedback.votes([ratings[m] for m in members]), rtol=1e-6)
    other = rated_groups(sentences, domains, histograms, epoch=1, **arguments)
    assert [int(t[1]) for g in other for t in g.tokens] != seen


def test_rated_groups_carry_the_ratings_of_their_responses():
    sentences = [
        Example((np.array([1, n, 2], np.int32),), (1,), ratings=np.array([n / 4], np.float32)) for n in range(8)
    ]
    histograms = feedback.histograms([np.array([n % 3]) for n in range(8)])
    arguments = dict(group_size=2, votes=feedback.votes_from_histograms, seed=5, epoch=0)
    for group in rated_groups(sentences, ["x"] * 8, histograms, **arguments):
        np.testing.assert_array_equal(group.ratings, [tokens[1] / 4 for tokens in group.tokens])
    # Half a group's ratings are none: a number of one response says nothing about the other.
    sentences[3] = sentences[3]._replace(ratings=None)
    for group in rated_groups(sentences, ["x"] * 8, histograms, **arguments):
        assert (group.ratings is None) == any(tokens[1] == 3 for tokens in group.tokens)


def pair(first, second, **fields):
    tokens = (np.array([1, 5, 2], np.int32), np.array([1, 4, 6, 7, 2], np.int32))
    return Example(tokens, (1, 2), np.array([[0, first], [second, 0]], np.float32), **fields)


@pytest.mark.parametrize(("first", "second"), [(1, 0), (3, 2), (0.9, 0.1)])
def test_the_response_with_more_votes_comes_first(first, second):
    example = pair(first, second, ratings=np.array([2.0, -1.0], np.float32))
    for given, turn in ((example, False), (pair(second, first, ratings=np.array([2.0, -1.0], np.float32)), True)):
        ordered = chosen_first(given, 0.5)
        order = [1, 0] if turn else [0, 1]
        for k, source in enumerate(order):
            np.testing.assert_array_equal(ordered.tokens[k], given.tokens[source])
            assert ordered.starts[k] == given.starts[source]
            assert ordered.ratings[k] == given.ratings[source]
        np.testing.assert_array_equal(ordered.votes, np.array([[0, first], [second, 0]], np.float32))
        assert ordered.labels.tolist() == [1.0, 0.0]
        assert ordered.labels.dtype == np.float32


def test_ties_and_small_majorities_are_left_out():
    assert chosen_first(pair(2, 2), 0.5) is None
    assert chosen_first(pair(0, 0), 0.5) is None  # nobody voted
    assert chosen_first(pair(3, 2), 0.7) is None
    assert chosen_first(pair(2, 3), 0.7) is None
    assert chosen_first(pair(7, 3), 0.7) is not None  # the share itself passes
    assert chosen_first(pair(0.9, 0.1), 0.9) is not None  # which in float32 is less than 0.9
    assert chosen_first(pair(1.2, np.nextafter(np.float32(1.2), np.float32(2))), 0.5) is None  # a tie but for rounding
    assert chosen_first(pair(0.0, 1.0), 1.0).tokens[0].tolist() == [1, 4, 6, 7, 2]
    assert chosen_first(pair(1, 0), 0.5).ratings is None


def test_only_pairs_with_votes_have_a_chosen_response():
    one = np.array([1, 5, 2], np.int32)
    with pytest.raises(ValueError, match="expected a pair with votes, found 2 responses"):
        chosen_first(Example((one, one), (1, 1)), 0.5)
    with pytest.raises(ValueError, match="expected a pair with votes, found 3 responses"):
        chosen_first(Example((one,) * 3, (1,) * 3, np.zeros((3, 3), np.float32)), 0.5)


def test_text_without_a_prompt_is_all_target(tokenizer):
    (example,), _ = encode_rows([Demonstration("", "good film", "f:1")], tokenizer, length=20)
    assert example.tokens[0][0] == tokenizer.bos_id
    assert example.starts == (1,)
    assert tokenizer.decode_response(example.tokens[0][1:]) == "good film"


def test_a_group_of_one_compares_nothing():
    with pytest.raises(ValueError, match="group_size=1"):
        rated_groups([], [], np.zeros((0, 2)), group_size=1, votes=feedback.votes_from_histograms, seed=0, epoch=0)
    assert (
        rated_groups([], [], np.zeros((0, 2)), group_size=2, votes=feedback.votes_from_histograms, seed=0, epoch=0)
        == []
    )


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gemma")
    write_folder(folder, FAMILIES["gemma"])
    return Tokenizer.load(folder)


def test_every_turn_of_the_assistant_is_a_target_of_a_dialogue(gemma, tokenizer):
    said = chat(*TALK)
    for made in (gemma, tokenizer):
        (example,), bad = encode_rows([Dialogue(said, "f:1")], made, length=400)
        ((tokens, mask),) = made.encode_turns(said)
        np.testing.assert_array_equal(example.tokens[0], tokens)
        np.testing.assert_array_equal(example.masks[0], mask)
        assert example.starts == (len(made.encode_prompt(said[:1])),)
        assert bad == []


def test_a_chat_is_a_prompt_of_every_kind_of_row(gemma):
    turns = chat(*TALK)[:3]
    prompt = gemma.encode_prompt(turns)
    votes = np.array([[0, 1], [0, 0]], np.float32)
    rows = [
        Demonstration(turns, "four", "f:1"),
        Comparison(turns, ("four", "six"), votes, "f:2"),
        LabelledResponse(turns, "six", True, "f:3"),
        LabelledResponse(turns, "six", False, "f:4"),
    ]
    examples, _ = encode_rows(rows, gemma, length=400)
    for example in examples:
        assert set(example.starts) == {len(prompt)}
        assert all(tokens[: len(prompt)].tolist() == prompt.tolist() for tokens in example.tokens)
        assert all(tokens[-1] == gemma.eos_id for tokens in example.tokens)
        assert example.masks is None
    assert [gemma.decode_response(t[len(prompt) :]) for t in examples[1].tokens] == ["four", "six"]
    assert [None if e.labels is None else e.labels.tolist() for e in examples] == [None, None, [1.0], [0.0]]
    (asked,), kept, _ = encode_prompts([PromptRow(turns, "f:5")], gemma, length=400)
    assert asked.tolist() == prompt.tolist()
    assert kept == [0]


def test_text_without_a_prompt_is_plain_text_in_the_chat_format(gemma):
    (example,), _ = encode_rows([Demonstration("", "four and four", "f:1")], gemma, length=20)
    plain = gemma.with_format("plain")
    assert example.tokens[0].tolist() == [plain.bos_id, *plain.encode("four and four"), plain.eos_id]
    assert example.tokens[0][-1] == plain.eos_id != gemma.eos_id


def test_a_row_that_the_template_refuses_is_named(gemma):
    refused = chat(*TALK, system="Be brief.")
    rows = [Dialogue(refused, "f:1"), Demonstration(refused[:2], "R", "f:2"), Demonstration("P", "R", "f:3")]
    message = r"^f:1: chat template: .*there is no system role.*; fix the row or pass --on-bad-row skip$"
    with pytest.raises(DataError, match=message):
        encode_rows(rows, gemma, length=400)
    examples, bad = encode_rows(rows, gemma, length=400, on_bad_row="skip")
    assert len(examples) == 1
    assert [text[:4] for text in bad] == ["f:1:", "f:2:"]
    prompts, kept, bad = encode_prompts(
        [PromptRow(refused[:2], "f:1"), PromptRow("P", "f:2")], gemma, length=400, on_bad_row="skip"
    )
    assert (len(prompts), kept) == (1, [1])
    assert "there is no system role" in bad[0]


def test_masks_go_with_their_responses_when_the_chosen_one_comes_first():
    masks = (np.array([0, 1, 0], bool), np.array([0, 0, 1, 0, 1], bool))
    ordered = chosen_first(pair(0, 1, masks=masks), 0.5)
    assert [m.tolist() for m in ordered.masks] == [masks[1].tolist(), masks[0].tolist()]
    assert chosen_first(pair(0, 1), 0.5).masks is None
