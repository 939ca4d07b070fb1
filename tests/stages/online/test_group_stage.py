"""Group methods on a tiny task: no critic, K samples a prompt, and where the KL goes, by hand-computed numbers."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import cli, objectives, stages, training
from rlhf_jax.rewards import ShapingConfig
from rlhf_jax.stages import EncodedPrompt, KLConfig, LoadedModel, OnlineTrainer, Policy, RunError
from rlhf_jax.stages.sampler import Sampler

METHODS = ("rloo", "grpo", "expert_iteration", "online_dpo", "reinforce")
K = 4


@pytest.fixture(scope="module")
def prompts(tables, sft_run):
    rows = [json.loads(line)["prompt"] for line in (tables / "prompts.jsonl").read_text().splitlines()]
    return [EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(rows[:8])]


@pytest.fixture(scope="module")
def policy(sft_run):
    return LoadedModel(sft_run.model_config, sft_run.params["policy"])


@pytest.fixture(scope="module")
def sampler(tables, sft_run, policy, one_device):
    """One for all trainers of this file, so that its programs are compiled once."""
    return Sampler(
        sft_run.model,
        sft_run.tokenizer,
        tiny_task.ONLINE["sampling"],
        reference=policy.params,
        mesh=one_device,
    )


@pytest.fixture(scope="module")
def outputs(sft_run):
    """What the policy says of a batch, compiled once."""
    return jax.jit(functools.partial(stages.forward, {"policy": sft_run.model}))


@pytest.fixture
def make(tables, sft_run, policy, sampler, one_device, monkeypatch):
    """Makes a trainer of a config's changes."""
    # Through sys.modules: no name of the package may hide the module.
    monkeypatch.setattr(sys.modules["rlhf_jax.stages.online.trainer"], "Sampler", lambda *_, **__: sampler)

    def trainer(**changes):
        config = tiny_task.group_config(tables, "unused", policy="unused", **changes)
        return OnlineTrainer(
            config, policy=policy, tokenizer=sft_run.tokenizer, reward=tiny_task.count_a, mesh=one_device
        )

    return trainer


def mean(pair):
    return float(pair[0]) / float(pair[1])


@pytest.mark.parametrize("method", METHODS)
def test_two_iterations_by_hand(make, prompts, sft_run, method):
    # REINFORCE has no ratio: its samples are good for one update.
    updates = 1 if method == "reinforce" else 2
    trainer = make(objective=method, minibatches=updates, shaping=ShapingConfig(no_eos_penalty=0.0))
    assert (trainer.critic, set(trainer.models)) == (None, {"policy"})
    state = trainer.init()
    assert state.train.params.keys() == {"policy"}
    first, figures = jax.device_get(state.train.params), []
    for step in range(2):
        rollout = trainer.collect(state, prompts, step)
        assert rollout.tokens.shape[:2] == (8, K)
        batch, info = trainer.prepare(state, rollout, prompts)
        assert (batch.advantages, batch.returns, batch.old_values) == (None, None, None)
        assert "explained_variance" not in info
        state, metrics = trainer.update(state, batch, step)
        figures.append(training.fetch({**info, **metrics}))
    for row in figures:
        assert all(np.isfinite(value) for value in row.values())
        assert (row["skipped"], row["disagreement"]) == (0.0, 0.0)
        assert row["grad_norm"] > 0
    assert figures[0]["kl"] == 0.0 != figures[1]["kl"]
    assert state.train.params.keys() == {"policy"}
    assert int(state.train.step) == 2 * updates
    assert not np.array_equal(first["policy"]["embedding"], state.train.params["policy"]["embedding"])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(trainer.sampler.reference), sft_run.params["policy"])
    own = {"rloo": "clip_fraction", "grpo": "ref_kl", "expert_iteration": "kept_reward", "online_dpo": "paired"}
    assert own.get(method, "advantage") in figures[0]
    if method in ("rloo", "reinforce"):  # whose advantages are of rewards as they are
        assert figures[0]["reward"] == pytest.approx(figures[0]["shaped_reward"], rel=1e-5, abs=1e-6)


def test_the_samples_of_a_prompt_differ(make, prompts):
    trainer = make()
    rollout = trainer.collect(trainer.init(), prompts, 0)
    texts = np.array(trainer.sampler.texts(rollout)).reshape(8, K)
    assert all(len(set(row)) > 1 for row in texts)
    np.testing.assert_array_equal(rollout.tokens[:, 0, :1], rollout.tokens[:, 1, :1])
    starts = [rollout.tokens[b, k, : rollout.tokens.shape[2] - 8] for b in range(8) for k in range(K)]
    for b in range(8):
        for k in range(K):
            np.testing.assert_array_equal(starts[b * K], starts[b * K + k])  # the same prompt


@pytest.fixture
def moved(make):
    """A state whose policy is away from the reference, so that the KL is not 0."""
    state = make().init()
    rng = np.random.default_rng(0)
    policy = jax.tree.map(
        lambda x: x + 0.7 * jnp.std(x) * rng.normal(size=x.shape).astype(np.float32), state.train.params["policy"]
    )
    return state._replace(train=state.train._replace(params={"policy": policy}))


PLACES = {
    "reward": KLConfig(kind="fixed", coef=0.07, placement="reward"),
    "loss": KLConfig(kind="fixed", coef=0.07, placement="loss"),
    "objective": KLConfig(kind="objective"),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_kl_goes_where_the_config_says(make, moved, prompts, place):
    """``batch.reward`` and ``batch.kl_coef`` from the sampled tokens, in plain loops."""
    shaping = ShapingConfig(clip=1.5, no_eos_penalty=0.5, length_penalty=0.01)
    trainer = make(kl=PLACES[place], shaping=shaping)
    moved = moved._replace(controller=trainer.init().controller)
    rollout = trainer.collect(moved, prompts, 3)
    batch, info = jax.device_get(trainer.prepare(moved, rollout, prompts))

    texts = trainer.sampler.texts(rollout)
    scores = np.array(tiny_task.count_a(None, texts)).reshape(8, K)
    np.testing.assert_array_equal(batch.score, scores)
    normal = np.clip((scores - scores.mean()) / scores.std(), -1.5, 1.5)
    mask = np.asarray(rollout.mask)
    shaped = normal - 0.5 * ~np.asarray(rollout.finished) - 0.01 * mask.sum(-1)
    kl = np.where(mask, batch.old_logprobs.astype(np.float64) - batch.ref_logprobs, 0.0).sum(-1)
    assert np.abs(kl).max() > 0.1

    want = {"reward": shaped - 0.07 * kl, "loss": shaped, "objective": shaped}[place]
    np.testing.assert_allclose(batch.reward, want, atol=1e-5)
    coefficient = {"reward": np.zeros((8, K)), "loss": np.full((8, K), 0.07), "objective": None}[place]
    if coefficient is None:
        assert batch.kl_coef is None
        assert "kl_coef" not in info  # no controller acts, so none is logged
    else:
        assert mean(info["kl_coef"]) == pytest.approx(0.07)
        np.testing.assert_allclose(batch.kl_coef, coefficient, rtol=1e-6)
    assert mean(info["kl"]) == pytest.approx(kl.mean(), rel=1e-4)
    assert mean(info["kl_per_token"]) == pytest.approx(kl.sum() / mask.sum(), rel=1e-4)
    assert mean(info["shaped_reward"]) == pytest.approx(shaped.mean(), abs=1e-5)  # before the KL


@pytest.mark.parametrize(("place", "coef"), [("reward", 0.0), ("loss", 0.07), ("objective", 0.3)])
def test_the_kl_counts_once_wherever_it_is(make, moved, prompts, outputs, place, coef):
    """GRPO has a KL of its own in the loss: a controller's replaces it, and one in the reward switches it off."""
    trainer = make(kl=PLACES[place])
    moved = moved._replace(controller=trainer.init().controller)
    rollout = trainer.collect(moved, prompts, 3)
    batch = trainer.prepare(moved, rollout, prompts)[0]
    out = outputs(moved.train.params, batch)
    with_kl = objectives.grpo(out, batch, kl_coef=0.3)
    without = objectives.grpo(out, batch._replace(kl_coef=None), kl_coef=0.0)
    gap = np.asarray(with_kl.values - without.values)[np.asarray(batch.mask)]
    log_ratio = np.asarray(out.logprobs - batch.ref_logprobs, np.float64)[np.asarray(batch.mask)]
    np.testing.assert_allclose(gap, coef * (np.expm1(-log_ratio) + log_ratio), atol=1e-5)
    assert (np.abs(gap).max() > 1e-3) == (coef > 0)


@pytest.mark.parametrize("kind", ["adaptive", "banded"])
def test_a_controller_steers_by_the_kl_of_the_iteration(make, moved, prompts, kind):
    kl = KLConfig(kind=kind, coef=0.05, target=0.01, horizon=1000.0, low=0.001, high=0.01, factor=1.5)
    trainer = make(kl=kl)
    moved = moved._replace(controller=trainer.init().controller)
    rollout = trainer.collect(moved, prompts, 3)
    batch, info = trainer.prepare(moved, rollout, prompts)
    assert mean(info["kl"]) > 0.05
    assert mean(info["kl_coef"]) == pytest.approx(0.05)
    after = trainer.update(jax.tree.map(jnp.copy, moved), batch, 3)[0]
    want = {"adaptive": 0.05 * (1 + 0.2 * 8 * K / 1000), "banded": 0.05 * 1.5}[kind]
    assert float(after.controller.coef) == pytest.approx(want)


# ---- the stage ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group_run(tables, tmp_path_factory, folder, sft_run, one_device):
    """RLOO against a reward on text, long enough to learn it."""
    config = tiny_task.group_config(
        tables,
        tmp_path_factory.mktemp("group"),
        policy=folder,
        iterations=12,
        eval_every=12,
        checkpoint_every=12,
        hyperparameters={"kl_coef": 0.01},
        policy_optimizer=training.OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
    )
    return stages.group(
        config, reward=tiny_task.count_a, mesh=one_device, judges={"ends": lambda _, r: [len(x) for x in r]}
    )


def test_a_reward_on_text_is_learnt(group_run):
    rewards = [row["group/proxy_mean"] for row in group_run.metrics if row["step"] > 0]
    assert np.mean(rewards[-3:]) > 1.5 * np.mean(rewards[:3])
    assert group_run.metrics[-1]["group/kl"] > 0.1
    assert group_run.summary["best_step"] == 12
    assert group_run.summary["proxy_after"] > group_run.summary["proxy_before"]
    assert group_run.params.keys() == {"policy"}


def test_every_figure_is_logged_at_every_step(group_run):
    steps = [row for row in group_run.metrics if row["step"] > 0]
    assert [row["step"] for row in steps] == list(range(1, 13))
    names = {"kl", "kl_per_token", "proxy_mean", "proxy_std", "shaped_reward", "length", "eos_rate", "distinct_2"}
    names |= {"loss", "grad_norm", "skipped", "ratio", "clip_fraction", "advantage_abs", "entropy", "logprob_gap"}
    for row in steps:
        assert {f"group/{name}" for name in names} <= row.keys()
        assert not {"group/value_loss", "group/explained_variance"} & row.keys()
        assert all(np.isfinite(v) for k, v in row.items() if k.startswith("group/"))
    assert group_run.metrics[0]["group/heldout_kl"] == 0.0  # the SFT policy itself, before any update
    assert {"group/heldout_proxy", "group/heldout_ends"} <= group_run.metrics[-1].keys()
    # RLOO's ratio is one on the first of an iteration's two updates.
    assert steps[0]["group/ratio"] == pytest.approx(1.0, abs=0.2)


def test_the_summary_compares_with_the_sft_policy(group_run):
    summary = group_run.summary
    samples = tiny_task.compared(group_run)
    assert len(samples) == summary["test_prompts"] == 3
    for when in ("before", "after"):
        assert all(row[f"proxy_{when}"] == row[when].count("a") for row in samples)
        assert np.mean([row[f"ends_{when}"] for row in samples]) == pytest.approx(summary[f"ends_{when}"])
    assert summary["objective"] == "rloo"
    # A reward model that was not read is no part of the run.
    assert json.loads((group_run.directory / "config.json").read_text())["group"]["reward_model"] == ""
    assert summary["kl_ci"][0] <= summary["kl"] <= summary["kl_ci"][1]
    assert Policy.load(group_run.directory).stage == "group"


def test_a_finished_stage_is_returned_and_another_config_or_objective_refused(group_run, idle):
    def never(*_):
        raise AssertionError("a finished stage does no work")

    again = stages.group(group_run.config, reward=tiny_task.count_a)
    jax.tree.map(np.testing.assert_array_equal, again.params, group_run.params)
    assert again.summary == group_run.summary
    for change, field in (
        ({"objective": "grpo"}, "objective"),
        ({"samples": 2}, "samples"),
        ({"hyperparameters": {"kl_coef": 0.02}}, "hyperparameters"),
        ({"kl": KLConfig(kind="banded")}, "kl"),
    ):
        with pytest.raises(RunError, match=rf"group stage of another config.*{field}"):
            stages.group(dataclasses.replace(group_run.config, **change), reward=never)
    with pytest.raises(RunError, match=r"group stage of another config \(objective"):
        stages.group(group_run.config, reward=never, objective=functools.partial(objectives.rloo, kl_coef=0.01))


def test_the_report_shows_the_run(group_run, capsys):
    assert cli.run(["report", str(group_run.directory)]) == 0
    page = (group_run.directory / "report.html").read_text()
    assert "group" in page
    assert "kl" in page.lower()


def test_the_hyperparameters_of_the_config_reach_the_objective(make, prompts):
    named = make(objective="dr_grpo", hyperparameters={"max_length": 8}, minibatches=1)
    with pytest.raises(RunError, match="objective dr_grpo needs --hyperparameters max_length VALUE"):
        make(objective="dr_grpo")
    state = named.init()
    rollout = named.collect(state, prompts, 0)
    batch, _ = named.prepare(state, rollout, prompts)
    found = training.fetch(named.update(state, batch, 0)[1])
    # At a ratio of 1: minus the advantage, times the tokens, over the longest response allowed.
    reward, length = np.asarray(batch.reward, np.float64), np.asarray(batch.mask).sum(-1)
    want = -((reward - reward.mean(1, keepdims=True)) * length / 8).mean()
    assert abs(want) > 1e-3
    assert found["loss"] == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompts": 9, "minibatches": 2}, r"prompts \(9\) must be a multiple of minibatches \(2\)"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"iterations": 0}, "iterations must be at least 1"),
    ],
    ids=str,
)
def test_a_config_that_cannot_run_is_refused(tables, change, says):
    with pytest.raises(ValueError, match=says):
        tiny_task.group_config(tables, "x", policy="y", **change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "banded", "low": 5.0, "high": 4.0}, "low < high"),
        ({"kind": "banded", "factor": 1.0}, "factor"),
        ({"kind": "banded", "coef": 0.5}, "minimum <= initial <= maximum"),
        ({"kind": "adaptive", "target": 0.0}, "target and horizon must be positive"),
        ({"kind": "fixed", "coef": -1.0}, "coef must be at least 0"),
        ({"kind": "objective", "coef": 0.2}, "do nothing while kl.kind is objective"),
        ({"kind": "objective", "placement": "loss"}, "do nothing while kl.kind is objective"),
    ],
    ids=str,
)
def test_a_kl_config_that_does_not_fit_together_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        KLConfig(**change)
