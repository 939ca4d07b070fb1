"""The stored learning curves say what docs/parity.md says of them, and the verdict can tell two curves apart."""

import golden_curves as curves
import numpy as np
import pytest


def test_what_the_docs_say_of_the_curves():
    """Not that each lies in the other's interval, which five seeds do not bear out; nor that they differ."""
    found, p = {}, {}
    for figure, x in curves.stored().items():
        assert {side: a.shape for side, a in x.items()} == dict.fromkeys(x, (curves.SEEDS, curves.ITERATIONS))
        found[figure] = tuple(side["outside"] for side in curves.verdict(x).values())
        p[figure] = round(curves.permutation(x), 2)
    assert found == {"score": (9, 11), "kl": (2, 4)}
    assert p == {"score": 0.15, "kl": 0.71}


def test_the_permutation_by_hand():
    # Of the six ways to deal four runs to two sides, the two that part low from high have the largest statistic.
    x = np.array([[0.0], [0.1], [1.0], [1.3]])
    assert curves.permutation({"ours": x[:2], "trl": x[2:]}) == pytest.approx(2 / 6)


def test_both_sides_learn():
    for x in curves.stored()["score"].values():
        late, early = x[:, -5:].mean(), x[:, :5].mean()
        assert late - early > 4 * np.hypot(x[:, -5:].mean(1).std(), x[:, :5].mean(1).std()) / np.sqrt(len(x))


def test_the_table_of_the_docs_is_that_of_the_stored_curves():
    docs = (curves.HERE.parents[1] / "docs" / "parity.md").read_text()
    assert curves.table() in docs


def test_the_verdict_by_hand():
    # Seeds -1 and 1: the bootstrap mean is -1, 0 or 1 with 1/4, 1/2, 1/4, its standard error 0.71; the largest
    # deviation is 1 in half of all resamples, so the half width is 1.
    two = np.array([[-1.0], [1.0]])
    found = curves.verdict({"ours": two, "trl": two + 0.9})
    assert found["ours"]["half"] == pytest.approx([1.0])
    assert (found["ours"]["outside"], found["trl"]["outside"]) == (0, 0)
    assert curves.verdict({"ours": two, "trl": two + 1.1})["ours"]["outside"] == 1
