import numpy as np
import pytest

from rlhf_jax import feedback
from rlhf_jax.data import (
    Comparison,
    DataError,
    Demonstration,
    Example,
    PromptRow,
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
    assert len(groups) == 3 + 2  # of x one waits, of y one, and z has no partner
    seen = [int(tokens[1]) for group in groups for tokens in group.tokens]
    assert len(set(seen)) == len(seen) == 15
    for group in groups:
        members = [int(tokens[1]) for tokens in group.tokens]
        assert len({domains[m] for m in members}) == 1
        np.testing.assert_allclose(group.votes, feedback.votes([ratings[m] for m in members]), rtol=1e-6)
    other = rated_groups(sentences, domains, histograms, epoch=1, **arguments)
    assert [int(t[1]) for g in other for t in g.tokens] != seen


def test_a_group_of_one_compares_nothing():
    with pytest.raises(ValueError, match="group_size=1"):
        rated_groups([], [], np.zeros((0, 2)), group_size=1, votes=feedback.votes_from_histograms, seed=0, epoch=0)
    assert (
        rated_groups([], [], np.zeros((0, 2)), group_size=2, votes=feedback.votes_from_histograms, seed=0, epoch=0)
        == []
    )
