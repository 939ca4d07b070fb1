"""The fitted curve of over-optimisation: that of the evaluations, and drawn only where it means something."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from rlhf_jax.report import plots
from rlhf_jax.report.policies import policy_section, policy_table

KL = (0.0, 0.5, 2.0, 6.0, 12.0)


def rows_of(stage, kls, start=0.3, b=0.5):
    """Evaluations on the curve d (1 - b log d) above ``start``."""
    d = np.sqrt(np.maximum(kls, 1e-12))
    gold = start + d * (1 - b * np.log(d))
    return [
        {"stage": stage, "step": i, f"{stage}/heldout_kl": kl, f"{stage}/heldout_gold": g, f"{stage}/heldout_proxy": kl}
        for i, (kl, g) in enumerate(zip(kls, gold.tolist(), strict=True))
    ]


def drawn(stage, rows):
    address = policy_section(stage, rows, {"alarms": []})["over_optimisation"]
    return base64.b64decode(address.partition("base64,")[2]).decode()


@pytest.mark.parametrize("stage", ["ppo", "group"])
def test_the_fit_goes_through_the_evaluations_it_was_made_of(stage, monkeypatch):
    given = {}
    monkeypatch.setattr(plots, "over_optimisation", lambda *drawn, titles: given.update(drawn=drawn))
    policy_section(stage, rows_of(stage, KL), {"alarms": []})
    kl, _, gold = zip(*given["drawn"][0], strict=True)
    np.testing.assert_allclose(given["drawn"][1](np.array(kl)), gold, atol=1e-5)


def test_the_fit_is_drawn_with_and_without_a_proxy():
    rows = rows_of("ppo", KL)
    assert "fitted d (a" in drawn("ppo", rows)
    assert "fitted d (a" in drawn("ppo", [{k: v for k, v in row.items() if "proxy" not in k} for row in rows])


def test_estimates_of_the_kl_below_0_are_drawn_and_not_fitted():
    assert "fitted d (a" in drawn("group", rows_of("group", (0.0, -0.03, *KL[1:])))


def test_gold_that_does_not_bend_down_is_drawn_without_a_fit():
    assert "fitted" not in drawn("ppo", rows_of("ppo", KL, b=-0.5))


@pytest.mark.parametrize(
    ("stage", "kls"),
    [
        ("ppo", KL[:3]),  # too few
        ("ppo", KL[1:]),  # how the SFT policy scores is not known
        ("group", (0.0, -0.1, 1.0, 2.0)),  # too few that can be fitted
        ("preference", KL),  # trained on given pairs, which is neither form
    ],
)
def test_there_is_no_fit_where_it_would_mean_nothing(stage, kls):
    svg = drawn(stage, rows_of(stage, kls))
    assert "gold (never trained on)" in svg
    assert "fitted" not in svg


def test_pairs_and_labels_have_a_row_each():
    table = dict(
        policy_table(
            {
                "ppo": {"kl": 1.0},
                "preference": {"kl": 2.0, "label_auc": 0.731, "label_auc_ci": [0.7, 0.76], "responses": 9},
            }
        )
    )
    assert table["implicit reward: thumbs up above thumbs down, held out (AUC)"] == [
        "",
        "73.1% (70.0 to 76.0), 9 responses",
    ]
    assert not [row for row in table if "pairs" in row]
    assert "pairs" in "".join(dict(policy_table({"preference": {"accuracy": 0.6}})))


def test_the_accuracy_on_own_samples_stands_beside_over_optimisation():
    """In the table of policies too; and nothing is said where no judge labelled the samples."""
    figures = {
        **{"proxy_accuracy": 0.62, "proxy_accuracy_ci": [0.55, 0.7], "proxy_accuracy_pairs": 1200},
        "proxy_accuracy_before": 0.81,
    }
    said = policy_section("ppo", [], figures)["own_samples"]
    assert said == "62.0% (55.0 to 70.0), 1,200 pairs; 81.0% of the starting policy's"
    assert policy_section("ppo", [], {})["own_samples"] == ""
    rows = dict(policy_table({"ppo": figures}))
    assert [cells for what, cells in rows.items() if "own samples" in what] == [["0.810 → 0.620"]]
