"""PPO on a tiny task: its numbers at the start, its steps by hand, against any reward, and what it refuses."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import objectives, stages, training
from rlhf_jax.data import train_tokenizer
from rlhf_jax.data.parts import hold_out
from rlhf_jax.data.rows import PromptRow
from rlhf_jax.rewards import ShapingConfig
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.stages import (
    EncodedPrompt,
    KLConfig,
    LoadedModel,
    OnlineTrainer,
    RolloutReward,
    RunError,
    SamplerMismatch,
    forward,
)
from rlhf_jax.stages.names import OF_STEPS
from rlhf_jax.stages.online.loop import batch_of_prompts

LOGGED = {
    *("kl", "kl_per_token", "kl_coef", "proxy_mean", "proxy_std", "length", "eos_rate", "distinct_2", "unique_tokens"),
    *("disagreement", "clip_fraction", "ratio", "explained_variance", "entropy", "padding"),
    *("logprob_gap", "logprob_gap_p99", "logprob_gap_max"),
    *("loss", "policy_loss", "value_loss", "grad_norm", "skipped"),
}


def make_trainer(run, config, reward, mesh):
    policy = LoadedModel(tiny_model(run), run.params["policy"])
    return OnlineTrainer(config, policy=policy, tokenizer=run.tokenizer, reward=reward, mesh=mesh)


def tiny_model(run):
    return dataclasses.replace(tiny_task.MODEL, vocab_size=run.tokenizer.vocab_size)


def some_prompts(run, tables, count):
    rows = [json.loads(line)["prompt"] for line in (tables / "prompts.jsonl").read_text().splitlines()]
    return [EncodedPrompt(text, run.tokenizer.encode_prompt(text), i) for i, text in enumerate(rows[:count])]


@pytest.fixture(scope="module")
def by_hand(tables, sft_run, one_device):
    """A trainer against a text reward, and its first two iterations."""
    config = tiny_task.ppo_config(
        tables,
        "unused",
        policy="unused",
        shaping=ShapingConfig(clip=1.5, no_eos_penalty=0.5),
        kl=KLConfig(kind="fixed"),
    )
    trainer = make_trainer(sft_run, config, tiny_task.count_a, one_device)
    prompts = some_prompts(sft_run, tables, 16)
    state, iterations = trainer.init(), []
    for step in range(2):
        rollout = trainer.collect(state, prompts, step)
        batch, info = trainer.prepare(state, rollout, prompts)
        before = jax.device_get(state)
        state, metrics = trainer.update(state, batch, step)
        iterations.append(jax.device_get((before, rollout, batch, info, metrics)))
    return trainer, prompts, iterations


def mean(pair):
    return float(pair[0]) / float(pair[1])


def test_at_the_start_the_kl_is_zero_and_the_ratio_one(by_hand):
    trainer, _, iterations = by_hand
    before, _, batch, info, _ = iterations[0]
    np.testing.assert_array_equal(batch.old_logprobs, batch.ref_logprobs)
    assert mean(info["kl"]) == mean(info["kl_per_token"]) == 0.0
    assert mean(info["logprob_gap"]) < 1e-4
    out = forward(trainer.models, before.train.params, jax.tree.map(jnp.asarray, batch))
    loss = objectives.ppo(out, jax.tree.map(jnp.asarray, batch))
    ratio, mask = loss.metrics["ratio"]
    np.testing.assert_allclose(np.asarray(ratio)[np.asarray(mask)], 1.0, atol=1e-5)
    # In the second iteration the policy has moved away from its reference.
    assert abs(mean(iterations[1][3]["kl"])) > 1e-4


def test_prepare_is_the_mathematics_done_by_hand(by_hand):
    """Shaping, KL in the reward, GAE and whitening, in plain loops; in the second iteration, where the KL is not 0."""
    trainer, prompts, iterations = by_hand
    _, rollout, batch, info, _ = iterations[1]
    texts = trainer.sampler.texts(rollout)
    scores = np.array(tiny_task.count_a([p.text for p in prompts], texts))
    np.testing.assert_allclose(batch.score[:, 0], scores)
    seen = np.concatenate([iterations[0][2].score[:, 0], scores])
    shaped = np.clip((scores - seen.mean()) / seen.std(), -1.5, 1.5) - 0.5 * ~rollout.finished[:, 0]
    beta, lam = trainer.config.kl.coef, trainer.config.gae_lambda
    all_advantages, all_returns = [], []
    for i in range(len(prompts)):
        at = np.flatnonzero(rollout.mask[i, 0])
        kl = (batch.old_logprobs - batch.ref_logprobs)[i, 0][at].astype(np.float64)
        values = batch.old_values[i, 0][at].astype(np.float64)
        rewards = -beta * kl
        rewards[-1] += shaped[i]
        advantages, following, value_after = np.zeros(len(at)), 0.0, 0.0
        for t in reversed(range(len(at))):
            following = rewards[t] + value_after - values[t] + lam * following
            advantages[t], value_after = following, values[t]
        all_advantages.append(advantages)
        all_returns.append(advantages + values)
    flat = np.concatenate(all_advantages)
    white = (flat - flat.mean()) / np.sqrt(flat.var() + 1e-8)
    np.testing.assert_allclose(batch.advantages[rollout.mask], white, atol=2e-4)
    np.testing.assert_allclose(batch.returns[rollout.mask], np.concatenate(all_returns), atol=2e-4)
    assert np.abs(batch.old_values[rollout.mask]).max() > 1e-3  # the critic has learnt something to be wrong about
    returns, errors = np.concatenate(all_returns), flat  # what GAE adds to a value makes it the return
    assert mean(info["explained_variance"]) == pytest.approx(1 - errors.var() / returns.var(), abs=1e-3)
    assert mean(info["length"]) == pytest.approx(rollout.mask.sum() / len(prompts))
    assert mean(info["eos_rate"]) == pytest.approx(rollout.finished.mean())
    assert mean(info["proxy_mean"]) == pytest.approx(scores.mean())
    assert mean(info["proxy_std"]) == pytest.approx(scores.std(), rel=1e-5)


def test_sampled_ids_are_trained_on_as_they_are(by_hand):
    """An untrained policy samples ids that no tokenizer would write so: re-encoded text would be other tokens."""
    trainer, _, iterations = by_hand
    _, rollout, batch, _, _ = iterations[0]
    np.testing.assert_array_equal(batch.tokens, rollout.tokens)
    np.testing.assert_array_equal(batch.mask, rollout.mask)
    sampled = response_tokens(rollout)
    again = [trainer.sampler.tokenizer.encode_response(text) for text in trainer.sampler.texts(rollout)]
    assert any(a.tolist() != b.tolist() for a, b in zip(sampled, again, strict=True))


def test_an_update_trains_policy_and_critic_and_leaves_the_reference(by_hand, sft_run):
    trainer, _, iterations = by_hand
    first, second = iterations[0][0].train.params, iterations[1][0].train.params
    for role in ("policy", "critic"):
        assert not np.array_equal(first[role]["embedding"], second[role]["embedding"])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(trainer.sampler.reference), sft_run.params["policy"])
    assert int(iterations[1][0].train.step) == trainer.config.epochs * trainer.config.minibatches


def test_the_steps_by_hand_are_what_training_does(ppo_run, sft_run, reward_run, tables, one_device):
    config = ppo_run.config
    reward_config = dataclasses.replace(tiny_model(sft_run), scalar_head=True)
    trainer = make_trainer(sft_run, config, LoadedModel(reward_config, reward_run.params["reward"]), one_device)
    texts = [json.loads(line)["prompt"] for line in (tables / "prompts.jsonl").read_text().splitlines()]
    asked = {text: EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(texts)}
    rows = {row["step"]: row for row in ppo_run.metrics}
    kept = {row.prompt for row in hold_out("prompts", [PromptRow(t, "") for t in texts])[0]}
    training_texts = [t for t in texts if t in kept]
    training_prompts = [asked[t]._replace(id=i) for i, t in enumerate(training_texts)]
    state = trainer.init()
    for step in range(config.iterations):
        chosen = batch_of_prompts(training_prompts, config, step)
        rollout = trainer.collect(state, chosen, step)
        batch, info = trainer.prepare(state, rollout, chosen)
        state, metrics = trainer.update(state, batch, step)
        # Another width of padding, so other rows and another order of sums: the last bits may differ.
        for name, value in training.fetch({**info, **metrics}).items():
            if name == "padding":
                continue
            close = 1e-5 if name == "explained_variance" else 1e-6  # one less a ratio, which is rounded relative to one
            assert rows[step + 1][f"ppo/{name}"] == pytest.approx(value, rel=1e-5, abs=close), name


def test_every_figure_is_logged_at_every_step(ppo_run):
    steps = [row for row in ppo_run.metrics if row["step"] > 0]
    assert [row["step"] for row in steps] == [1, 2, 3]
    for row in steps:
        assert {f"ppo/{name}" for name in LOGGED} <= row.keys()
        assert all(np.isfinite(v) for k, v in row.items() if k.startswith("ppo/"))
    assert ppo_run.metrics[0]["step"] == 0  # the SFT policy itself, before any update
    assert ppo_run.metrics[0]["ppo/heldout_kl"] == 0.0
    assert [row["step"] for row in ppo_run.metrics if "ppo/heldout_proxy" in row] == [0, 2, 3]


def test_the_summary_compares_with_the_sft_policy(ppo_run):
    summary = ppo_run.summary
    for name in ("proxy", "gold"):
        assert (
            0
            <= summary[f"{name}_win_rate_ci"][0]
            <= summary[f"{name}_win_rate"]
            <= summary[f"{name}_win_rate_ci"][1]
            <= 1
        )
    samples = tiny_task.compared(ppo_run)
    assert len(samples) == summary["test_prompts"] == 3
    for row in samples:
        assert row["gold_after"] == row["after"].count("a")
        assert row["gold_before"] == row["before"].count("a")
    assert np.mean([row["proxy_after"] for row in samples]) == pytest.approx(summary["proxy_after"], rel=1e-5)
    assert ppo_run.params.keys() == {"policy", "critic"}


def test_the_best_parameters_are_those_of_the_best_held_out_reward(ppo_run):
    held = {row["step"]: row["ppo/heldout_proxy"] for row in ppo_run.metrics if "ppo/heldout_proxy" in row}
    assert held[ppo_run.summary["best_step"]] == max(held.values())


def test_a_reward_on_text_is_learnt(tables, tmp_path, folder, sft_run, one_device):
    config = tiny_task.ppo_config(
        tables,
        tmp_path,
        policy=folder,
        iterations=12,
        prompts=32,
        eval_every=12,
        kl=KLConfig(coef=0.01, maximum=0.02),
        policy_optimizer=training.OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
    )
    result = stages.ppo(config, reward=tiny_task.count_a, mesh=one_device)
    rewards = [row["ppo/proxy_mean"] for row in result.metrics if row["step"] > 0]
    assert np.mean(rewards[-3:]) > 1.5 * np.mean(rewards[:3])
    assert result.metrics[-1]["ppo/kl"] > 0.1
    assert result.summary["best_step"] == 12


def test_a_finished_stage_is_returned_without_work_and_another_config_or_reward_refused(ppo_run, idle):
    def never(*_):
        raise AssertionError("a finished stage does no work")

    again = stages.ppo(ppo_run.config)
    with pytest.raises(RunError, match=r"holds a ppo stage .*reward was"):
        stages.ppo(ppo_run.config, reward=never)
    jax.tree.map(np.testing.assert_array_equal, again.params, ppo_run.params)
    with pytest.raises(RunError, match=r"ppo stage of another config.*gae_lambda"):
        stages.ppo(dataclasses.replace(ppo_run.config, gae_lambda=0.9), reward=never)


def test_a_reward_that_is_not_finite_names_the_response(by_hand):
    trainer, prompts, iterations = by_hand
    rollout = jax.tree.map(jnp.asarray, iterations[0][1])
    reward = RolloutReward(lambda prompts, responses: [float("nan")] * len(responses), trainer.sampler)
    with pytest.raises(ValueError, match=r"the reward gave nan to response 0, .*finite"):
        reward(rollout, prompts)


def test_a_reward_that_fails_loses_no_iteration(tables, tmp_path, folder, sft_run, one_device):
    """It fails in the second of two iterations, far from any checkpoint: the first is not made again."""
    calls = []

    def reward(prompts, responses):
        calls.append(len(responses))
        if calls[-1] == 16 and calls.count(16) == 2:  # an iteration's responses, for the second time
            raise KeyError("score")
        return tiny_task.count_a(prompts, responses)

    config = tiny_task.ppo_config(tables, tmp_path, policy=folder, iterations=2, checkpoint_every=10)
    with pytest.raises(KeyError) as caught:
        stages.ppo(config, reward=reward, mesh=one_device)
    assert caught.value.__notes__ == ["what was done up to step 1 is saved, and the same command continues from there"]
    result = stages.ppo(config, reward=reward, mesh=one_device)
    assert [row["step"] for row in result.metrics] == [0, 1, 2]
    assert calls.count(16) == 3  # the first iteration once, the second twice


def test_figures_of_ours_have_names_that_no_metric_may_take(ppo_run):
    found = {name.removeprefix("ppo/") for row in ppo_run.metrics for name in row}
    ours = {name for name in found if not name.startswith("heldout_")}
    assert ours - OF_STEPS == {
        *("clip_fraction", "ratio", "entropy", "policy_loss", "value_loss", "approx_kl", "ref_kl")
    }


def test_a_sampler_that_disagrees_with_the_trainer_is_an_error(
    tables, tmp_path, folder, sft_run, one_device, monkeypatch
):
    """The sampler runs with a temperature of its own, without saying so."""
    original = OnlineTrainer.collect

    def off(self, state, prompts, step, **settings):
        rollout = original(self, state, prompts, step, **settings)
        return rollout._replace(logprobs=rollout.logprobs * 0.9)

    monkeypatch.setattr(OnlineTrainer, "collect", off)
    monkeypatch.setattr(OnlineTrainer, "update", lambda self, state, batch, step: (state, {}))
    config = tiny_task.ppo_config(tables, tmp_path, policy=folder)
    with pytest.raises(
        SamplerMismatch, match=r"ppo: at iteration 1 .*max_logprob_gap is 0\.001, the default for exact float32"
    ):
        stages.ppo(config, reward=tiny_task.count_a, mesh=one_device)
    assert not (tmp_path / "params").exists()


def test_folders_that_lack_a_stage_are_named(tables, tmp_path, folder, reward_run, sft_run):
    with pytest.raises(RunError, match=r"no finished sft stage in .*gone"):
        stages.ppo(tiny_task.ppo_config(tables, tmp_path, policy=tmp_path / "gone", reward=folder))
    with pytest.raises(RunError, match=r"no finished reward stage in .*gone"):
        stages.ppo(tiny_task.ppo_config(tables, tmp_path, policy=folder, reward=tmp_path / "gone"))


def test_a_folder_with_another_tokenizer_is_refused(tables, tmp_path, folder, sft_run):
    train_tokenizer(["quite another text about nothing at all"] * 9, 290).save(tmp_path / "tokenizer.json")
    with pytest.raises(RunError, match="tokenizer"):
        stages.ppo(tiny_task.ppo_config(tables, tmp_path, policy=folder), reward=tiny_task.count_a)


def test_minibatches_divide_the_prompts(tables):
    with pytest.raises(ValueError, match=r"prompts \(16\) must be a multiple of minibatches \(3\)"):
        tiny_task.ppo_config(tables, "x", policy="y", minibatches=3)


def test_batches_of_prompts_walk_through_shuffled_epochs(tables):
    config = tiny_task.ppo_config(tables, "x", policy="y")
    prompts = [EncodedPrompt(str(i), np.array([1]), i) for i in range(24)]
    seen = [p.id for i in range(3) for p in batch_of_prompts(prompts, config, i)]
    assert sorted(seen[:24]) == sorted(seen[24:]) == list(range(24))  # 3 iterations of 16 are 2 epochs of 24
    assert seen[:24] != seen[24:]
    assert seen != sorted(seen)


def test_an_objective_of_ones_own_keeps_its_defaults_but_for_the_fields_that_are_set():
    from rlhf_jax.stages.online.trainer import _loss_fields

    def mine(outputs, batch, *, clip_low=0.3): ...

    assert _loss_fields(stages.PPOConfig(), mine) == {}
    asked = stages.PPOConfig(loss=stages.PPOLossConfig(clip_low=0.1))
    assert _loss_fields(asked, mine) == {"clip_low": 0.1}
    assert _loss_fields(asked, None) == dataclasses.asdict(asked.loss)
    assert _loss_fields(stages.PPOConfig(objective="a2c", epochs=1, minibatches=1), None)["value_coef"] == 0.1
