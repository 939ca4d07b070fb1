"""The mesh is no part of the result: the same losses and the same sampled tokens on one device and on eight."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import parallel, stages, training
from rlhf_jax.models import token_stats
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer

MESHES = {
    "data=8": parallel.MeshConfig(),
    "data=2, fsdp=2, tensor=2": parallel.MeshConfig(data=2, fsdp=2, tensor=2),
}


@pytest.fixture(params=MESHES, ids=str)
def mesh(request):
    mesh = parallel.make_mesh(MESHES[request.param])
    assert mesh.size == 8
    return mesh


@pytest.fixture
def shares(mesh, monkeypatch):
    """Over how many devices each program that is traced spreads its log-probabilities; and how many there are."""
    plan, seen = token_stats.plan_chunks, set()

    def watched(*sizes):
        seen.add(plan(*sizes).lines)
        return plan(*sizes)

    monkeypatch.setattr(token_stats, "plan_chunks", watched)
    return seen, {mesh.shape["data"] * mesh.shape["fsdp"]}


def same(one, eight, names):
    assert len(one) == len(eight) > 2
    for a, b in zip(one, eight, strict=True):
        for name in names:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), (a["step"], name)


@pytest.fixture(scope="module")
def sft_alone(tables, tmp_path_factory, one_device):
    return short_sft(tables, tmp_path_factory.mktemp("sft"), one_device)


def short_sft(tables, out, mesh):
    return stages.sft(tiny_task.sft_config(tables, out, epochs=1, checkpoint_every=99), mesh=mesh)


def test_sft_gives_the_same_losses(tables, tmp_path, sft_alone, mesh, shares):
    result = short_sft(tables, tmp_path, mesh)
    assert shares[0] == shares[1]
    same(sft_alone.metrics, result.metrics, ("sft/loss", "sft/grad_norm"))
    assert result.summary["heldout_loss"] == pytest.approx(sft_alone.summary["heldout_loss"], rel=1e-5)


def short_reward(tables, out, folder, mesh):
    config = tiny_task.reward_config(tables, out, init=folder, table="ratings", epochs=1, checkpoint_every=99)
    return stages.reward_model(config, mesh=mesh)


@pytest.fixture(scope="module")
def reward_alone(tables, tmp_path_factory, folder, sft_run, one_device):
    return short_reward(tables, tmp_path_factory.mktemp("reward"), folder, one_device)


def test_reward_models_give_the_same_losses(tables, tmp_path, folder, reward_alone, mesh):
    result = short_reward(tables, tmp_path, folder, mesh)
    same(reward_alone.metrics, result.metrics, ("reward/loss", "reward/accuracy"))


def short_preference(tables, out, folder, mesh):
    """KTO, which reads all there is: the reference, and the reference point of mismatched pairs."""
    settings = {"epochs": 1, "objective": "kto", "eval_every": 99, "checkpoint_every": 99}
    return stages.preference(tiny_task.preference_config(tables, out, policy=folder, **settings), mesh=mesh)


@pytest.fixture(scope="module")
def preference_alone(tables, tmp_path_factory, folder, sft_run, one_device):
    return short_preference(tables, tmp_path_factory.mktemp("preference"), folder, one_device)


def test_preference_optimisation_gives_the_same_losses(tables, tmp_path, folder, preference_alone, mesh):
    result = short_preference(tables, tmp_path, folder, mesh)
    names = ("loss", "grad_norm", "reference_point", "desirable_reward", "undesirable_reward")
    same(preference_alone.metrics[1:], result.metrics[1:], [f"preference/{name}" for name in names])
    assert max(row["preference/reference_point"] for row in result.metrics[1:]) > 0
    for name in ("heldout_loss", "accuracy", "kl"):
        assert result.summary[name] == pytest.approx(preference_alone.summary[name], rel=1e-5, abs=1e-5)


def iterate(tables, sft_run, reward_run, mesh):
    """Two iterations of PPO by hand, two samples a prompt: what was sampled, and the figures."""
    config = tiny_task.ppo_config(tables, "unused", policy="unused", samples=2)
    size = dataclasses.replace(tiny_task.MODEL, vocab_size=sft_run.tokenizer.vocab_size)
    trainer = OnlineTrainer(
        config,
        policy=LoadedModel(size, sft_run.params["policy"]),
        reward=LoadedModel(dataclasses.replace(size, scalar_head=True), reward_run.params["reward"]),
        tokenizer=sft_run.tokenizer,
        mesh=mesh,
    )
    texts = [row["prompt"] for row in tiny_task.tables()["prompts"]][:16]
    prompts = [EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(texts)]
    state, tokens, rows = trainer.init(), [], []
    if mesh.shape["fsdp"] > 1:
        embedding = state.train.params["policy"]["embedding"]
        assert embedding.addressable_shards[0].data.size < embedding.size  # the parameters are indeed spread
    for step in range(2):
        rollout = trainer.collect(state, prompts, step)
        batch, info = trainer.prepare(state, rollout, prompts)
        state, metrics = trainer.update(state, batch, step)
        tokens.append(jax.device_get(rollout.tokens))
        rows.append(training.fetch({**info, **metrics}))
    return tokens, rows


@pytest.fixture(scope="module")
def ppo_alone(tables, sft_run, reward_run, one_device):
    return iterate(tables, sft_run, reward_run, one_device)


def test_ppo_samples_the_same_tokens_and_gives_the_same_figures(tables, sft_run, reward_run, ppo_alone, mesh, shares):
    tokens, rows = iterate(tables, sft_run, reward_run, mesh)
    assert shares[0] == shares[1]
    np.testing.assert_array_equal(tokens, ppo_alone[0])
    assert tokens[0].shape[:2] == (16, 2)
    assert not np.array_equal(tokens[0], tokens[1])
    for one, eight in zip(ppo_alone[1], rows, strict=True):
        assert one.keys() == eight.keys()
        for name in ("loss", "policy_loss", "value_loss", "kl", "proxy_mean", "entropy", "ratio", "shaped_reward"):
            assert eight[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), name
