"""``RUN:STAGE``: which policy of a run folder is meant, and what is said where that makes no sense."""

import json
import os
from pathlib import Path

import pytest

from rlhf_jax import models
from rlhf_jax.runs.loading import origin
from rlhf_jax.runs.stage_path import check_start, policy_path, split_stage
from rlhf_jax.stages import Policy, RunError


@pytest.mark.parametrize(
    ("text", "path", "stage"),
    [
        ("runs/mine", "runs/mine", "sft"),
        ("runs/mine:ppo", "runs/mine", "ppo"),
        ("runs/mine:sft", "runs/mine", "sft"),
        ("runs/a:b:group", "runs/a:b", "group"),
        (r"C:\runs\mine", r"C:\runs\mine", "sft"),
        (r"C:\runs\mine:preference", r"C:\runs\mine", "preference"),
        ("C:/runs/mine", "C:/runs/mine", "sft"),
    ],
)
def test_the_last_colon_parts_folder_and_stage(text, path, stage):
    assert policy_path(text) == (Path(path), stage)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no colons in names")
def test_a_folder_that_exists_is_taken_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("try:ppo").mkdir()
    Path("try").mkdir()
    assert policy_path("try:ppo") == (Path("try:ppo"), "sft")
    assert policy_path("try:ppo:ppo") == (Path("try:ppo"), "ppo")
    assert policy_path("try:group") == (Path("try"), "group")


def test_a_stage_without_a_policy_is_refused_with_those_that_have_one(tmp_path):
    with pytest.raises(RunError, match=r": names no stage behind its colon: choose one of ppo, group, preference, sft"):
        policy_path(f"{tmp_path}:")
    for stage in ("reward", "pp"):
        with pytest.raises(RunError, match=f"stage '{stage}' has no policy: choose one of ppo, group, preference, sft"):
            policy_path(f"{tmp_path}:{stage}")
    with pytest.raises(RunError, match=r"nowhere:pp: no such folder, and no policy stage 'pp': choose one of ppo, "):
        policy_path("nowhere:pp")


def test_a_checkpoint_has_no_stages(sft_run, tmp_path):
    folder = tmp_path / "llama"
    models.save_pretrained(folder, sft_run.model_config, sft_run.params["policy"], tokenizer=sft_run.tokenizer)
    assert policy_path(folder) == (folder, "")
    with pytest.raises(RunError, match="is a pretrained checkpoint, which has no stages: leave :ppo out"):
        policy_path(f"{folder}:ppo")


def test_a_stage_that_is_not_finished_is_named_with_what_is_there(sft_run, reward_run):
    with pytest.raises(RunError, match=r"no finished group stage in .*: it holds .*reward, sft"):
        Policy.load(f"{sft_run.directory}:group")


def test_a_policy_is_loaded_by_its_stage(ppo_run):
    assert Policy.load(f"{ppo_run.directory}:sft").stage == "sft"
    assert Policy.load(f"{ppo_run.directory}:ppo", "ppo").stage == "ppo"
    with pytest.raises(RunError, match="names the ppo stage, and stage is sft: leave one of them out"):
        Policy.load(f"{ppo_run.directory}:ppo", "sft")


def test_no_stage_starts_from_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    for text, stage in (("run:ppo", "ppo"), ("run", "sft"), (f"{tmp_path}/run:sft", "sft")):
        with pytest.raises(RunError, match=rf"the {stage} stage of run cannot start from itself .*run:STAGE"):
            check_start(text, Path("run"), stage)
    check_start("run:ppo", Path("other"), "ppo")
    check_start("run:preference", Path("run"), "ppo")


def test_the_origin_is_found_through_every_stage_on_the_way(tmp_path):
    first = tmp_path / "model.gguf"
    first.touch()
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, stages in (
        (
            one,
            {"sft": {"init": str(first)}, "preference": {"policy": str(one)}, "ppo": {"policy": f"{one}:preference"}},
        ),
        (two, {"sft": {"init": ""}, "reward": {"init": f"{one}:ppo"}, "group": {"policy": str(two)}}),
    ):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(stages))
    assert origin(one, "ppo") == first
    assert origin(two, "reward") == first
    assert origin(two, "group") is None  # its SFT policy was trained from scratch
    (one / "config.json").write_text(json.dumps({"ppo": {"policy": f"{one}:group"}, "group": {"policy": f"{one}:ppo"}}))
    assert origin(one, "ppo") is None  # written by hand, and endless
    assert split_stage(f"{one}:ppo") == (one, "ppo")
