"""Frozen models that wait in the host's memory: the same figures, and nothing of them beside an update."""

import dataclasses
import gc

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import models, stages
from rlhf_jax.checkpoint import tree_sha256
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import EncodedPrompt, LoadedModel, OnlineTrainer, PPOConfig
from rlhf_jax.stages.profile.models import NoText

SIZES = {"vocab_size": 64, "d_model": 32, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "d_ff": 64}
POLICY, REWARD = models.ModelConfig(**SIZES), models.ModelConfig(**{**SIZES, "d_ff": 96}, scalar_head=True)


def on_device():
    """Bytes of everything that lives in the device's memory."""
    gc.collect()
    return sum(x.nbytes for x in jax.live_arrays() if x.sharding.memory_kind == "device")


def size(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree) if isinstance(x, jax.Array))


def fresh(config, seed):
    return LoadedModel(config, models.build(config).init(jax.random.key(seed)))


def iteration(mesh, offload):
    """One iteration of PPO against a reward model, with models that nobody else holds.

    Returns the state after it, the trainer, and how many bytes beside state and batch the device held when the update
    began.
    """
    before = on_device()
    sampling = SamplingConfig(max_new_tokens=4, window=4)
    config = PPOConfig(prompts=4, minibatches=1, epochs=1, sampling=sampling, offload=offload)
    policy, reward = fresh(POLICY, 1), fresh(REWARD, 2)
    trainer = OnlineTrainer(config, policy=policy, reward=reward, tokenizer=NoText(64), mesh=mesh)
    del policy, reward
    prompts = [EncodedPrompt("", np.arange(1, 5, dtype=np.int32) + i, i) for i in range(4)]
    state, beside, update = trainer.init(), [], trainer.update_program

    def watched(*given, **named):
        beside.append(on_device() - before - size(given))
        return update(*given, **named)

    trainer.update_program = watched
    batch, _ = trainer.prepare(state, trainer.collect(state, prompts, 0), prompts)
    state, _ = trainer.update(state, batch, 0)
    return jax.tree.map(np.asarray, state), trainer, beside[0]


def test_an_iteration_of_ppo_computes_the_same_and_holds_no_frozen_model_while_it_updates(one_device):
    plain, trainer, beside = iteration(one_device, "none")
    del trainer
    parked, trainer, rest = iteration(one_device, "frozen")
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(parked), strict=True):
        np.testing.assert_array_equal(a, b)
    reference, reward = size(fresh(POLICY, 1).params), size(fresh(REWARD, 2).params)
    assert beside >= reference + reward
    assert rest < 0.05 * min(reference, reward)  # keys and a few numbers
    waiting = jax.tree.leaves((trainer._initial, trainer.sampler.held_reference, trainer.reward.params))
    assert {x.sharding.memory_kind for x in waiting} == {"pinned_host"}
    assert {x.sharding.memory_kind for x in jax.tree.leaves(trainer.sampler.reference)} == {"device"}


def test_preference_optimisation_ends_with_the_same_weights(tables, folder, sft_run, reward_run, one_device):
    """KTO reads the reference twice: on the batch, and for its reference point on mismatched responses."""

    def trained(offload):
        config = tiny_task.preference_config(
            *(tables, folder.parent / f"kto-{offload}"),
            policy=folder,
            objective="kto",
            offload=offload,
            reward_model=str(folder),
            epochs=1,
        )
        result = stages.preference(config, mesh=one_device, judges={"gold": tiny_task.count_a})
        return tree_sha256(result.params), result.summary["accuracy"], result.summary["proxy_win_rate"]

    assert trained("none") == trained("frozen")


def test_ppo_parks_what_it_read_from_run_folders(tables, folder, ppo_run, one_device, tmp_path):
    """The stage by itself, with everything around the updates; its figures are those of the run that parked nothing."""
    config = dataclasses.replace(ppo_run.config, out=str(tmp_path / "run"), offload="frozen")
    result = stages.ppo(config, mesh=one_device, judges={"gold": tiny_task.count_a})
    assert tree_sha256(result.params) == tree_sha256(ppo_run.params)
    assert result.summary["kl"] == ppo_run.summary["kl"]


def test_under_adapters_it_says_what_stays(sft_run, one_device, tables):
    lora = models.LoRAConfig(rank=2)
    start = LoadedModel(*models.add_adapters(sft_run.model_config, sft_run.params["policy"], lora, jax.random.key(0)))
    config = tiny_task.ppo_config(tables, "unused", policy="unused", lora=lora, offload="frozen")
    with pytest.warns(UserWarning, match="stays on the device"):
        trainer = OnlineTrainer(
            config, policy=start, reward=tiny_task.count_a, tokenizer=sft_run.tokenizer, mesh=one_device
        )
    assert {x.sharding.memory_kind for x in jax.tree.leaves(trainer.sampler.held_reference)} == {"device"}
