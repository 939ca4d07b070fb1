"""The mesh is no part of the result: the same losses, gradients and sampled tokens, however devices are laid out.

Every stage runs on the mesh 1x1x1, one device, and then on four meshes of eight. The model has heads, an inner width
and a vocabulary that 8 divides, or an axis would silently do nothing: the tests look whether its matrices are divided.
"""

import dataclasses
import math

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import models, parallel, stages, training
from rlhf_jax.models import token_stats
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer, train

MESHES = {
    "8x1x1": "data=8",
    "1x8x1": "data=1,fsdp=8",
    "1x1x8": "data=1,tensor=8",
    "2x2x2": "data=2,fsdp=2,tensor=2",
}
MODEL = models.ModelConfig(d_model=32, n_layers=2, n_heads=8, n_kv_heads=8, head_dim=4, d_ff=32)
VOCABULARY = 304
SHORT = {"epochs": 1, "checkpoint_every": 99, "eval_every": 99}


@pytest.fixture(params=MESHES)
def mesh(request):
    mesh = parallel.make_mesh(parallel.MeshConfig.parse(MESHES[request.param]))
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


def divided(params, mesh):
    """Check that a device has its part of every matrix and table, the head's column aside, and no more."""
    found = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = parallel.path_name(path)
        if name.endswith(("kernel", "embedding")) and "head" not in name:
            found += 1
            parts = math.prod(mesh.shape[axis] for axis in ("fsdp", "tensor"))
            assert {shard.data.size * parts for shard in leaf.addressable_shards} == {leaf.size}, name
    assert found % 8 == 0  # four matrices of attention, three of the MLP, and a table, for every model
    return found // 8


@pytest.fixture
def placed(mesh, monkeypatch):
    """How many models the packed stages placed on the mesh, whose matrices were looked at."""
    make, seen = train.compile_step, []

    def watched(*given, **named):
        program = make(*given, **named)
        seen.append(divided(program.state.params, mesh))
        return program

    monkeypatch.setattr(train, "compile_step", watched)
    return seen


def same(one, eight, names):
    assert len(one) == len(eight) > 2
    for a, b in zip(one, eight, strict=True):
        for name in names:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), (a["step"], name)


def short_sft(tables, out, mesh):
    return stages.sft(tiny_task.sft_config(tables, out, model=MODEL, vocab_size=VOCABULARY, **SHORT), mesh=mesh)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The run folder that the other stages start from."""
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def sft_alone(tables, start, one_device):
    return short_sft(tables, start, one_device)


def test_sft_gives_the_same_losses(tables, tmp_path, sft_alone, mesh, shares, placed):
    assert sft_alone.tokenizer.vocab_size == VOCABULARY
    result = short_sft(tables, tmp_path, mesh)
    assert shares[0] == shares[1]
    assert placed == [1]
    same(sft_alone.metrics, result.metrics, ("sft/loss", "sft/grad_norm"))
    assert result.summary["heldout_loss"] == pytest.approx(sft_alone.summary["heldout_loss"], rel=1e-5)


def short_reward(tables, out, start, mesh):
    config = tiny_task.reward_config(tables, out, init=start, table="ratings", **SHORT)
    return stages.reward_model(config, mesh=mesh)


@pytest.fixture(scope="module")
def reward_alone(tables, tmp_path_factory, start, sft_alone, one_device):
    return short_reward(tables, tmp_path_factory.mktemp("reward"), start, one_device)


def test_reward_models_give_the_same_losses(tables, tmp_path, start, reward_alone, mesh, placed):
    result = short_reward(tables, tmp_path, start, mesh)
    assert placed == [1]
    same(reward_alone.metrics, result.metrics, [f"reward/{name}" for name in ("loss", "grad_norm", "accuracy")])


def short_preference(tables, out, start, mesh):
    """KTO, which reads all there is: the reference, and the reference point of mismatched pairs."""
    config = tiny_task.preference_config(tables, out, policy=start, objective="kto", **SHORT)
    return stages.preference(config, mesh=mesh)


@pytest.fixture(scope="module")
def preference_alone(tables, tmp_path_factory, start, sft_alone, one_device):
    return short_preference(tables, tmp_path_factory.mktemp("preference"), start, one_device)


def test_preference_optimisation_gives_the_same_losses(tables, tmp_path, start, preference_alone, mesh, placed):
    result = short_preference(tables, tmp_path, start, mesh)
    assert placed == [1]
    names = ("loss", "grad_norm", "reference_point", "desirable_reward", "undesirable_reward")
    same(preference_alone.metrics[1:], result.metrics[1:], [f"preference/{name}" for name in names])
    assert max(row["preference/reference_point"] for row in result.metrics[1:]) > 0
    for name in ("heldout_loss", "accuracy", "kl"):
        assert result.summary[name] == pytest.approx(preference_alone.summary[name], rel=1e-5, abs=1e-5)
    assert tiny_task.compared(result) == tiny_task.compared(preference_alone)  # what was sampled in the end


def online_trainer(config, sft, reward, mesh):
    return OnlineTrainer(
        config,
        policy=LoadedModel(sft.model_config, sft.params["policy"]),
        reward=LoadedModel(reward.model_config, reward.params["reward"]),
        tokenizer=sft.tokenizer,
        mesh=mesh,
    )


def iterate(config, sft, reward, mesh, steps=2):
    """Iterations by hand: what was sampled, the figures of each, and the last batch."""
    trainer = online_trainer(config, sft, reward, mesh)
    texts = [row["prompt"] for row in tiny_task.tables()["prompts"]][: config.prompts]
    prompts = [EncodedPrompt(text, sft.tokenizer.encode_prompt(text), i) for i, text in enumerate(texts)]
    state, tokens, rows = trainer.init(), [], []
    held = [{role: own} for role, own in state.train.params.items()]
    held += [{"reference": trainer.sampler.reference}, {"reward": trainer.reward.params}]
    assert [divided(one, mesh) for one in held] == [1] * (4 if "critic" in state.train.params else 3)
    for step in range(steps):
        rollout = trainer.collect(state, prompts, step)
        batch, info = trainer.prepare(state, rollout, prompts)
        state, metrics = trainer.update(state, batch, step)
        tokens.append(jax.device_get(rollout.tokens))
        rows.append(training.fetch({**info, **metrics}))
    return tokens, rows, jax.device_get(batch)


def same_iterations(one, eight, names):
    np.testing.assert_array_equal(eight[0], one[0])
    assert not np.array_equal(eight[0][0], eight[0][1])
    for a, b in zip(one[1], eight[1], strict=True):
        assert a.keys() == b.keys()
        for name in names:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-5), name


# As many prompts and samples as below: the programs that sample and score are compiled once for both.
PPO = tiny_task.ppo_config("unused", "unused", policy="unused", prompts=8, samples=4)


@pytest.fixture(scope="module")
def ppo_alone(sft_alone, reward_alone, one_device):
    return iterate(PPO, sft_alone, reward_alone, one_device)


def test_ppo_with_four_models_samples_the_same_tokens(sft_alone, reward_alone, ppo_alone, mesh, shares):
    eight = iterate(PPO, sft_alone, reward_alone, mesh)
    assert shares[0] == shares[1]
    assert eight[0][0].shape[:2] == (8, 4)
    names = ("loss", "policy_loss", "value_loss", "grad_norm", "kl", "proxy_mean", "entropy", "ratio", "shaped_reward")
    same_iterations(ppo_alone, eight, names)


GROUP = tiny_task.group_config("unused", "unused", policy="unused", objective="grpo")


@pytest.fixture(scope="module")
def group_alone(sft_alone, reward_alone, one_device):
    return iterate(GROUP, sft_alone, reward_alone, one_device)


def test_grpo_samples_the_same_tokens(sft_alone, reward_alone, group_alone, mesh, shares):
    eight = iterate(GROUP, sft_alone, reward_alone, mesh)
    assert shares[0] == shares[1]
    assert eight[0][0].shape[:2] == (8, 4)
    same_iterations(group_alone, eight, ("loss", "grad_norm", "kl", "proxy_mean", "entropy", "ratio"))


def test_rloo_takes_the_same_step(sft_alone, reward_alone, group_alone, one_device):
    """On what GRPO sampled, with all axes at once."""
    config, batch = dataclasses.replace(GROUP, objective="rloo"), group_alone[2]

    def step(mesh):
        trainer = online_trainer(config, sft_alone, reward_alone, mesh)
        spread = parallel.put(batch, parallel.batch_shardings(batch, mesh))
        return training.fetch(trainer.update(trainer.init(), spread, 0)[1])

    one, eight = (step(mesh) for mesh in (one_device, parallel.make_mesh(parallel.MeshConfig.parse(MESHES["2x2x2"]))))
    for name in ("loss", "grad_norm"):
        assert eight[name] == pytest.approx(one[name], rel=1e-5, abs=1e-5), name
