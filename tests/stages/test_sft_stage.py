"""SFT on a tiny task: what it returns and leaves behind, and what it says about rows and folders it cannot use."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import checkpoint, stages
from rlhf_jax.data import DataError
from rlhf_jax.stages import RunError
from rlhf_jax.training import OptimizerConfig


def test_the_loss_falls_and_the_best_parameters_are_returned(sft_run):
    losses = [row["sft/loss"] for row in sft_run.metrics]
    assert losses[0] == pytest.approx(math.log(sft_run.tokenizer.vocab_size), abs=0.2)  # untrained: uniform
    assert losses[-1] < losses[0] - 0.5
    held = {row["step"]: row["sft/heldout_loss"] for row in sft_run.metrics if "sft/heldout_loss" in row}
    assert sft_run.summary["heldout_loss"] == min(held.values())
    assert held[sft_run.summary["best_step"]] == min(held.values())
    assert sft_run.summary["parameters"] == sum(x.size for x in jax.tree.leaves(sft_run.params["policy"]))
    assert [row["step"] for row in sft_run.metrics] == list(range(1, sft_run.summary["steps"] + 1))


def test_two_tenths_of_the_prompts_are_held_out_with_all_their_rows(sft_run):
    # 36 prompts of two rows each: three prompts choose the best checkpoint, three are for final figures.
    assert sft_run.summary["training_rows"] == 2 * (36 - 3 - 3)


def test_the_run_folder_holds_what_the_result_holds(sft_run):
    folder = sft_run.directory
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["sft"] == sft_run.summary
    assert summary["params_sha256"]["sft"] == checkpoint.tree_sha256(sft_run.params)
    assert {"seed", "seconds", "peak_rss_mib", "versions"} <= summary.keys()
    written = json.loads(json.dumps(dataclasses.asdict(sft_run.config)))
    assert json.loads((folder / "config.json").read_text())["sft"] == written
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row for row in rows if row["stage"] == "sft"] == sft_run.metrics
    assert list((folder / "events").rglob("*tfevents*"))
    assert not list(folder.rglob("*.tmp"))


def test_a_finished_stage_is_returned_without_work(sft_run, idle):
    again = stages.sft(sft_run.config)
    jax.tree.map(np.testing.assert_array_equal, again.params, sft_run.params)
    assert again.metrics == sft_run.metrics
    assert again.summary == sft_run.summary
    assert again.tokenizer.to_json() == sft_run.tokenizer.to_json()
    # Where checkpoints are made and on which devices has no say in the result.
    elsewhere = dataclasses.replace(sft_run.config, checkpoint_every=7, keep_checkpoints=1)
    assert stages.sft(elsewhere).summary == sft_run.summary


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "seed"),
        ({"epochs": 9}, "epochs"),
        (
            {"optimizer": OptimizerConfig(learning_rate=0.5, weight_decay=0.1)},
            "learning_rate",
        ),
        ({"model": dataclasses.replace(tiny_task.MODEL, n_layers=3)}, "n_layers"),
    ],
    ids=["seed", "epochs", "optimizer", "model"],
)
def test_another_config_in_the_same_folder_is_refused_with_the_field_named(sft_run, idle, change, field):
    with pytest.raises(RunError, match=rf"sft stage of another config.*{field}.*--out") as caught:
        stages.sft(dataclasses.replace(sft_run.config, **change))
    assert str(sft_run.directory) in str(caught.value)


def rows_with(tables, bad):
    """The demonstrations with bad lines in the third and fourth place."""
    lines = (tables / "demonstrations.jsonl").read_text().splitlines()
    return "\n".join([*lines[:2], *bad, *lines[2:]]) + "\n"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ('{"prompt": "x", "response": 3}', r"bad\.jsonl:3: field 'response': expected .* found 3"),
        ('{"prompt": "x"}', r"bad\.jsonl:3: field 'response'"),
        ('{"prompt": "", "response": "y"}', r"bad\.jsonl:3: field 'prompt': expected non-empty"),
        ("{not json", r"bad\.jsonl:3: "),
        (json.dumps({"prompt": "x", "response": "word " * 99}), r"bad\.jsonl:3: .*32"),
    ],
    ids=["type", "missing", "empty", "not json", "too long"],
)
def test_a_bad_row_names_file_line_and_field(tables, tmp_path, one_device, bad, says):
    (tmp_path / "bad.jsonl").write_text(rows_with(tables, [bad]))
    config = tiny_task.sft_config(tables, tmp_path / "run")
    config = dataclasses.replace(config, data=tiny_task.data(tmp_path, "bad"))
    with pytest.raises(DataError, match=says):
        stages.sft(config, mesh=one_device)
    assert not (tmp_path / "run" / "params").exists()


def test_skipped_rows_are_counted_and_listed_and_change_nothing_else(tables, tmp_path, one_device, sft_run, capsys):
    bad = ['{"prompt": "x"}', json.dumps({"prompt": "The cat and", "response": "word " * 99})]
    (tmp_path / "bad.jsonl").write_text(rows_with(tables, bad))
    config = tiny_task.sft_config(tables, tmp_path / "run", epochs=1, patience=0)
    config = dataclasses.replace(config, data=tiny_task.data(tmp_path, "bad", on_bad_row="skip"))
    result = stages.sft(config, mesh=one_device)
    said = capsys.readouterr().err
    assert "left out 1 bad rows" in said
    assert "bad.jsonl:3: field 'response'" in said
    assert "bad.jsonl:4: " in said
    assert result.summary["training_rows"] == sft_run.summary["training_rows"]


@pytest.mark.parametrize("text", ["", '{"prompt": "x", "response": "y"}\n'], ids=["empty", "one row"])
def test_too_little_data_is_an_error(tables, tmp_path, text):
    (tmp_path / "few.jsonl").write_text(text)
    config = dataclasses.replace(tiny_task.sft_config(tables, tmp_path / "run"), data=tiny_task.data(tmp_path, "few"))
    with pytest.raises(DataError, match=r"few\.jsonl"):
        stages.sft(config)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "epochs must be at least 1, found 0"),
        ({"row_length": 8}, "row_length 8 has no room for data.max_length 32"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
    ],
    ids=str,
)
def test_a_config_that_cannot_run_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        tiny_task.sft_config("unused", "unused", **change)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="other systems tell a process its own peak anyhow")
def test_the_peak_of_memory_leaves_out_the_process_that_started_this_one():
    held = np.ones(2**27)  # 1 GiB here
    code = "from rlhf_jax.runs.folder import peak_rss_mib; print(peak_rss_mib())"
    peak = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 50 < peak < held.nbytes / 2**20
