"""Training at a temperature: sampler, ratio, reference, KL and entropy are all of ``softmax(logits / temperature)``."""

import dataclasses
import functools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import models, objectives, stages, testing, training
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import EncodedPrompt, KLConfig, LoadedModel, OnlineTrainer, PTXConfig
from rlhf_jax.types import Outputs, Rollout, SequenceBatch

TEMPERATURES = (0.6, 1.3)
WITH_RATIO = ("ppo", "rloo", "grpo", "dr_grpo", "dapo", "gspo")
NEEDED = {"dr_grpo": {"max_length": 8}}
at_temperatures = pytest.mark.parametrize("temperature", TEMPERATURES)


@pytest.fixture(scope="module")
def prompts(tables, sft_run):
    rows = [json.loads(line)["prompt"] for line in (tables / "prompts.jsonl").read_text().splitlines()]
    return [EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(rows[:8])]


@pytest.fixture(scope="module")
def make(tables, sft_run, one_device):
    """Makes a trainer of a method at a temperature, with one update an iteration."""

    def trainer(objective, temperature, **changes):
        config = tiny_task.ppo_config if objective == "ppo" else tiny_task.group_config
        sampling = SamplingConfig(max_new_tokens=8, window=4, temperature=temperature)
        settings = {"prompts": 8, "samples": 4, "epochs": 1, "minibatches": 1, "kl": KLConfig(kind="objective")}
        given = {"objective": objective, "hyperparameters": NEEDED.get(objective, {}), "sampling": sampling}
        policy = LoadedModel(sft_run.model_config, sft_run.params["policy"])
        return OnlineTrainer(
            config(tables, "unused", policy="unused", **{**settings, **given, **changes}),
            policy=policy,
            tokenizer=sft_run.tokenizer,
            reward=tiny_task.count_a,
            mesh=one_device,
        )

    return trainer


@pytest.fixture(scope="module")
def away(sft_run):
    """A policy that has moved from its reference, so that a KL between them shows, and far from uniform."""
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda x: x + 0.7 * jnp.std(x) * rng.normal(size=x.shape).astype(np.float32), sft_run.params["policy"]
    )
    return {**moved, "final_norm": {"scale": 3.0 * moved["final_norm"]["scale"]}}


def start(trainer, away):
    """The trainer's first state, with a policy that has moved; a copy, because an update uses it up."""
    state = trainer.init()
    params = {**state.train.params, "policy": jax.tree.map(jnp.copy, away)}
    return state._replace(train=state.train._replace(params=params))


class Iteration(NamedTuple):
    trainer: OnlineTrainer
    rollout: Rollout
    batch: SequenceBatch
    info: dict
    mask: np.ndarray  # [N, S]
    policy: tuple  # log-probabilities and entropies [N, S] at the temperature, computed in numpy
    reference: tuple
    cold: tuple  # the policy's at temperature 1
    cold_reference: tuple


@pytest.fixture(scope="module")
def iterations(make, prompts, away, sft_run):
    """What collect and prepare give at each temperature, by PPO and by a group method, beside numpy's numbers."""
    found = {}
    for temperature in TEMPERATURES:
        for method in ("ppo", "group"):
            trainer = make("ppo" if method == "ppo" else "grpo", temperature)
            rollout = trainer.collect(start(trainer, away), prompts, 0)
            batch, info = trainer.prepare(start(trainer, away), rollout, prompts)
            mask = np.asarray(rollout.mask).reshape(-1, rollout.mask.shape[-1])
            numbers = (
                by_numpy(sft_run, params, rollout, t)
                for t in (temperature, 1.0)
                for params in (away, sft_run.params["policy"])
            )
            found[method, temperature] = Iteration(trainer, rollout, batch, training.fetch(info), mask, *numbers)
    return found


whole_logits = jax.jit(models.logits, static_argnums=0)


def by_numpy(run, params, sampled, temperature):
    """Log-probabilities and entropies [N, S] in float64, from the logits of the whole sequences."""
    tokens, real = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (sampled.tokens, sampled.segment_ids))
    logits = whole_logits(run.model_config, params, jnp.asarray(tokens), jnp.asarray(real > 0))
    z = np.asarray(logits, np.float64)[:, :-1] / temperature
    z -= np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) + z.max(-1, keepdims=True)
    picked = np.take_along_axis(z, tokens[:, 1:, None], axis=-1)[..., 0]
    first = np.zeros((len(tokens), 1))
    return np.concatenate([first, picked], axis=1), np.concatenate([first, -(np.exp(z) * z).sum(-1)], axis=1)


def test_the_objectives_with_a_ratio_are_all_here():
    batch = testing.tiny_batch()
    given = Outputs(batch.old_logprobs, jnp.ones(batch.mask.shape), batch.old_values, batch.score)

    def has_ratio(name):
        objective = functools.partial(getattr(objectives, name), **NEEDED.get(name, {}))
        return "ratio" in jax.eval_shape(lambda outputs: objective(outputs, batch).metrics, given)

    assert set(WITH_RATIO) <= {name for name in objectives.NAMES if has_ratio(name)}


@at_temperatures
@pytest.mark.parametrize("method", ["ppo", "group"])
def test_sampler_old_policy_and_reference_are_at_the_temperature(iterations, away, method, temperature):
    found = iterations[method, temperature]

    def counted(x):
        return np.asarray(x, np.float64).reshape(found.mask.shape)[found.mask]

    (policy, _), (reference, _) = found.policy, found.reference
    np.testing.assert_allclose(counted(found.rollout.logprobs), policy[found.mask], atol=1e-4)
    np.testing.assert_allclose(counted(found.batch.old_logprobs), policy[found.mask], atol=1e-4)
    np.testing.assert_allclose(counted(found.batch.ref_logprobs), reference[found.mask], atol=1e-4)
    assert np.abs(found.cold[0] - policy)[found.mask].max() > 0.1  # those of temperature 1 are others
    assert found.info["logprob_gap"] < 1e-4
    # The KL that is logged, put into the reward and measured by the sampler is the one between these two.
    kl = np.where(found.mask, policy - reference, 0.0).sum(-1)
    assert found.info["kl"] == pytest.approx(kl.mean(), rel=1e-3, abs=1e-4)
    np.testing.assert_allclose(found.trainer.sampler.kl(away, found.rollout), kl, atol=1e-3)
    at_temperature_1 = np.where(found.mask, found.cold[0] - found.cold_reference[0], 0.0).sum(-1)
    assert np.abs(kl - at_temperature_1).max() > 0.1


@at_temperatures
@pytest.mark.parametrize("objective", WITH_RATIO)
def test_the_ratio_of_the_first_update_is_one(make, iterations, away, objective, temperature):
    """Against the log-probabilities that prepare computed, and against those that the sampler kept."""
    found = iterations["ppo" if objective == "ppo" else "group", temperature]
    trainer = make(objective, temperature)
    metrics = training.fetch(trainer.update(start(trainer, away), found.batch, 0)[1])
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["clip_fraction"] == 0.0
    sampled = found.batch._replace(old_logprobs=found.rollout.logprobs)
    metrics = training.fetch(trainer.update(start(trainer, away), sampled, 0)[1])
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["approx_kl"] < 1e-6  # of every token: k3 is 0 only where the two are equal
    # So is the entropy that is logged, and that a bonus would raise.
    want = found.policy[1][found.mask].mean()
    assert metrics["entropy"] == pytest.approx(want, rel=1e-4)
    assert abs(want - found.cold[1][found.mask].mean()) > 0.05


def test_text_that_people_wrote_stays_at_temperature_1(make, tables, iterations, away):
    """Its cross entropy is the same number beside a policy sampled cold and one sampled at 1."""
    text = PTXConfig(coef=0.1, data=tiny_task.data(tables, "text"), rows=2)
    batch = iterations["group", 0.6].batch
    losses = []
    for temperature in (0.6, 1.0):
        trainer = make("grpo", temperature, ptx=text)
        losses.append(training.fetch(trainer.update(start(trainer, away), batch, 0)[1]))
    assert losses[0]["ptx_loss"] == pytest.approx(losses[1]["ptx_loss"], rel=1e-6)
    assert abs(losses[0]["entropy"] - losses[1]["entropy"]) > 0.05  # the policy's part is not


def test_a_loss_function_has_temperature_1_unless_it_is_told_otherwise(sft_run, iterations, away):
    batch = iterations["group", 0.6].batch
    model = {"policy": sft_run.model}
    default, one, cold = (
        stages.make_loss_fn(objectives.sft, model, **given)({"policy": away}, batch, None)[0]
        for given in ({}, {"temperature": 1.0}, {"temperature": 0.6})
    )
    assert default == one != cold
    with pytest.raises(ValueError, match=r"temperature must be above 0, .*found 0"):
        stages.forward(model, {"policy": away}, batch, temperature=0.0)


@pytest.mark.parametrize("config", [tiny_task.ppo_config, tiny_task.group_config], ids=["ppo", "group"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"top_k": 5}, r"sampling\.top_k is 5, but training needs 0: .*every ratio would be biased.*rlhf sample"),
        ({"top_p": 0.9}, r"sampling\.top_p is 0\.9, but training needs 1\.0: .*every ratio would be biased"),
        ({"temperature": 0.0}, r"sampling\.temperature is 0, .*no ratio.*Set sampling\.temperature to 1"),
    ],
    ids=str,
)
def test_what_biases_the_ratio_is_refused_in_training(tables, config, change, says):
    with pytest.raises(ValueError, match=says):
        config(tables, "x", policy="y", sampling=SamplingConfig(**change))


def test_evaluation_may_truncate(tables):
    """Preference optimisation samples only to be measured: no ratio is made of these responses."""
    sampling = SamplingConfig(temperature=0.0, top_k=5, top_p=0.9)
    config = tiny_task.preference_config(tables, "x", policy="y", sampling=sampling)
    assert dataclasses.replace(config, seed=1).sampling == sampling
