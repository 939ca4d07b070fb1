"""A batch cut into parts gives the update of the whole batch: in the memory of one part, and nothing else differs."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import parallel, stages
from rlhf_jax.data.batches import MicroBatches
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer, PTXConfig

ROW = 24  # tokens; every text below has more than half as many, so that it fills a row alone


def words(rng):
    """As many words as make a text of 13 to 20 tokens."""
    return " ".join(rng.choice(tiny_task.GOOD, size=14).tolist())


@pytest.fixture(scope="module")
def long_tables(tmp_path_factory):
    """Rows of which a packed row holds exactly one, so that parts hold what the whole batch holds."""
    folder, rng = tmp_path_factory.mktemp("long"), np.random.default_rng(0)
    prompts = [f"The {animal}" for animal in tiny_task.ANIMALS]
    pairs = [(words(rng), words(rng)) for _ in prompts]
    tables = {
        "demonstrations": [{"prompt": p, "response": good} for p, (good, _) in zip(prompts, pairs, strict=True)],
        "chosen": [{"prompt": p, "chosen": g, "rejected": b} for p, (g, b) in zip(prompts, pairs, strict=True)],
        "text": [{"text": words(rng)} for _ in prompts],
    }
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(folder, table, **changes):
    """Two steps of eight rows, the second one short."""
    data = stages.DataConfig(source=str(folder / f"{table}.jsonl"), max_length=ROW)
    heldout = {"heldout": str(folder / f"{table}.jsonl")}
    return {
        "data": dataclasses.replace(data, **heldout),
        "rows": 8,
        "row_length": ROW,
        "epochs": 1,
        "eval_every": 1,
        "checkpoint_every": 99,
        **changes,
    }


def sft(folder, out, mesh, **changes):
    options = {"vocab_size": 300, "model": tiny_task.MODEL, **settings(folder, "demonstrations", **changes)}
    return stages.sft(stages.SFTConfig(out=str(out), **options), mesh=mesh)


def reward(folder, out, mesh, *, init, **changes):
    options = settings(folder, "chosen", members=2, **changes)
    return stages.reward_model(stages.RewardConfig(out=str(out), init=str(init), **options), mesh=mesh)


def dpo(folder, out, mesh, *, init, **changes):
    options = {"eval_prompts": 4, "test_prompts": 4, **settings(folder, "chosen", **changes)}
    sampling = SamplingConfig(max_new_tokens=4, window=4)
    config = stages.PreferenceConfig(out=str(out), policy=str(init), sampling=sampling, **options)
    return stages.preference(config, mesh=mesh)


@pytest.fixture(scope="module")
def sft_whole(long_tables, one_device, tmp_path_factory):
    return sft(long_tables, tmp_path_factory.mktemp("whole"), one_device)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6), a, b)


def same_run(whole, parted, stage):
    rows = {row["step"]: row for row in whole.metrics}
    assert sorted(rows) == sorted(row["step"] for row in parted.metrics)
    assert max(rows) >= 2
    for row in parted.metrics:
        for name in ("loss", "grad_norm", "heldout_loss"):
            if f"{stage}/{name}" in row:
                assert row[f"{stage}/{name}"] == pytest.approx(rows[row["step"]][f"{stage}/{name}"], rel=1e-4), name
    close(whole.params, parted.params)


def test_supervised_fine_tuning(long_tables, sft_whole, one_device, tmp_path):
    lengths = [len(sft_whole.tokenizer.encode(json.loads(line)["response"])) for line in open_rows(long_tables)]
    # A row each, or the two runs would differ for another reason.
    assert min(lengths) > ROW / 2
    assert max(lengths) < ROW
    same_run(sft_whole, sft(long_tables, tmp_path, one_device, micro_batches=4), "sft")


def open_rows(folder):
    return (folder / "demonstrations.jsonl").read_text().splitlines()


@pytest.mark.parametrize(("stage", "run"), [("reward", reward), ("preference", dpo)])
def test_reward_ensembles_and_preferences_on_two_devices(stage, run, long_tables, sft_whole, tmp_path):
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:2])
    whole, parted = (
        run(long_tables, tmp_path / str(parts), mesh, init=sft_whole.directory, micro_batches=parts) for parts in (1, 2)
    )
    same_run(whole, parted, stage)


def test_ppo_with_pretraining_text(long_tables, tables, sft_whole, one_device):
    """A critic, two minibatches of eight prompts, text beside them: one iteration, whole and in four parts."""
    file = str(long_tables / "text.jsonl")
    text = stages.DataConfig(source=file, heldout=file, max_length=ROW)
    policy = LoadedModel(sft_whole.model_config, sft_whole.params["policy"])

    def updated(parts):
        config = tiny_task.ppo_config(
            tables, "unused", policy="unused", micro_batches=parts, ptx=PTXConfig(coef=0.5, data=text, rows=4)
        )
        trainer = OnlineTrainer(
            config, policy=policy, tokenizer=sft_whole.tokenizer, reward=tiny_task.count_a, mesh=one_device
        )
        prompts = [
            EncodedPrompt(t, sft_whole.tokenizer.encode_prompt(t), i) for i, t in enumerate(["The cat", "A dog"] * 8)
        ]
        state = trainer.init()
        rollout = trainer.collect(state, prompts, 0)
        batch, _ = trainer.prepare(state, rollout, prompts)
        state, metrics = trainer.update(state, batch, 0)
        return state.train.params, {name: float(total / weight) for name, (total, weight) in metrics.items()}

    (whole, figures), (parted, figures_of_parts) = updated(1), updated(4)
    close(whole, parted)
    assert figures.keys() == figures_of_parts.keys()
    for name, value in figures.items():
        assert figures_of_parts[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_what_the_last_batch_lacks_counts_for_nothing():
    batches = MicroBatches([{"mask": np.full(2, True), "x": np.full(2, i)} for i in range(1, 6)], 3)
    assert len(batches) == 2
    assert batches[0]["x"].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert batches[1]["x"].tolist() == [[4, 4], [5, 5], [0, 0]]
    assert batches[1]["mask"].tolist() == [[True] * 2, [True] * 2, [False] * 2]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: stages.SFTConfig(rows=16, micro_batches=3), r"rows \(16\) must be a multiple of micro_batches \(3\)"),
        (lambda: stages.SFTConfig(micro_batches=0), "micro_batches must be at least 1"),
        (lambda: stages.PPOConfig(prompts=8, minibatches=4, micro_batches=3), "a minibatch of 2 prompts must be"),
        (
            lambda: stages.PPOConfig(micro_batches=4, ptx=PTXConfig(coef=1.0, rows=2)),
            r"ptx.rows \(2\) must be a multiple of micro_batches",
        ),
    ],
)
def test_parts_that_do_not_divide_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        config()


def test_the_last_parameters_are_kept_where_that_is_asked(long_tables, one_device, tmp_path):
    """At a rate that spoils the model after the first step, the best one is an earlier one."""
    rate = stages.SFTConfig().optimizer
    wild = dataclasses.replace(rate, learning_rate=3e-3, warmup_fraction=0.0, final_fraction=1.0)
    options = {"optimizer": wild, "epochs": 12, "patience": 0}
    runs = {keep: sft(long_tables, tmp_path / keep, one_device, keep=keep, **options) for keep in ("best", "last")}
    losses = [row["sft/heldout_loss"] for row in runs["last"].metrics]
    assert runs["last"].summary["best_step"] == runs["last"].summary["steps"] == len(losses)
    assert runs["last"].summary["heldout_loss"] == pytest.approx(losses[-1])
    assert runs["best"].summary["heldout_loss"] == pytest.approx(min(losses))
