"""``rlhf revise``: its options are the config's fields, what it prints, and what it says of a mistake."""

from __future__ import annotations

import json

import pytest

from rlhf_jax import stages
from rlhf_jax.cli import run
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.constitution.summary import summarised


def chain(response, *did):
    steps = [{"principle": "kind", "critique": "", "revision": response, "did": one} for one in did]
    return {"prompt": "Hi.", "response": response, "first": "No.", "sample": 0, "chain": steps}


def test_the_options_are_the_config_and_the_figures_are_printed(tmp_path, monkeypatch, capsys):
    asked = []

    def revise(config):
        asked.append(config)
        rows = [chain("Yes, please.", "echo", "revised"), chain("No.", "echo", "echo")]
        return stages.Revised(tmp_path / "rows.jsonl", rows, {"principles": "0123", **summarised(rows)})

    monkeypatch.setattr(stages, "revise", revise)
    words = ["revise", "runs/mine:ppo", "--principles", "kind.txt", "--to", "rows.jsonl", "--no-critique", "--n", "3"]
    words += ["--revise-tokens", "9", "--temperature", "0.5", "--keep", "revised", "--reviser", "runs/other"]
    assert run(words) == 0
    assert asked == [
        stages.ReviseConfig(
            source="runs/mine:ppo",
            principles="kind.txt",
            to="rows.jsonl",
            critique=False,
            samples=3,
            keep="revised",
            reviser="runs/other",
            sampling=SamplingConfig(max_new_tokens=48, temperature=0.5),
            revising=SamplingConfig(max_new_tokens=9, temperature=0.7),
        )
    ]
    said = capsys.readouterr().out
    assert "2 responses; 50.0% (" in said
    assert "round 1: echo 100.0%\nround 2: revised 50.0%, echo 50.0%" in said
    assert "kind: drawn 4 times, 25.0% of the revisions taken" in said


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"--to": "rows.txt"}, "to must name a .jsonl file, found 'rows.txt'"),
        ({"--principles": "none.txt"}, "none.txt: cannot be read: no such file or directory"),
        ({}, "name who revises them with --reviser RUN"),
        ({"--reviser": "none"}, "none"),
    ],
)
def test_a_mistake_is_said_in_a_sentence(changes, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "said.jsonl").write_text(json.dumps({"prompt": "Hi.", "response": "No."}) + "\n")
    (tmp_path / "kind.txt").write_text("kind: It is kind.")
    options = {"--principles": "kind.txt", "--to": "rows.jsonl", **changes}
    assert run(["revise", "said.jsonl", *(word for pair in options.items() for word in pair)]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "rows.jsonl").exists()
    assert not (tmp_path / "rows.revisions").exists()
