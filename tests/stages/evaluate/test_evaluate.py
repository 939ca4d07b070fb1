"""``rlhf evaluate``: a thousand pairs counted by hand, layouts, subsets, golden items, ensembles and judges."""

import json

import numpy as np
import pytest
import tiny_task

from rlhf_jax import cli
from rlhf_jax.data import write_jsonl


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def thousand():
    """A thousand pairs: half of them either way round, some ties, some of the same two responses."""
    rng = np.random.default_rng(5)
    both = tiny_task.GOOD + tiny_task.BAD
    rows = []
    for i in range(1000):
        a, b = tiny_task.sentence(rng, both), tiny_task.sentence(rng, both)
        if i % 50 == 0:
            b = a  # the scores are equal, to the bit
        better = "a" if a.count("a") >= b.count("a") else "b"
        row = {"prompt": f"The {tiny_task.ANIMALS[i % 12]} {i}", "a": a, "b": b}
        rows.append({**row, "preference": (better, better, 0.7, "tie", 0.2)[i % 5], "meta": {"kind": "xyz"[i % 3]}})
    return rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_jsonl(file, thousand())
    return file


def test_a_thousand_pairs_are_what_counting_the_output_of_score_gives(reward_run, folder, pairs, tmp_path, capsys):
    """Counted from ``rlhf score``'s file, without any of the functions that evaluate: exactly the same."""
    scored, figures = tmp_path / "scored.jsonl", tmp_path / "figures.json"
    assert cli.run(["score", str(folder), "--input", str(pairs), "--to", str(scored)]) == 0
    words = ["evaluate", str(folder), "--data", str(pairs), "--by", "meta.kind", "--json", str(figures)]
    assert cli.run(words) == 0
    found = json.loads(figures.read_text())
    rows = read(scored)
    assert len(rows) == 1000
    right, kinds, gaps, shares, ties = [], [], [], [], []
    for row in rows:
        # `score` calls chosen what people prefer, the first where they tie.
        gap = np.float64(row["chosen_score"]) - np.float64(row["rejected_score"])
        share = {"a": 1.0, "b": 1.0, "tie": 0.5, 0.7: 0.7, 0.2: 0.8}[row["preference"]]
        gaps.append(gap)
        shares.append(share)
        if share == 0.5:
            ties.append(gap)
            continue
        right.append(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0)
        kinds.append(row["meta"]["kind"])
    right, kinds = np.array(right), np.array(kinds)
    assert found["n"] == len(right) == 800
    assert found["ties"] == len(ties) == 200
    assert found["accuracy"] == right.mean()
    assert 0.55 < found["accuracy"] < 1
    assert found["even_scores"] == (right == 0.5).sum() > 0
    assert found["accuracy_ci"][0] < found["accuracy"] < found["accuracy_ci"][1]
    assert {kind: part["n"] for kind, part in found["by"].items()} == {k: (kinds == k).sum() for k in "xyz"}
    for kind in "xyz":
        assert found["by"][kind]["accuracy"] == right[kinds == kind].mean()
    # Calibration by hand: ten bins of what the model gives to the side that it prefers.
    gaps, shares = np.array(gaps), np.array(shares, np.float32).astype(np.float64)
    confidence = 1 / (1 + np.exp(-np.abs(gaps)))
    seen = np.where(gaps == 0, 0.5, np.where(gaps > 0, shares, 1 - shares))
    bins = np.minimum(((confidence - 0.5) * 20).astype(int), 9)
    ece = sum(abs(confidence[bins == b].mean() - seen[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert found["ece"] == pytest.approx(ece, abs=1e-7)
    near = (np.abs(1 / (1 + np.exp(-np.array(ties))) - 0.5) < 0.1).mean()
    assert found["ties_near"] == pytest.approx(near)
    assert found["worst"] in "xyz"
    said = capsys.readouterr().out
    assert f"{found['accuracy']:.1%}" in said
    assert f"worst subset: {found['worst']}" in said
