"""Rounds: what is chosen, who labels it, what is retrained on what, and how a stopped run goes on."""

import json
import shutil

import pytest
from rounds_task import base, rounds_config
from tiny_task import count_a

from rlhf_jax import stages


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return base(tmp_path_factory.mktemp("rounds"))


@pytest.fixture
def folder(start, tmp_path):
    shutil.copytree(start, tmp_path / "all")
    return tmp_path / "all"


def run(folder, **changes):
    return stages.rounds(rounds_config(folder, **changes), judges={"gold": count_a})


def test_two_rounds_go_on_from_each_other_on_the_union(folder):
    result = run(folder, rounds=2)
    assert [each["round"] for each in result.rounds] == [1, 2]
    for number in (1, 2):
        here = folder / "rounds" / f"round{number}"
        drawn, pairs, labels = (lines(here / f"{name}.jsonl") for name in ("drawn", "pairs", "labels"))
        # The present policy and the one before it, two samples each.
        assert {name for row in drawn for name in row["policies"]} == {"start", "round1"} - (
            {"round1"} if number == 1 else set()
        )
        assert len(pairs) == len(labels) == result.rounds[number - 1]["pairs"]
        for pair, row in zip(pairs, labels, strict=True):
            a, b = count_a(None, [pair["a"], pair["b"]])
            assert row["preference"] == (0.5 if a == b else float(a > b))
            assert (row["rater"], row["source"], row["round"]) == ("gold", "judge", number)
        # Held-out pairs are not trained on, and the old ones are.
        config = json.loads((here / "made_of.json").read_text())["reward"]["made_of"]["data"]["is"]
        trained = sum(
            not pair["heldout"]
            for n in range(1, number + 1)
            for pair in lines(folder / "rounds" / f"round{n}" / "pairs.jsonl")
        )
        assert f"({16 + trained} training" in config
    made_of = json.loads((folder / "rounds" / "round2" / "made_of.json").read_text())["ppo"]["made_of"]
    assert made_of["policy"]["is"].endswith("round1:ppo")
    assert made_of["reference"]["is"].endswith("base")
    assert result.rounds[1]["policy"]["kl"] != 0
    assert result.last == folder / "rounds" / "round2"
