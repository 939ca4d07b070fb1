"""The reward model on a tiny task, from every kind of row that says which response people prefer."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import checkpoint, losses, stages
from rlhf_jax.data import DataError
from rlhf_jax.models import LoRAConfig
from rlhf_jax.runs.loading import start_from
from rlhf_jax.stages import RunError, Scorer, opinions
from rlhf_jax.stages.reward_model import with_head
from rlhf_jax.types import Loss

GOOD = ["sat a far", "ran vast bath", "had ate a"]
BAD = ["rose the low", "fell hop went", "low the hop"]
PROMPTS = ["The cat and", "The dog or", "The hen with"]


def test_a_model_trained_on_pairs_prefers_what_was_chosen(reward_run, folder):
    assert reward_run.summary["accuracy"] == 1.0
    low, high = reward_run.summary["accuracy_ci"]
    assert low <= 1.0 <= high
    scorer = Scorer.load(folder)
    assert (scorer(PROMPTS, GOOD) > scorer(PROMPTS, BAD)).all()
    losses = [row["reward/loss"] for row in reward_run.metrics]
    # The head starts at zero, so the first loss is that of indifference, log 2.
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[-1] < 0.4


def test_every_evaluation_logs_level_and_spread_of_the_held_out_scores(reward_run):
    """At the best step the model is the one that is left: its scores of the validation rows are the figures."""
    rows = {row["step"]: row for row in reward_run.metrics if "reward/heldout_loss" in row}
    assert all(np.isfinite(row["reward/heldout_reward_mean"]) for row in rows.values())
    assert all(row["reward/heldout_reward_std"] > 0 for row in rows.values())
    assert len({row["reward/heldout_reward_std"] for row in rows.values()}) == len(rows)
    data, tokenizer = reward_run.config.data, reward_run.tokenizer
    held = opinions.comparisons(data, tokenizer, group_size=2, seed=0).heldout(1)
    scores = Scorer(reward_run.model_config, reward_run.params, tokenizer).score_tokens(held.sequences)
    best = rows[reward_run.summary["best_step"]]
    assert best["reward/heldout_reward_std"] == pytest.approx(scores.std(), rel=1e-4)
    assert best["reward/heldout_reward_mean"] == pytest.approx(scores.mean(), abs=1e-4)


def test_a_group_that_fits_into_no_batch_is_said_before_anything_is_written(
    tables, tmp_path, sft_run, folder, one_device
):
    """Four responses of one prompt in one row: the right command must find the folder as it was."""
    config = tiny_task.reward_config(tables, tmp_path / "new", init=folder, table="ratings", rows=1)
    with pytest.raises(ValueError, match=r"does not fit in 1 rows of 32 tokens.*so \d rows or longer ones.*--rows"):
        stages.reward_model(config, mesh=one_device)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("table", ["preference", "ratings"])
def test_soft_labels_and_ratings_train_it_as_well(tables, tmp_path, sft_run, folder, one_device, table):
    config = tiny_task.reward_config(tables, tmp_path, init=folder, table=table, epochs=6, patience=0)
    result = stages.reward_model(config, mesh=one_device)
    # Pairs about which people agree; of the ratings there are 19, among six responses: 16 or 18 are right by the seed.
    assert result.summary["accuracy_decided"] >= 0.8
    scorer = Scorer.load(tmp_path)
    prompts = ["About the cat"] * 3 if table == "ratings" else PROMPTS
    assert scorer(prompts, GOOD).mean() > scorer(prompts, BAD).mean() + 0.5
    assert result.tokenizer.to_json() == sft_run.tokenizer.to_json()


def test_it_starts_from_the_sft_weights_and_leaves_them_alone(sft_run, reward_run, folder):
    summary = json.loads((folder / "summary.json").read_text())
    assert (
        checkpoint.tree_sha256(checkpoint.load_params(folder / "params" / "sft")[0]) == summary["params_sha256"]["sft"]
    )
    before, after = sft_run.params["policy"], reward_run.params["reward"]
    assert after.keys() - before.keys() == {"head"}
    moved = np.linalg.norm(after["embedding"] - before["embedding"]) / np.linalg.norm(before["embedding"])
    assert 0 < moved < 0.8  # two random initialisations would be 1.4 apart


def test_training_goes_on_from_a_reward_model_with_its_head(reward_run, folder, one_device):
    start = start_from(f"{folder}:reward", LoRAConfig(), mesh=one_device, seed=0, scores=True)
    begun = with_head(start.params, reward_run.model_config, start.head)
    jax.tree.map(np.testing.assert_array_equal, begun, reward_run.params["reward"])
    with pytest.raises(RunError, match="stage 'reward' has no policy"):
        start_from(f"{folder}:reward", LoRAConfig(), mesh=one_device, seed=0)


def test_a_finished_stage_is_returned_without_work_and_another_config_refused(reward_run, idle):
    again = stages.reward_model(reward_run.config)
    jax.tree.map(np.testing.assert_array_equal, again.params, reward_run.params)
    with pytest.raises(RunError, match=r"reward stage of another config.*margin"):
        stages.reward_model(dataclasses.replace(reward_run.config, margin=0.5))


def test_a_folder_without_a_policy_says_what_it_holds(tables, tmp_path):
    with pytest.raises(RunError, match=r"no finished sft stage in .*nowhere: there is no such folder"):
        stages.reward_model(tiny_task.reward_config(tables, tmp_path, init=tmp_path / "nowhere"))


def test_pairs_and_ratings_in_one_file_are_refused(tables, tmp_path, sft_run, folder):
    mixed = (tables / "chosen.jsonl").read_text() + (tables / "ratings.jsonl").read_text()
    (tmp_path / "mixed.jsonl").write_text(mixed)
    config = tiny_task.reward_config(tmp_path, tmp_path / "run", init=folder, table="mixed")
    with pytest.raises(DataError, match=r"mixed\.jsonl: expected only pairs, only rated responses or only labels"):
        stages.reward_model(config)


def test_a_single_response_to_every_prompt_is_an_error_and_nothing_is_written(tables, tmp_path, sft_run, folder):
    """Nothing compares them; two responses to a prompt are a group, however large ``group_size`` is."""
    rows = [json.loads(line) for line in (tables / "ratings.jsonl").read_text().splitlines()]
    alone = [{**row, "prompt": f"{row['prompt']} {i}"} for i, row in enumerate(rows)]
    (tmp_path / "ratings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alone))
    config = tiny_task.reward_config(tmp_path, tmp_path / "run", init=folder, table="ratings", group_size=7)
    with pytest.raises(DataError, match=r"ratings\.jsonl: no prompt has 2 rated responses"):
        stages.reward_model(config)
    assert not (tmp_path / "run").exists()


def test_a_bad_pair_names_file_line_and_field(tables, tmp_path, sft_run, folder):
    lines = (tables / "chosen.jsonl").read_text().splitlines()
    lines[4] = json.dumps({"prompt": "x", "chosen": "y", "rejected": None})
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    config = tiny_task.reward_config(tmp_path, tmp_path / "run", init=folder, table="bad")
    with pytest.raises(DataError, match=r"bad\.jsonl:5: field 'rejected': .*None"):
        stages.reward_model(config)


def hinge(outputs, batch, *, margin=1.0, center=0.25):
    """An objective of a user's own, whose hyperparameters have the names of two fields of the config."""
    scores = outputs.scores
    gap = scores[:, 0] - scores[:, 1]
    counted = batch.mask.any(-1).all(-1)
    given = (jnp.full_like(gap, margin), counted), (jnp.full_like(gap, center), counted)
    return Loss(
        jnp.maximum(0.0, margin - gap), counted, losses.token_mean, dict(zip(("margin", "center"), given, strict=True))
    )


def test_an_objective_of_ones_own_keeps_its_defaults_unless_the_field_is_set(
    tables, tmp_path, sft_run, folder, one_device
):
    """``margin`` and ``center`` of the config are those of Bradley-Terry."""
    for name, fields, expected in (("own", {}, (1.0, 0.25)), ("set", {"margin": 0.5}, (0.5, 0.25))):
        config = tiny_task.reward_config(tables, tmp_path / name, init=folder, epochs=1, **fields)
        first = stages.reward_model(config, objective=hinge, mesh=one_device).metrics[0]
        assert (first["reward/margin"], first["reward/center"]) == pytest.approx(expected)
