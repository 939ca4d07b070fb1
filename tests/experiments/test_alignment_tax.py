"""The questions of the alignment tax are made as its docstring says, and its table has every arm."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "experiments" / "alignment_tax.py"


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("alignment_tax", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_question_has_four_orders_of_the_same_words(experiment):
    text = "this camera takes very good pictures in low light"
    found = experiment.reordered("amazon", text, np.random.default_rng(0))
    assert len(set(found["choices"])) == 4
    assert {" ".join(sorted(choice.split())) for choice in found["choices"]} == {"good in light low pictures"}
    assert f"{found['prompt']} {found['choices'][found['answer']]}".endswith(text)


@pytest.mark.parametrize("text", ["too short", "so so so so so so so so"])
def test_a_sentence_without_enough_words_makes_no_question(experiment, text):
    assert experiment.reordered("amazon", text, np.random.default_rng(0)) is None


def test_every_arm_has_a_row_and_a_config(experiment, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(experiment.stages, "ppo", lambda config: asked.append(config) or type("R", (), {"summary": {}}))
    arms = {}
    for beta, ptx in experiment.ARMS:
        experiment.ppo("start", tmp_path / f"{beta}_{ptx}", beta, ptx, ["text.jsonl"], experiment.FAST)
        arm = {name: 0.5 for name in ("kl", "gold_win_rate", *(f"{tax}_change" for tax in experiment.TAXES))}
        arms[f"{beta:g}/{ptx:g}"] = {
            **arm,
            **{f"{name}_ci": [0.25, 0.75] for name in arm},
            **{f"{tax}_before": 2.0 for tax in experiment.TAXES},
        }
    assert [(config.kl.coef, config.ptx.coef) for config in asked] == list(experiment.ARMS)
    table = experiment.table(arms)
    assert table.count("50.0 (25.0 to 75.0)") == len(experiment.ARMS)
    assert "| 0.02 | 0.5 | 0.5 (0.2 to 0.8) |" in table
