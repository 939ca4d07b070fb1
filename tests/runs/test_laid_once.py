"""Weights are laid out once for several calls, and prompts without room are refused before anything runs."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import models, parallel, rollout, stages
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.chat import Conversation
from rlhf_jax.runs.policy import SAMPLED
from rlhf_jax.stages import Policy, RunError
from rlhf_jax.stages.comparison import Judges
from rlhf_jax.stages.sampler import Sampler

SHORT = SamplingConfig(max_new_tokens=2)


@pytest.fixture
def policy(sft_run):
    return Policy(sft_run.model_config, sft_run.params["policy"], sft_run.tokenizer, "sft")


@pytest.fixture
def laid_out(monkeypatch):
    """How often weights were laid out, one entry each."""
    found, lay_out = [], rollout.Engine.lay_out

    def counted(self, params, sharding=None):
        if not isinstance(params, rollout.Laid):
            found.append(1)
        return lay_out(self, params, sharding)

    monkeypatch.setattr(rollout.Engine, "lay_out", counted)
    return found


def encoded(policy, texts):
    return [EncodedPrompt(text, policy.tokenizer.encode_prompt(text), 100 + i) for i, text in enumerate(texts)]


def test_sampling_many_prompts_lays_weights_out_once_and_compiles_once(policy, laid_out):
    texts = [f"The cat {'and ' * (i % 2)}" for i in range(SAMPLED + 5)]
    assert len(list(policy.sample(texts, sampling=SHORT))) == len(texts)
    assert len(laid_out) == 1
    engine = policy._engine(SHORT)
    assert policy._engine(SamplingConfig(max_new_tokens=2)) is engine
    assert policy._engine(dataclasses.replace(SHORT, temperature=0.5)) is not engine


def test_a_conversation_lays_weights_out_once(policy, laid_out):
    conversation = Conversation(policy, SHORT)
    for question in ("One?", "Two?", "Three?"):
        list(conversation.ask(question))
    assert len(laid_out) == 1


def test_the_best_of_n_lays_weights_out_once(policy, laid_out, one_device, monkeypatch):
    monkeypatch.setattr("rlhf_jax.stages.comparison._AT_ONCE", 8)
    sampler = Sampler(models.build(policy.config), policy.tokenizer, SHORT, reference=policy.params, mesh=one_device)
    prompts = encoded(policy, ["The cat", "The dog", "A bird", "The fox", "One"])

    def reward(sampled, prompts):
        score = np.asarray(sampled.mask).sum(-1).astype(np.float32)
        return stages.scoring.Scores(score, score)

    assert len(Judges(sampler, reward, {}).best_of(policy.params, prompts, 0, 4).texts) == 5
    assert len(laid_out) == 1


def test_a_prompt_without_room_is_named(policy, one_device):
    narrow = models.build(dataclasses.replace(policy.config, max_length=16))
    sampler = Sampler(narrow, policy.tokenizer, SHORT, reference=policy.params, mesh=one_device)
    prompts = encoded(policy, ["The cat", "The dog near " * 9])
    with pytest.raises(RunError, match=r"prompt 101 has \d+ tokens, and the model reads 16, which leaves 14 beside"):
        sampler.check(prompts)
    sampler.check(prompts[:1])


@pytest.mark.parametrize("stage", ["ppo", "preference", "best_of_n"])
def test_every_stage_looks_at_its_prompts_before_it_begins(stage, tables, ppo_run, tmp_path, one_device, monkeypatch):
    sampling = SamplingConfig(max_new_tokens=120)

    def narrow(config):
        return dataclasses.replace(config, max_length=124)

    if stage == "best_of_n":
        loaded = Policy.load(ppo_run.directory, "sft")
        loaded = dataclasses.replace(loaded, config=narrow(loaded.config))
        monkeypatch.setattr(Policy, "load", lambda *_: loaded)
        arguments = {"data": tiny_task.data(tables, "prompts"), "sampling": sampling, "reward": tiny_task.count_a}
        run = lambda: stages.best_of_n(str(ppo_run.directory), "", mesh=one_device, **arguments)  # noqa: E731
    else:
        module = importlib.import_module(
            {"ppo": "rlhf_jax.stages.online.loop"}.get(stage, "rlhf_jax.stages.preference")
        )
        start_from = module.start_from

        def started(*arguments, **more):
            start = start_from(*arguments, **more)
            return start._replace(config=narrow(start.config))

        monkeypatch.setattr(module, "start_from", started)
        config = getattr(tiny_task, f"{stage}_config")
        config = config(tables, tmp_path, policy=ppo_run.directory, sampling=sampling)
        more = {"reward": tiny_task.count_a} if stage == "ppo" else {}
        run = lambda: getattr(stages, stage)(config, mesh=one_device, **more)  # noqa: E731
    with pytest.raises(RunError, match=r"prompt \d+ has \d+ tokens, and the model reads 124, which leaves 4 beside"):
        run()
    assert not (tmp_path / "config.json").exists()


def test_slots_that_a_mesh_cannot_share_are_refused_before_anything_is_sampled(policy):
    mesh = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=2, tensor=2))
    model = models.build(policy.config)
    with pytest.raises(RunError, match="slots is 6, and the mesh cuts rows into 4 parts"):
        Sampler(model, policy.tokenizer, dataclasses.replace(SHORT, slots=6), reference=policy.params, mesh=mesh)
    sampler = Sampler(model, policy.tokenizer, dataclasses.replace(SHORT, slots=4), reference=policy.params, mesh=mesh)
    sampled = sampler(sampler.reference, encoded(policy, ["The cat", "One", "Two", "Three"]), 0)
    assert {shard.data.shape[0] for shard in sampled.tokens.addressable_shards} == {1}
    assert jax.device_get(sampled.mask).any(-1).all()
