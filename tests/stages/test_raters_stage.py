"""Rows of named raters in the stages: gathered, weighed, filtered, and trained on."""

import dataclasses
import json

import numpy as np
import pytest
import tiny_task

from rlhf_jax import objectives, stages
from rlhf_jax.cli.parsing import override
from rlhf_jax.data import DataConfig, DataError, layouts
from rlhf_jax.data.parts import Parts
from rlhf_jax.losses import token_mean
from rlhf_jax.runs.made_of import of_rows
from rlhf_jax.stages import opinions
from rlhf_jax.stages.objective_loss import make_loss_fn
from rlhf_jax.stages.raters import gathered
from rlhf_jax.types import Loss, Outputs, SequenceBatch


def said(rater, preference, prompt="P", a="x", b="y", **more):
    row = {"prompt": prompt, "a": a, "b": b, "preference": preference, "rater": rater, **more}
    return layouts.judged(row, f"rows.jsonl:{rater}")


def parts(train, held=()):
    held = list(held) or train[:1]
    return Parts(train, held, held)


def config(raters="all", **changes):
    return DataConfig(source="rows.jsonl", raters=raters, **changes)


def many(accuracies, pairs, seed=0):
    """Rows of raters who are each right so often about pairs of which x is the better one, in either order."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(pairs):
        for k, accuracy in enumerate(accuracies):
            a, b = ("x", "y") if rng.random() < 0.5 else ("y", "x")
            better = "a" if (a == "x") == (rng.random() < accuracy) else "b"
            rows.append(said(f"r{k}", better, prompt=f"P{i}", a=a, b=b))
    return rows


def test_what_raters_say_of_a_pair_is_one_comparison_with_their_votes():
    rows = [said("ann", "a"), said("bo", "a", a="y", b="x"), said("cy", "tie"), said("ann", "b", prompt="Q")]
    found = gathered(parts(rows), config())
    assert [(row.prompt, row.responses, row.votes.tolist()) for row in found.train] == [
        ("P", ("x", "y"), [[0, 1.5], [1.5, 0]]),
        ("Q", ("x", "y"), [[0, 0], [1, 0]]),
    ]
    # Three rows count three times as much as one; on average a comparison counts 1.
    assert [row.weight for row in found.train] == [1.5, 0.5]
    assert not found.notes


def test_rows_without_a_rater_stay_as_they_are():
    """The same pair twice is two rows, as ever, and what a run is made of is the same."""
    row = layouts.judged({"prompt": "P", "a": "x", "b": "y", "preference": "a"}, "rows.jsonl:1")
    before = parts([row, row])
    assert gathered(before, config()).train == [row, row]
    rated = layouts.judged({"prompt": "P", "response": "x", "ratings": [1, 2]}, "rows.jsonl:1")
    assert gathered(parts([rated]), config()).train == [rated]
    # A field that only says where a row is from is no part of the run; who said it is.
    sourced = row._replace(said=layouts.judged({**_fields(row), "source": "web"}, "x:1").said)
    named = row._replace(said=layouts.judged({**_fields(row), "rater": "ann"}, "x:1").said)
    hashes = [of_rows("rows", parts([one]))["sha256"] for one in (row, sourced, named)]
    assert hashes[0] == hashes[1] != hashes[2]


def _fields(row):
    return {"prompt": row.prompt, "a": row.responses[0], "b": row.responses[1], "preference": "a"}


def test_ratings_by_several_raters_are_one_response_with_all_of_them():
    rows = [
        layouts.judged({"prompt": "P", "response": text, "rating": rating, "rater": rater}, "rows.jsonl:1")
        for text, rater, rating in (("x", "ann", 5), ("x", "bo", 4), ("y", "ann", 1))
    ]
    found = gathered(parts(rows), config()).train
    assert [(row.response, row.ratings.tolist()) for row in found] == [("x", [5, 4]), ("y", [1])]
    # Weighed, ratings are the comparisons that a rater makes: bo has made none.
    weighed = gathered(parts(rows, rows), config("weight")).train
    assert [(row.responses, row.votes[1, 0]) for row in weighed] == [(("x", "y"), 0)]


def test_a_vote_weighs_what_its_rater_is_beyond_chance_times_confidence():
    rows = [*many([0.95, 0.95, 0.7, 0.5], 400), said("r0", "a", prompt="Q", confidence=0.5)]
    found = gathered(parts(rows), config("weight")).train
    assert len(found) == 401
    mean = found[-1].weight / found[-1].votes[0, 1]  # one vote, before and after the mean of all was made 1
    weights = {}
    for row, own in zip(found[:-1], _chunks(rows[:-1], 4), strict=True):
        first = [r for r, o in enumerate(own) if (o.responses == row.responses) == (o.votes[0, 1] > 0)]
        weights.setdefault(tuple(first), row.votes[0, 1])
    assert weights[0, 1] == pytest.approx(2 * 0.9, abs=0.1)  # 2 accuracy - 1 each
    assert weights[0, 1, 2] - weights[0, 1] == pytest.approx(0.4, abs=0.1)
    assert weights[0, 1, 3] - weights[0, 1] == pytest.approx(0.0, abs=0.1)
    assert found[-1].votes[0, 1] == pytest.approx(0.5 * 0.9, abs=0.05)
    assert mean == pytest.approx(found[0].weight / found[0].votes.sum(), rel=1e-5)
    assert np.mean([row.weight for row in found]) == pytest.approx(1)


def test_what_a_rater_said_last_of_a_pair_is_their_vote():
    """As agreement is measured; with ``all`` every row is one vote."""
    rows = [said("ann", "b", time=20), said("ann", "a", a="y", b="x", time=30), said("ann", "a", time=10)]
    rows += [said("bo", "b")]
    assert gathered(parts(rows), config("all")).train[0].votes.tolist() == [[0, 1], [3, 0]]
    (one,) = gathered(parts(rows), config("filter")).train
    assert (one.responses, one.votes.tolist()) == (("y", "x"), [[0, 2], [0, 0]])
    (one,) = gathered(parts(rows), config("weight")).train
    assert one.responses == ("y", "x")
    assert one.votes[1, 0] == 0 < one.votes[0, 1]


def _chunks(rows, size):
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def test_who_disagrees_with_known_answers_is_left_out_by_name(capsys):
    answers = (("ann", "a"), ("bo", "b"))
    golden = [said(who, better, prompt=f"G{i}", golden="a") for i in range(6) for who, better in answers]
    rows = [said("ann", "a"), said("bo", "b"), said("bo", "b", prompt="Q"), said("cy", "b")]
    found = gathered(Parts(rows, rows[:1], rows[:1], golden=tuple(golden)), config("filter"))
    assert [row.votes.tolist() for row in found.train] == [[[0, 1], [1, 0]]]
    notes = [
        "rows.jsonl: 12 rows with known answers (golden) measure raters and are neither trained on nor held out",
        "rows.jsonl: rater 'bo' is left out: agreement 0.00 with the golden answers on 6 pairs, below 0.7",
        "rows.jsonl: too little is known of 'cy' to leave anybody out, so they stay",
        "rows.jsonl: 1 comparisons are left out: nobody who counts has given them",
    ]
    assert list(found.notes) == notes
    assert capsys.readouterr().err.splitlines() == [f"warning: {note}" for note in notes]
    assert found.left_out == 13
    # All of them would stay with another bound, and without golden answers the others' majority decides.
    lenient = gathered(Parts(rows, rows[:1], rows[:1], golden=tuple(golden)), config("filter", rater_agreement=1e-3))
    assert not any("cy' is left out" in note for note in lenient.notes)
    by_others = gathered(parts(many([0.95, 0.95, 0.5], 100)), config("filter"))
    assert "rater 'r2' is left out: agreement 0." in by_others.notes[0]
    assert "with the majority of the others on " in by_others.notes[0]


def test_held_out_rows_count_as_those_of_training_do():
    """A rater who is measured nowhere counts as the mean of the others."""
    train = many([0.95, 0.95, 0.95, 0.5], 300)
    held = [said("r3", "a", prompt="H"), said("r0", "b", prompt="H"), said("new", "a", prompt="H")]
    found = gathered(parts(train, held), config("weight"))
    assert found.validation is found.test
    votes = found.test[0].votes
    assert votes[1, 0] == pytest.approx(0.9, abs=0.06)
    assert votes[0, 1] == pytest.approx(0.675, abs=0.08)  # r3 counts for nothing, the mean of the four is 0.675


def test_raters_that_rows_do_not_name_cannot_be_weighed_or_left_out():
    row = layouts.judged({"prompt": "P", "a": "x", "b": "y", "preference": "a"}, "rows.jsonl:8")
    for how in ("weight", "filter"):
        with pytest.raises(DataError, match=rf"rows\.jsonl:8: field 'rater': expected who said this, .*'{how}'"):
            gathered(parts([said("ann", "a"), row]), config(how))
    label = layouts.judged({"prompt": "P", "response": "x", "label": True, "rater": "ann"}, "rows.jsonl:9")
    with pytest.raises(DataError, match=r"rows\.jsonl:9: data\.raters 'filter' is for comparisons"):
        gathered(parts([label]), config("filter"))
    with pytest.raises(DataError, match=r"leaves no row to train on; use --data\.raters all"):
        gathered(parts([said("ann", "a", confidence=0)]), config("weight"))
    with pytest.raises(ValueError, match=r"data\.rater_agreement 0\.8: only --data\.raters filter reads it"):
        config("weight", rater_agreement=0.8)


def test_raters_who_never_meet_all_count_the_same():
    found = gathered(parts([said("ann", "a"), said("bo", "b", prompt="Q")]), config("weight"))
    assert [row.votes.sum() for row in found.train] == [1, 1]
    assert "no pair has two raters or a golden answer" in found.notes[0]


def test_rankings_by_several_raters_are_one_group():
    one = {"prompt": "P", "responses": ["x", "y", "z"], "ranking": [1, 2, 3], "rater": "ann"}
    two = {"prompt": "P", "responses": ["z", "x", "y"], "ranking": [1, 2, 2], "rater": "bo"}
    found = gathered(parts([layouts.judged(row, "r:1") for row in (one, two)]), config()).train
    assert [(row.responses, row.votes.tolist()) for row in found] == [
        (("x", "y", "z"), [[0, 1.5, 1], [0.5, 0, 1], [1, 1, 0]])
    ]


def test_the_weight_of_a_group_multiplies_its_loss_and_no_metric():
    values = np.array([1.0, 10.0], np.float32)
    counted = np.ones(2, bool)

    def objective(outputs, batch):
        return Loss(values, counted, token_mean, {"value": (values, counted)})

    ids = np.ones((2, 1, 1), np.int32)
    batch = SequenceBatch(ids, ids > 0, ids, ids - 1)
    fn = make_loss_fn(objective, {})
    plain, (weight, metrics) = fn({}, batch, None)
    heavy, (same, own) = fn({}, batch._replace(weight=np.array([0.5, 1.5], np.float32)), None)
    assert (float(plain), float(heavy), float(weight), float(same)) == (11.0, 15.5, 2.0, 2.0)
    assert float(metrics["value"][0]) == float(own["value"][0]) == 11.0


def test_votes_gathered_are_the_loss_of_the_rows_apart():
    """Three raters of one pair and one of another: four rows, or two with the weights that they get."""
    apart = [said("ann", "a"), said("bo", "b"), said("cy", "a"), said("ann", "b", prompt="Q")]
    together = gathered(parts(apart), config()).train
    scores = {"P": (0.3, -0.8), "Q": (-0.2, 1.1)}

    def loss(rows):
        ids = np.ones((len(rows), 2, 1), np.int32)
        votes, weight = np.stack([row.votes for row in rows]), np.array([row.weight for row in rows], np.float32)
        batch = SequenceBatch(ids, ids > 0, ids, ids - 1, votes=votes, weight=weight)
        outputs = Outputs(scores=np.array([scores[row.prompt] for row in rows], np.float32))
        fn = make_loss_fn(lambda _, batch: objectives.reward_model(outputs, batch, center=0.1), {})
        numerator, (denominator, _) = fn({}, batch, None)
        return float(numerator / denominator)

    assert loss(together) == pytest.approx(loss(apart), rel=1e-6)


def test_raters_is_an_option_of_the_stages_that_read_opinions():
    for name, default in (("reward", stages.RewardConfig()), ("preference", stages.PreferenceConfig())):
        words = ["--data.source", "rows.jsonl", "--raters", "weight"]
        assert override(default, name, words).data.raters == "weight"
        assert override(default, name, ["--data.source", "rows.jsonl", "--raters=filter"]).data.raters == "filter"


def test_a_reward_model_learns_from_the_votes_of_those_who_agree(tables, tmp_path, sft_run, folder, one_device):
    """Two raters know, three answer the opposite: unfiltered their majority is learned, filtered it is not.

    One of the two has seen half of the pairs, so that pairs weigh differently, in an ensemble and in parts of a batch.
    """
    rows = [json.loads(line) for line in (tables / "chosen.jsonl").read_text().splitlines()]
    made = []
    for i, row in enumerate(rows):
        for k, rater in enumerate(("ann", "bo", "cy", "dot", "eve")[:: -1 if i % 2 else 1]):
            if rater == "bo" and i % 2 and i > 5:
                continue
            a, b = (row["chosen"], row["rejected"]) if (i + k) % 2 else (row["rejected"], row["chosen"])
            better = "a" if (a == row["chosen"]) == (rater in ("ann", "bo")) else "b"
            golden = {"golden": "a" if a == row["chosen"] else "b"} if i < 6 else {}
            made.append({"prompt": row["prompt"], "a": a, "b": b, "preference": better, "rater": rater, **golden})
    (tmp_path / "rated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    base = tiny_task.reward_config(tmp_path, tmp_path / "run", init=folder, table="rated", members=2, micro_batches=2)
    filtered = dataclasses.replace(base, data=dataclasses.replace(base.data, raters="filter"))
    result = stages.reward_model(filtered, mesh=one_device)
    assert result.summary["accuracy"] == 1.0
    assert result.summary["rows"] == {"trained": 26, "held_out": 2, "test": 2, "left_out": 30}
    warnings = result.summary["warnings"]
    assert sum("is left out: agreement 0.00 with the golden answers on 6 pairs" in text for text in warnings) == 3
    scorer = stages.Scorer.load(tmp_path / "run")
    prompts, good, bad = ([row[field] for row in rows] for field in ("prompt", "chosen", "rejected"))
    assert (scorer(prompts, good) > scorer(prompts, bad)).mean() > 0.9
    # How raters count is part of the run.
    with pytest.raises(stages.RunError, match="raters"):
        stages.reward_model(base, mesh=one_device)
    # Preference optimisation reads the same rows, as pairs whose majority comes first.
    data = dataclasses.replace(filtered.data, raters="weight")
    pairs = opinions.preferences(data, result.tokenizer, min_share=0.5, seed=0).epoch(0)
    assert len(pairs) == 26
    assert len({pair.weight for pair in pairs}) == 2  # one rater, or two
    assert all(pair.votes[1, 0] == 0 for pair in pairs)
