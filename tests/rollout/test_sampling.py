"""One draw: which tokens may come, how often, under whose probability, and from whose noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses import token_logprobs
from rlhf_jax.rollout import SamplingConfig, response_keys, sample_token, truncate
from rlhf_jax.rollout.sampling import categorical

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.3, 0.15], np.float32)
LOGITS = jnp.log(jnp.asarray(PROBABILITIES))[None]
MANY = 4000


def kept(**settings):
    allowed = truncate(LOGITS, **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings})
    return set(np.flatnonzero(np.isfinite(np.asarray(allowed[0]))).tolist())


def draw(**settings):
    """4000 draws from the five tokens above, by 4000 responses with keys of their own."""
    keys = response_keys(jax.random.key(0), 0, jnp.arange(MANY), jnp.zeros(MANY, jnp.int32))
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings}
    token, logprob = sample_token(keys, jnp.repeat(LOGITS, MANY, axis=0), jnp.int32(0), **settings)
    return np.asarray(token), np.asarray(logprob)


def test_top_k_keeps_the_k_likeliest():
    assert [kept(top_k=k) for k in (1, 2, 3)] == [{1}, {1, 3}, {1, 3, 4}]
    assert kept(top_k=0) == kept(top_k=5) == kept(top_k=99) == set(range(5))


@pytest.mark.parametrize(
    ("top_p", "want"),
    [
        (0.01, {1}),
        (0.39, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.71, {1, 3, 4}),
        (0.9, {1, 2, 3, 4}),
        (1.0, {*range(5)}),
    ],
)
def test_top_p_keeps_the_smallest_set_with_at_least_that_probability(top_p, want):
    """In order the tokens sum to 0.4, 0.7, 0.85, 0.95, 1."""
    assert kept(top_p=top_p) == want


def test_top_p_counts_what_top_k_and_temperature_left():
    # Of the three likeliest, 0.4 + 0.3 is 0.82 of the mass: 0.8 keeps two. Alone it would keep three.
    assert kept(top_k=3, top_p=0.8) == {1, 3}
    assert kept(top_p=0.8) == {1, 3, 4}
    # Hot logits are flatter: the same nucleus needs more tokens.
    assert kept(top_p=0.8, temperature=10.0) == {1, 2, 3, 4}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_tokens_come_as_often_as_their_probability_says(temperature):
    token, logprob = draw(temperature=temperature)
    want = PROBABILITIES ** (1 / temperature)
    want /= want.sum()
    seen = np.bincount(token, minlength=5) / MANY
    assert np.abs(seen - want).max() < 4 * np.sqrt(0.25 / MANY)
    # What is kept is the log-probability of the distribution that was drawn from.
    np.testing.assert_allclose(logprob, np.log(want)[token], atol=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 7, 16, 17, 50])
def test_a_draw_in_two_stages_is_of_the_whole_distribution(vocabulary):
    """Blocks of any size, the last one filled up or not; half of the entries are forbidden."""
    logits = jax.random.normal(jax.random.key(3), (vocabulary,)) * 2
    logits = jnp.where((jnp.arange(vocabulary) % 2 == 1) & (vocabulary > 2), -jnp.inf, logits)
    keys = jax.random.split(jax.random.key(4), MANY)
    drawn = np.asarray(categorical(keys, jnp.broadcast_to(logits, (MANY, vocabulary))))
    want = np.asarray(jax.nn.softmax(logits))
    got = np.bincount(drawn, minlength=vocabulary) / MANY
    assert got.shape == want.shape
    assert (got[want == 0] == 0).all()
    assert (np.abs(got - want) < 4.5 * np.sqrt(want * (1 - want) / MANY) + 1e-6).all()


def test_each_row_may_be_at_a_position_of_its_own():
    keys = response_keys(jax.random.key(0), 0, jnp.arange(4), jnp.zeros(4, jnp.int32))
    logits = jax.random.normal(jax.random.key(1), (4, 1000))
    positions = jnp.array([5, 0, 2, 5])
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    together, _ = sample_token(keys, logits, positions, **settings)
    alone = [int(sample_token(keys[i : i + 1], logits[i : i + 1], positions[i], **settings)[0][0]) for i in range(4)]
    assert together.tolist() == alone


@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_the_log_probability_may_be_of_another_temperature(temperature):
    """The tokens stay what they were; 1 gives the policy's own log-probability."""
    token, _ = draw(temperature=temperature)
    same, logprob = draw(temperature=temperature, logprob_temperature=1.0)
    np.testing.assert_array_equal(same, token)
    np.testing.assert_allclose(logprob, np.log(PROBABILITIES)[token], atol=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_what_a_draw_sums_up_gives_the_log_probability_of_the_whole_distribution(temperature):
    """1003 entries are blocks of 32, the last one not full, and a whole block may be forbidden."""
    logits = (3 * jax.random.normal(jax.random.key(1), (50, 1003))).at[:, 32:64].set(-jnp.inf)
    keys = response_keys(jax.random.key(0), 0, jnp.arange(50), jnp.zeros(50, jnp.int32))
    token, logprob = sample_token(keys, logits, jnp.int32(0), temperature=temperature, top_k=0, top_p=1.0)
    np.testing.assert_allclose(logprob, token_logprobs(logits / temperature, token), atol=1e-5)


def test_a_truncated_draw_at_a_temperature_reports_the_whole_distribution():
    token, logprob = draw(top_k=2, temperature=0.5)
    assert set(token.tolist()) == {1, 3}
    want = PROBABILITIES**2 / (PROBABILITIES**2).sum()
    np.testing.assert_allclose(logprob, np.log(want)[token], atol=1e-5)


def test_a_truncated_draw_still_reports_the_policys_probability():
    token, logprob = draw(top_k=2)
    assert set(token.tolist()) == {1, 3}
    np.testing.assert_allclose(logprob, np.log(PROBABILITIES)[token], atol=1e-5)
    assert abs((token == 1).mean() - 4 / 7) < 0.04


def test_temperature_zero_takes_the_likeliest():
    token, logprob = draw(temperature=0.0)
    assert set(token.tolist()) == {1}
    np.testing.assert_allclose(logprob, np.log(0.4), atol=1e-5)


def test_every_part_of_a_samples_name_changes_its_noise():
    key = jax.random.key(0)
    one = jnp.array([1])
    named = [
        response_keys(key, 3, one, one),
        response_keys(key, 4, one, one),
        response_keys(key, 3, one + 1, one),
        response_keys(key, 3, one, one + 1),
        response_keys(jax.random.key(1), 3, one, one),
        response_keys(key, 1, one * 3, one),  # the same numbers in other places
    ]
    assert len({tuple(np.asarray(jax.random.key_data(k)).ravel().tolist()) for k in named}) == len(named)
    logits = jnp.zeros((1, 1000))
    drawn = [
        int(sample_token(k, logits, jnp.int32(p), temperature=1.0, top_k=0, top_p=1.0)[0][0])
        for k, p in ((named[0], 0), (named[0], 1), (named[1], 0), (named[3], 0))
    ]
    assert len(set(drawn)) == 4


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"window": 0}, {"temperature": -0.1}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be"):
        SamplingConfig(**wrong)
