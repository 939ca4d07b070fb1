"""The preference stage on single responses with thumbs up or down: KTO learns from them, nothing else can."""

import json

import numpy as np
import pytest
import tiny_task

from rlhf_jax import report, stages
from rlhf_jax.data import DataError, Example
from rlhf_jax.data.batches import PackedEpochs
from rlhf_jax.stages import RunError, opinions
from rlhf_jax.stages.implicit_reward import reward_auc
from rlhf_jax.stages.opinions import Labels
from rlhf_jax.stages.preference import PreferenceBatches


def labelled(pairs):
    """The responses of pairs one by one, in the columns of KTO's data sets."""
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]


@pytest.fixture(scope="module")
def labels_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    tables = tiny_task.tables()
    for name, pairs in (("labels", tables["chosen"]), ("unseen", tables["unseen"])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled(pairs)))
    return folder


def config(labels_folder, out, policy, **changes):
    where = {"table": "labels", "prompts": tiny_task.DataConfig(source=""), "policy": policy}
    settings = {"objective": "kto", "hyperparameters": {"beta": 0.2}, "epochs": 3}
    return tiny_task.preference_config(labels_folder, out, **{**where, **settings, **changes})


@pytest.fixture(scope="module")
def kto_run(labels_folder, tmp_path_factory, folder, sft_run, one_device):
    return stages.preference(config(labels_folder, tmp_path_factory.mktemp("kto"), folder), mesh=one_device)


def test_before_the_first_update_every_response_is_worth_half(kto_run):
    """``1 - sigmoid(0)``, thumbs up or down: the policy is the reference, and the reference point is 0."""
    start, first = kto_run.metrics[0], kto_run.metrics[1]
    assert start["preference/heldout_loss"] == pytest.approx(0.5, abs=1e-6)
    assert first["preference/loss"] == pytest.approx(0.5, abs=1e-6)
    assert first["preference/reference_point"] == pytest.approx(0.0, abs=1e-6)


def test_thumbs_up_rises_above_thumbs_down(kto_run):
    last = [row for row in kto_run.metrics if "preference/heldout_loss" in row][-1]
    assert last["preference/heldout_loss"] < 0.45
    assert last["preference/heldout_desirable_reward"] > last["preference/heldout_undesirable_reward"] + 0.3
    held = {row["step"]: row["preference/heldout_loss"] for row in kto_run.metrics if "preference/heldout_loss" in row}
    assert kto_run.summary["heldout_loss"] == held[kto_run.summary["best_step"]] == min(held.values())


def test_the_summary_says_how_well_responses_that_were_not_trained_on_are_told_apart(kto_run, sft_run, labels_folder):
    summary = kto_run.summary
    rows = tiny_task.half(labels_folder / "unseen.jsonl", 1)
    assert summary["responses"] == len(rows) == 36
    assert summary["desirable"] == 0.5
    low, high = summary["label_auc_ci"]
    assert 0.6 < low <= summary["label_auc"] <= high <= 1
    assert not {"accuracy", "pairs"} & summary.keys()
    # The same figure from unpadded sequences: how often a liked response gained more than a disliked one.
    gained = np.array([alone(kto_run, row, kto_run.params) - alone(kto_run, row, sft_run.params) for row in rows])
    liked = np.array([row["label"] for row in rows])
    assert np.mean(gained[liked][:, None] > gained[~liked]) == pytest.approx(summary["label_auc"], abs=1e-3)


def alone(run, row, params):
    """Log-probability of one response given its prompt, on its own, nats."""
    import test_preference_stage

    return test_preference_stage.logprobs_alone(run, params["policy"], [row["prompt"]], [row["completion"]])[0]


def test_its_report_is_written(kto_run):
    page = report.write_report(kto_run.directory)
    assert "preference" in page.read_text()


@pytest.mark.parametrize("objective", ["dpo", "simpo", "orpo", "ipo", "cpo", "slic", "robust_dpo"])
def test_an_objective_of_pairs_is_refused_before_anything_is_written(
    labels_folder, tmp_path, folder, sft_run, objective
):
    refused = config(labels_folder, tmp_path / "run", folder, objective=objective, hyperparameters={})
    with pytest.raises(
        RunError, match=rf"labels\.jsonl holds single responses.*use kto.*objective {objective}: expected"
    ):
        stages.preference(refused)
    assert not (tmp_path / "run").exists()


def test_a_reward_model_is_not_trained_on_them(labels_folder, sft_run):
    with pytest.raises(DataError, match=r"expected comparisons or ratings, found single responses with labels"):
        opinions.comparisons(tiny_task.data(labels_folder, "labels"), sft_run.tokenizer, group_size=2, seed=0)


def test_labels_and_pairs_are_not_mixed(labels_folder, tmp_path, sft_run):
    rows = [*labelled(tiny_task.tables()["chosen"]), *tiny_task.tables()["chosen"]]
    (tmp_path / "both.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=r"both\.jsonl: expected only pairs, only rated responses or only labels"):
        opinions.preferences(tiny_task.data(tmp_path, "both"), sft_run.tokenizer, min_share=0.5, seed=0)


def test_every_epoch_has_every_response_once_in_an_order_of_its_own(labels_folder, sft_run):
    found = opinions.preferences(
        tiny_task.data(labels_folder, "labels", heldout=str(labels_folder / "unseen.jsonl")),
        sft_run.tokenizer,
        min_share=0.5,
        seed=0,
    )
    assert isinstance(found, Labels)

    def said(examples):
        return [(sft_run.tokenizer.decode_response(e.tokens[0][e.starts[0] :]), float(e.labels[0])) for e in examples]

    rows = [(row["completion"], float(row["label"])) for row in labelled(tiny_task.tables()["chosen"])]
    epochs = [said(found.epoch(n)) for n in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(rows)
    assert epochs[0] != epochs[1]
    assert said(found.epoch(0)) == epochs[0]
    assert len(found.heldout) == len(found.test) == 36


def test_the_mismatched_twin_of_a_single_response_is_another_row_s(labels_folder, sft_run):
    tokenizer = sft_run.tokenizer
    found = opinions.preferences(tiny_task.data(labels_folder, "labels"), tokenizer, min_share=0.5, seed=0)
    shape = {"rows": 4, "row_length": 32, "pad_id": tokenizer.pad_id}
    batch, other = PreferenceBatches(PackedEpochs(found.epoch, epochs=1, **shape), **shape)[0]
    assert batch.tokens.shape[1] == other.tokens.shape[1] == 1
    assert batch.label.shape == batch.tokens.shape[:2]

    def parts(one, b):
        real, mask = np.asarray(one.segment_ids[b, 0]) > 0, np.asarray(one.mask[b, 0])
        return one.tokens[b, 0][real & ~mask].tolist(), one.tokens[b, 0][mask].tolist()

    present = np.flatnonzero(batch.mask.any(-1).all(-1))
    joined = np.flatnonzero(other.mask.any(-1).all(-1))
    assert len(joined) >= len(present) - 2  # some joins may have no room
    for b, following in zip(joined, np.roll(present, -1), strict=False):
        prompt, response = parts(other, b)
        assert prompt == parts(batch, b)[0]
        assert response == parts(batch, following)[1]


def test_the_area_under_the_curve_counts_ties_half():
    def one(label):
        return Example((np.array([1, 5], np.int32),), (1,), labels=np.array([label], np.float32))

    up, down = one(1.0), one(0.0)
    found = reward_auc(np.array([3.0, 1.0, 1.0, 0.0]), [up, up, down, down])
    assert found["label_auc"] == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert (found["responses"], found["desirable"]) == (4, 0.5)
    assert reward_auc(np.array([1.0, 2.0]), [up, up]) == {"responses": 2, "desirable": 1.0}
    many = reward_auc(np.arange(2000.0), [up, down] * 1000)
    assert many["label_auc"] == pytest.approx(0.5, abs=0.01)
    assert many["label_auc_ci"][0] < 0.5 < many["label_auc_ci"][1]
