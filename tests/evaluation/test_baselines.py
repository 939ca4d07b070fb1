"""The baselines rank sentences whose sentiment nobody doubts."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf_jax.evaluation import fit_ridge, vader


def test_ridge_learns_which_words_count():
    rng = np.random.default_rng(0)
    words = {"superb": 2.0, "fine": 0.5, "dull": -1.0, "dreadful": -2.5, "table": 0.0, "river": 0.0}
    texts, ratings = [], []
    for _ in range(300):
        chosen = rng.choice(list(words), 3)
        texts.append(" ".join(chosen))
        ratings.append(sum(words[word] for word in chosen) + 0.1 * rng.normal())
    score = fit_ridge(texts, ratings)
    found = score(["superb river table", "fine river table", "dull river table", "dreadful river table"])
    assert (np.diff(found) < 0).all()
    # On the scale of the ratings, since it stands beside them in the report.
    assert found[0] == pytest.approx(2.0, abs=0.5)
    np.testing.assert_array_equal(fit_ridge(texts, ratings)(texts), score(texts))


def test_ridge_on_nothing_and_on_unknown_words():
    score = fit_ridge(["good", "bad"], [1.0, -1.0])
    assert score([]).shape == (0,)
    assert np.isfinite(score(["", "\u4f60\u597d", "!!!"])).all()


def test_ridge_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match="one rating each"):
        fit_ridge(["a", "b"], [1.0])
    with pytest.raises(ValueError, match="finite"):
        fit_ridge(["a", "b"], [1.0, float("nan")])


def test_vader_knows_negation_and_emphasis():
    good, not_good, very_good, nothing = vader(["It is good.", "It is not good.", "It is VERY good!!!", ""])
    assert not_good < 0 < good < very_good
    assert nothing == 0.0
    assert vader([]).shape == (0,)
