"""experiments/over_optimisation.py: curves from what an arm leaves, a gold that pays once, and the plan of all arms."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.losses import best_of_n_kl
from rlhf_jax.stages import find_objective

FOLDER = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def experiment():
    return inspect.getmodule(find_objective(f"{FOLDER / 'over_optimisation.py'}:main", {}))


@pytest.fixture(scope="module")
def figures():
    return inspect.getmodule(find_objective(f"{FOLDER / 'over_optimisation_figures.py'}:table", {}))


def chosen(a, b, prompts=5, proxy=1.0):
    """What best-of-n leaves where gold follows d (a - b d) on every prompt, in units of 2."""
    points = []
    for n in (1, 4, 16, 64):
        d = float(np.sqrt(best_of_n_kl(n)))
        offsets = np.linspace(-1, 1, prompts)
        gold, by_proxy = (offsets + 2 * d * (a - b * d)).tolist(), (offsets + 3 * proxy * d).tolist()
        points.append({"n": n, "gold": gold, "proxy": by_proxy})
    return {"points": points, "proxy_scores": {"mean": 0.0, "std": 3.0}}


def trained(kls, golds):
    points = [
        {"iteration": 3 * i, "kl": [kl, kl + 0.2], "gold": [1 + gold, 3 + gold], "proxy": [gold, gold + 2]}
        for i, (kl, gold) in enumerate(zip(kls, golds, strict=True))
    ]
    return {"points": points}


def test_best_of_n_is_measured_from_the_policy_it_chooses_from(figures):
    curve = figures.best_of_n_curve(chosen(1.2, 0.4), "it", unit=2.0)
    assert curve.steps == (1, 4, 16, 64)
    assert curve.kl[0] == 0
    assert (curve.gold[0] == 0).all()
    assert (curve.fitted.fit.a, curve.fitted.fit.b) == pytest.approx((1.2, 0.4), abs=1e-5)
    np.testing.assert_allclose(curve.proxy, np.sqrt(curve.kl), atol=1e-6)  # in the proxy's own standard deviations


def test_ppo_begins_at_zero_whatever_rounding_says_of_its_kl(figures):
    curve = figures.rl_curve(trained([1e-7, 4.0, 9.0, 16.0], [0.0, 1.0, 2.0, 1.0]), "it", unit=2.0, proxy_unit=0.5)
    np.testing.assert_allclose(curve.distance, [0, 4.1, 9.1, 16.1])
    np.testing.assert_allclose(curve.gold.mean(1), [0, 0.5, 1.0, 0.5])
    np.testing.assert_allclose(curve.proxy, [0, 2, 4, 2])
    assert curve.at(2) == (1.0, (1.0, 1.0))


def test_a_curve_that_ended_at_once_has_no_fit_and_still_a_row(figures):
    curve = figures.rl_curve(trained([0.0, 4.0], [0.0, 1.0]), "it", unit=1.0, proxy_unit=1.0)
    assert curve.fitted is None
    assert figures.table([curve], {}).splitlines()[2].startswith("| it |  | 1.00 (1.00 to 1.00) | 4.1 |")


def test_what_an_arm_leaves_becomes_tables_and_a_figure(figures, tmp_path):
    for folder in ("best_of_n", "ppo"):
        (tmp_path / folder).mkdir()
    for name, row in (("small-6-0", chosen(1.0, 0.4)), ("small-9-0", chosen(1.5, 0.1))):
        (tmp_path / "best_of_n" / f"{name}.json").write_text(json.dumps(row))
    (tmp_path / "ppo" / "small-6.json").write_text(json.dumps(trained([0.0, 2.0, 8.0, 20.0], [0.0, 2.0, 2.0, 0.5])))
    curves = figures.read_curves(tmp_path, 2.0)
    assert [(c.name, c.kind) for c in curves] == [
        ("small-6-0", "best_of_n"),
        ("small-9-0", "best_of_n"),
        ("small-6", "rl"),
    ]
    change = figures.moved(curves, [("small-6", "small-9"), ("small-6", "large-6")])
    assert change.splitlines()[2:] == [
        "| small-6 | small-9 | best-of-n | 0.50 (0.50 to 0.50) | -0.30 (-0.30 to -0.30) |"
    ]
    figures.figure(curves, tmp_path / "it.png")
    assert (tmp_path / "it.png").read_bytes().startswith(b"\x89PNG")


def test_gold_scores_a_text_once_and_keeps_it(experiment, tmp_path):
    asked = []

    def gold():
        judge = experiment.Gold("nowhere", tmp_path / "gold.jsonl")
        judge._score = lambda pairs: asked.extend(pairs) or np.array([len(r) for _, r in pairs], np.float32)
        return judge

    first = gold()
    assert first(["p", "p", "q"], ["long", "a", "long"]).tolist() == [4, 1, 4]
    assert first(["p"], ["a"]).tolist() == [1]
    with (tmp_path / "gold.jsonl").open("a") as file:
        file.write('{"prompt": "p", "resp')  # a kill
    assert gold()(["p", "r"], ["a", "bc"]).tolist() == [1, 2]
    assert len(asked) == len(set(asked)) == 4


def test_every_proxy_is_trained_before_anything_follows_it(experiment):
    class Told:
        scale = experiment.Scale()

        def __init__(self):
            self.proxies, self.arms, self.chosen = [], [], []

        def proxy(self, proxy, members):
            self.proxies.append(proxy.run)

        def best_of_n(self, proxy, member=0):
            assert proxy.run in self.proxies
            self.chosen.append((proxy.name, member))

        def ppo(self, proxy):
            assert proxy.run in self.proxies
            self.arms.append(proxy.name)

    told = Told()
    experiment.run(told)
    assert len(set(told.proxies)) == 9 + 1  # three sizes with three numbers of labels, and one with gold's
    # ... and three ways to combine, and two more members
    assert len(set(told.chosen)) == len(told.chosen) == 9 + 1 + 3 + 2
    assert len(set(told.arms)) == len(told.arms) == 8
    compared = {name for pair in experiment.comparisons(told.scale) for name in pair}
    assert compared == {name for name, member in told.chosen if member == 0} - {"large-480-by-gold"}
    assert experiment.ladder(1024)[-2:] == [512, 1024]
    assert experiment.ladder(100)[-1] == 64
