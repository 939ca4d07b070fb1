"""Stop strings: the automaton over tokens is the search in the text, token by token, however the tokens cut it."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.rollout import SamplingConfig, stop_at_text, stop_at_tokens

# Every way to cut: letters, pieces of stop strings, more than a whole one, nothing at all, a part of a character.
VOCABULARY = [b"a", b"b", b"ab", b"ba", b"aab", b"abab", b"", b"c", b"cab", b"\n", b"\n\n", b"b\n", b"\xc3", b"\xa9"]


def first_stop(table, tokens):
    """How many tokens a response has once it has ended, one row."""
    state = jnp.zeros(1, jnp.int32)
    for i, token in enumerate(tokens):
        state = table.step(state, jnp.array([token]))
        if bool(table.stopped(state)[0]):
            return i + 1
    return None


@pytest.mark.parametrize(
    "texts",
    [
        ["ab"],
        ["aab"],  # after "aa" and another "a", "aa" is still read
        ["\n\n"],
        ["é"],
        ["abac", "ba", "cc"],  # "ba" ends inside the first one
        ["abc", "b"],  # the second one within the first
        ["babab\n", "abb", "aaa"],
    ],
    ids=str,
)
def test_the_automaton_is_a_search_in_the_text(texts):
    table, rng = stop_at_text(texts, VOCABULARY), np.random.default_rng(0)
    rows = rng.integers(0, len(VOCABULARY), size=(200, 12))
    state, got = jnp.zeros(len(rows), jnp.int32), []
    for column in rows.T:
        state = table.step(state, jnp.asarray(column))
        got.append(np.asarray(table.stopped(state)))
    for row, stopped in zip(rows, np.array(got).T, strict=True):
        written = [b"".join(VOCABULARY[i] for i in row[: n + 1]) for n in range(len(row))]
        assert stopped.tolist() == [any(text.encode() in said for text in texts) for said in written]
    assert 0.05 < np.array(got)[-1].mean() <= 1


def test_worked_by_hand():
    table = stop_at_text(["ab\n"], VOCABULARY)
    assert first_stop(table, [0, 0, 11]) == 3  # a, a, "b\n"
    assert first_stop(table, [5, 9]) == 2  # "abab", "\n"
    assert first_stop(table, [2, 6, 10]) == 3  # "ab", a token that writes nothing, and more than the line break
    assert first_stop(table, [2, 99, 9]) == 3  # so does one that the vocabulary does not know
    assert first_stop(table, [2, 7, 9]) is None  # "ab", "c", "\n"


def test_tokens_that_do_the_same_share_a_row():
    assert stop_at_text(["zz"], [b"a", b"b", b"z", b"az", *[b"c"] * 1000]).moves.shape == (4, 3)


def test_token_sequences():
    table = stop_at_tokens([(6, 5), (3, 3, 3)])
    assert [first_stop(table, row) for row in ([6, 5], [6, 6, 5], [3, 3, 3], [6, 4, 5], [3, 3, 99, 3])] == [
        2,
        3,
        3,
        None,
        None,
    ]
    with pytest.raises(ValueError, match="at least one token"):
        stop_at_tokens([(1,), ()])


@pytest.mark.parametrize("text", ["d", "abd", "è", "\udcff"], ids=ascii)
def test_a_text_that_no_tokens_write_is_refused(text):
    with pytest.raises(ValueError, match="no tokens of this tokenizer write the stop string"):
        stop_at_text(["ab", text], VOCABULARY)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="before its first token"):
        stop_at_text(["ab", ""], VOCABULARY)
    for wrong in (("ab", ""), "ab"):
        with pytest.raises(ValueError, match="stop must be a tuple"):
            SamplingConfig(stop=wrong)
    assert SamplingConfig(stop=["ab"]) == SamplingConfig(stop=("ab",))
