"""What the experiment on Constitutional AI counts, by hand, and its judge; nothing is trained."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.data.readers.jsonl import read_jsonl
from rlhf_jax.feedback import judged, read_principles
from rlhf_jax.stages.constitution.examples import Shown, read_examples

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "experiments"))
constitutional, figures = (importlib.import_module(name) for name in ("constitutional", "constitutional_figures"))


def chain(first, response, *did):
    steps = [{"did": one, "critique": "It is odd."} for one in did]
    return {"prompt": "p", "first": first, "response": response, "chain": steps}


def test_the_figures_of_revisions_by_hand():
    rows = [
        chain("a", "b", "echo", "revised"),
        chain("c", "c", "echo", "echo"),
        chain("d", "e", "revised", "unfinished"),
        chain("f", "g", "revised", "echo"),
    ]
    summary = {"rounds": [], "words_first": 1.0, "words": 1.0}
    rows[0]["chain"][1]["critique"] = "It is Rude."
    shown = [Shown("Hi.", "No.", "It is rude.", "Yes.")]
    before, after = np.array([-1.0, -0.5, 0.5, -1.0]), np.array([1.0, -0.5, 0.0, -2.0])
    found = figures.revision_figures(rows, summary, before, after, shown)
    assert found["copied"] == 0.125
    shares = {name: found[name][0] for name in ("revised", "echoes", "better", "worse", "fall")}
    assert shares == {"revised": 0.75, "echoes": 0.5, "better": 0.25, "worse": 0.5, "fall": -0.25}
    assert found["taken_better"][0] == pytest.approx(1 / 3)
    assert (found["violations_before"][0], found["violations_after"][0]) == (0.75, 0.5)
    assert found["did"] == {"echo": 0.5, "revised": 0.375, "unfinished": 0.125}
    assert "| all | 4 | 75.0%" in figures.revision_table({"all": found})


def test_the_judge_asks_by_the_principle_that_is_drawn():
    principles = read_principles(constitutional.PRINCIPLES)
    asked = []

    class Model:
        def choose(self, questions, answers):
            asked.extend((question, tuple(answers)) for question in questions)
            return np.array([[0.8, 0.2] if "good" in question else [0.2, 0.8] for question in questions])

    prompts = [f"Write a tweet. So {i}" for i in range(12)]
    votes = judged(
        constitutional.by_principle(Model(), principles, 0), prompts, [["is good", "is bad"]] * 12, called="it"
    ).votes
    np.testing.assert_allclose(votes[:, 0, 1], 16 / 17, rtol=1e-5)  # odds of 4 to 1, against odds of 1 to 4
    words = {prompt: constitutional.COMPLETED[principles.draw(0, prompt).name] for prompt in prompts}
    assert len(set(words.values())) == 2
    assert sorted(asked) == sorted(
        (f"Text: {prompt.removeprefix('Write a tweet. ')} is {how}\n{label}:", tuple(both))
        for prompt, (label, *both) in words.items()
        for how in ("good", "bad")
    )


def test_the_files_of_the_experiment_are_read():
    principles = read_principles(constitutional.PRINCIPLES)
    assert {one.name for one in principles.all} == set(constitutional.COMPLETED)
    assert len(read_examples(str(constitutional.EXAMPLES), principles, critique=True)) == 2


def test_rows_of_one_prompt_are_cut_into_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(constitutional.human_sentiment, "judges", lambda: {"gold": lambda prompts, responses: []})
    x = constitutional.Experiment(tmp_path, constitutional.FAST, "none", 0)
    rows = [{"prompt": "Write a tweet.", "response": f"It is {i}."} for i in range(20)]
    config = x.task("sft", rows, "demonstrations", "demonstration")
    parts = constitutional.stages.sources.demonstrations(config)
    assert (len(parts.train), len(parts.validation)) == (18, 2)
    assert read_jsonl(tmp_path / "sft" / "rows.jsonl", lambda row, where: row["response"])[0][0] == "It is 0."
