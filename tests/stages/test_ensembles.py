"""Reward models side by side: each trained as if it were alone, together one reward that knows where it is unsure."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import models, objectives, parallel, stages, training
from rlhf_jax.data import Demonstration, write_jsonl
from rlhf_jax.data.batches import MemberBatches, PackedEpochs
from rlhf_jax.data.encode import encode
from rlhf_jax.rewards import EnsembleConfig
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.runs.folder import load_stage
from rlhf_jax.stages import (
    EncodedPrompt,
    LoadedModel,
    OnlineTrainer,
    RewardConfig,
    RolloutReward,
    RunError,
    Scorer,
    make_loss_fn,
    opinions,
)
from rlhf_jax.stages.sampler import Sampler

MEMBERS = 3
SIDES = ("chosen", "rejected")


@pytest.fixture(scope="module")
def ensemble_run(tables, tmp_path_factory, folder, sft_run, one_device):
    """Evaluated only at its end, so that its best parameters are its last."""
    config = tiny_task.reward_config(
        tables,
        tmp_path_factory.mktemp("ensemble"),
        init=folder,
        table="ratings",
        members=MEMBERS,
        epochs=3,
        eval_every=99,
        checkpoint_every=99,
    )
    return stages.reward_model(config, mesh=one_device)


@pytest.fixture(scope="module")
def trunk(ensemble_run):
    return LoadedModel(ensemble_run.model_config, ensemble_run.params["reward"])


def member(tree, m):
    return jax.tree.map(lambda x: x[m], tree)


def member_epochs(run):
    """Each member's own passes over the data, numbered one after the other; and what all batches of a run share."""
    config, tokenizer = run.config, run.tokenizer
    data = opinions.comparisons(config.data, tokenizer, group_size=config.group_size, seed=config.seed)
    shape = {"rows": config.rows, "row_length": config.row_length, "pad_id": tokenizer.pad_id}
    passes = [functools.partial(lambda m, number: data.epoch(number + m * config.epochs), m) for m in range(MEMBERS)]
    return passes, {"epochs": config.epochs, **shape}


def test_three_members_in_one_program_are_three_trainings(ensemble_run, sft_run):
    """The same weights as three loops over the same data with the same seeds, one after the other."""
    config = ensemble_run.config
    passes, shape = member_epochs(ensemble_run)
    groups, length = (max(x) for x in zip(*(PackedEpochs(p, **shape).shape for p in passes), strict=True))
    each = [PackedEpochs(p, **shape, groups=groups, length=length) for p in passes]  # so that one program serves all
    steps = min(map(len, each))
    assert ensemble_run.summary["steps"] == steps > 4
    bound = functools.partial(objectives.reward_model, center=config.center, margin=config.margin)
    rule = training.make_optimizer(config.optimizer, steps)
    step = jax.jit(training.make_train_step(make_loss_fn(bound, {"reward": ensemble_run.model}), rule))
    keys = jax.random.split(jax.random.key(config.seed), MEMBERS)
    clipped, losses = 0, []
    for m in range(MEMBERS):
        start = models.with_scalar_head(sft_run.params["policy"], ensemble_run.model_config, keys[m])
        state = training.init_state({"reward": start}, rule)
        for i in range(steps):
            state, metrics = step(state, each[m][i], jax.random.key(0))
            row = training.fetch(metrics)
            clipped += row["grad_norm"] > config.optimizer.max_grad_norm
            losses.append([float(x) for x in metrics["loss"]])
        # Adam divides by the gradient's own size, and so makes much of the rounding of a gradient near zero.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4),
            member(ensemble_run.params["reward"], m),
            state.params["reward"],
        )
    assert clipped  # of one member, which the others must not feel
    # What is logged is the mean over the comparisons of all members.
    total, weight = np.reshape(losses, (MEMBERS, -1, 2)).sum(0).T
    np.testing.assert_allclose(total / weight, [row["reward/loss"] for row in ensemble_run.metrics], rtol=1e-4)


def test_members_see_the_data_in_orders_of_their_own(ensemble_run):
    passes, shape = member_epochs(ensemble_run)
    stacked = MemberBatches(passes, **shape)
    first = stacked[0]
    assert first.tokens.shape[0] == MEMBERS
    assert len({first.tokens[m].tobytes() for m in range(MEMBERS)}) == MEMBERS
    shapes = {tuple(x.shape for x in jax.tree.leaves(stacked[i])) for i in range(len(stacked))}
    assert len(shapes) == 1
    for m, epoch in enumerate(passes):
        filled = PackedEpochs(epoch, **shape)[1].tokens
        np.testing.assert_array_equal(stacked[1].tokens[m, : filled.shape[0], :, : filled.shape[2]], filled)
        assert not stacked[1].mask[m, filled.shape[0] :].any()


def test_members_differ_and_each_has_learnt(ensemble_run):
    head = ensemble_run.params["reward"]["head"]["kernel"]
    assert head.shape[0] == MEMBERS
    for a in range(MEMBERS):
        for b in range(a):
            assert np.abs(head[a] - head[b]).max() > 0.01
    summary = ensemble_run.summary
    assert len(summary["member_accuracy"]) == MEMBERS
    assert min(summary["member_accuracy"]) > 0.6
    assert summary["accuracy"] > 0.8
    assert summary["disagreement"] > 0.01
    held = [row for row in ensemble_run.metrics if "reward/heldout_loss" in row]
    assert all({"reward/heldout_disagreement", "reward/heldout_accuracy"} <= row.keys() for row in held)


def test_it_comes_back_from_disk_as_it_was(ensemble_run, idle):
    params, config, _ = load_stage(ensemble_run.directory, "reward")
    jax.tree.map(np.testing.assert_array_equal, params, ensemble_run.params)
    assert config == ensemble_run.model_config
    again = stages.reward_model(ensemble_run.config)
    assert again.summary == ensemble_run.summary
    with pytest.raises(RunError, match=r"reward stage of another config.*members"):
        stages.reward_model(dataclasses.replace(ensemble_run.config, members=2))


def test_a_scorer_combines_the_members(ensemble_run):
    prompts, responses = ["About the cat"] * 3, ["sat a far", "rose the low", "ran vast bath"]
    scorer = Scorer.load(ensemble_run.directory)
    each = [
        dataclasses.replace(scorer, params={"reward": member(scorer.params["reward"], m)})(prompts, responses)
        for m in range(MEMBERS)
    ]
    np.testing.assert_allclose(scorer(prompts, responses), np.mean(each, axis=0), atol=1e-6)
    worst = Scorer.load(ensemble_run.directory, EnsembleConfig(combine="min"))
    np.testing.assert_allclose(worst(prompts, responses), np.min(each, axis=0), atol=1e-6)
    assert np.std(each, axis=0).min() > 1e-4


# ---- as a reward ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts(tables, sft_run):
    rows = [json.loads(line)["prompt"] for line in (tables / "prompts.jsonl").read_text().splitlines()]
    return [EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(rows[:8])]


@pytest.fixture(scope="module")
def sampler(sft_run, one_device):
    reference = sft_run.params["policy"]
    sampling = tiny_task.ONLINE["sampling"]
    return Sampler(sft_run.model, sft_run.tokenizer, sampling, reference=reference, mesh=one_device)


@pytest.fixture(scope="module")
def sampled(sampler, prompts):
    """Two responses to each of eight prompts."""
    return sampler(sampler.reference, prompts, 0, samples=2)


@pytest.fixture(scope="module")
def each(trunk, sampled):
    """The members' scores one by one, float64 [M, 8, 2]."""
    score = jax.jit(lambda p, b: stages.forward({"reward": models.build(trunk.config)}, {"reward": p}, b).scores)
    return np.stack([score(member(trunk.params, m), as_batch(sampled)) for m in range(MEMBERS)]).astype(np.float64)


COMBINED = {
    "mean": lambda x: x.mean(0),
    "min": lambda x: x.min(0),
    "lower_bound": lambda x: x.mean(0) - 1.5 * x.std(0),
}


@pytest.mark.parametrize("how", COMBINED)
def test_scores_are_combined(trunk, sampler, sampled, prompts, each, how):
    reward = RolloutReward(trunk, sampler, EnsembleConfig(combine=how, k=1.5))
    scores = reward(sampled, prompts)
    np.testing.assert_allclose(scores.reward, COMBINED[how](each), atol=1e-5)
    np.testing.assert_allclose(scores.disagreement, each.std(0), atol=1e-5)
    assert np.asarray(scores.disagreement).min() > 0
    assert np.asarray(scores.reward).dtype == np.float32


def test_a_single_reward_model_never_disagrees(trunk, sampler, sampled, prompts, each):
    for how in COMBINED:
        alone = RolloutReward(LoadedModel(trunk.config, member(trunk.params, 1)), sampler, EnsembleConfig(combine=how))
        scores = alone(sampled, prompts)
        np.testing.assert_allclose(scores.reward, each[1], atol=1e-6)
        assert not np.asarray(scores.disagreement).any()


def test_ppo_trains_against_an_ensemble_and_logs_where_it_disagrees(tables, sft_run, trunk, prompts, one_device):
    config = tiny_task.ppo_config(
        tables, "unused", policy="unused", prompts=8, minibatches=2, ensemble=EnsembleConfig(combine="min")
    )
    policy = LoadedModel(sft_run.model_config, sft_run.params["policy"])
    trainer = OnlineTrainer(config, policy=policy, tokenizer=sft_run.tokenizer, reward=trunk, mesh=one_device)
    state = trainer.init()
    critic = state.train.params["critic"]
    # The critic is one model: the trunk of the first member, and a head of its own.
    np.testing.assert_array_equal(critic["embedding"], trunk.params["embedding"][0])
    assert critic["head"]["kernel"].shape == (tiny_task.MODEL.d_model, 1)
    assert not np.asarray(critic["head"]["kernel"]).any()
    rollout = trainer.collect(state, prompts, 0)
    scores = trainer.reward(rollout, prompts)
    batch, info = trainer.prepare(state, rollout, prompts)
    figures = training.fetch(info)
    assert figures["disagreement"] == pytest.approx(float(np.mean(scores.disagreement)), rel=1e-5)
    assert figures["disagreement"] > 0
    np.testing.assert_allclose(batch.score, scores.reward, atol=1e-6)
    state, metrics = trainer.update(state, batch, 0)
    assert training.fetch(metrics)["skipped"] == 0.0
    assert not np.array_equal(state.train.params["critic"]["embedding"], trunk.params["embedding"][0])


def test_best_of_n_chooses_by_the_combined_score(tables, folder, ensemble_run, one_device):
    """The worst case of the members is what the kept response is best at."""
    summary, rows = stages.best_of_n(
        str(folder),
        str(ensemble_run.directory),
        n=4,
        ensemble=EnsembleConfig(combine="min"),
        data=tiny_task.data(tables, "prompts"),
        sampling=tiny_task.ONLINE["sampling"],
        judges={},
        mesh=one_device,
    )
    assert all(row["proxy_after"] >= row["proxy_before"] for row in rows)
    assert summary["proxy_after"] > summary["proxy_before"]


def test_eight_devices_train_the_same_members(tables, tmp_path, folder, ensemble_run, one_device):
    eight = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=2, tensor=2))
    rows = []
    for name, mesh in (("one", one_device), ("eight", eight)):
        config = dataclasses.replace(ensemble_run.config, out=str(tmp_path / name), epochs=1)
        rows.append(stages.reward_model(config, mesh=mesh).metrics)
    for a, b in zip(*rows, strict=True):
        assert b["reward/loss"] == pytest.approx(a["reward/loss"], rel=1e-5, abs=1e-5)
        assert b["reward/grad_norm"] == pytest.approx(a["reward/grad_norm"], rel=1e-4)


# ---- what combines them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EnsembleConfig(k=-1.0), "ensemble.k must not be negative, found -1.0"),
        (lambda: EnsembleConfig(k=float("nan")), "k must be a finite number"),
        (lambda: RewardConfig(members=0), "members must be at least 1, found 0"),
    ],
    ids=["negative", "nan", "no members"],
)
def test_a_config_that_cannot_run_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_heads_drawn_with_a_key_start_the_members_apart(sft_run):
    config = dataclasses.replace(sft_run.model_config, scalar_head=True)
    policy = sft_run.params["policy"]
    zero = models.with_scalar_head(policy, config)
    a, b = (models.with_scalar_head(policy, config, jax.random.key(n)) for n in (0, 1))
    assert not np.asarray(zero["head"]["kernel"]).any()
    assert np.abs(a["head"]["kernel"] - b["head"]["kernel"]).max() > 0.01
    wide = dataclasses.replace(config, d_model=4096)
    drawn = models.with_scalar_head({}, wide, jax.random.key(0))["head"]["kernel"]
    assert float(jnp.var(drawn)) == pytest.approx(1 / 4097, rel=0.1)
    jax.tree.map(np.testing.assert_array_equal, {k: v for k, v in a.items() if k != "head"}, policy)


def test_evaluate_says_how_good_each_member_is(ensemble_run, tmp_path):
    """Combined as told, and every member alone, counted from its own scores."""
    rows = tiny_task.tables()["unseen"]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    scorer = Scorer.load(ensemble_run.directory)
    asked = [encode(Demonstration(r["prompt"], r[s], ""), scorer.tokenizer).tokens[0] for r in rows for s in SIDES]
    each = scorer.score_members(asked).reshape(MEMBERS, -1, 2)
    found = stages.evaluate(ensemble_run.directory, tmp_path / "pairs.jsonl", ensemble=EnsembleConfig(combine="min"))
    assert found.members.accuracies == tuple((each[..., 0] > each[..., 1]).mean(axis=1).tolist())
    assert found.members.disagreement == pytest.approx(each.std(axis=0).mean(), rel=1e-5)
    least = each.min(axis=0)
    assert found.quality.accuracy == (least[:, 0] > least[:, 1]).mean()
