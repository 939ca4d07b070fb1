"""PPO and A2C whose critic is a head on the policy: what is trained, saved, resumed and learnt."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_task

from rlhf_jax import cli, models, parallel, stages, training
from rlhf_jax.losses.checks import UnusualHyperparameter
from rlhf_jax.runs.loading import load_stage
from rlhf_jax.stages import EncodedPrompt, KLConfig, LoadedModel, OnlineTrainer, Policy, PPOConfig
from rlhf_jax.stages.model_sizes import warn_of_rates

WIDTH = tiny_task.MODEL.d_model
KERNEL = np.random.default_rng(7).normal(size=(WIDTH, 1)).astype(np.float32)


def make(tables, sft_run, mesh, **changes):
    settings = {"critic": "head", "epochs": 1, "minibatches": 1, "samples": 2, **changes}
    return OnlineTrainer(
        tiny_task.ppo_config(tables, "unused", policy="unused", **settings),
        policy=LoadedModel(sft_run.model_config, sft_run.params["policy"]),
        tokenizer=sft_run.tokenizer,
        reward=tiny_task.count_a,
        mesh=mesh,
    )


def some_prompts(sft_run):
    texts = [row["prompt"] for row in tiny_task.tables()["prompts"]][:16]
    return [EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(texts)]


def iterate(trainer, prompts, kernel=None):
    """One iteration from a head that knows something, if it is given: the batch, parameters after it, and figures."""
    state = trainer.init()
    if kernel is not None:
        params = {**state.train.params, "critic": {"head": {"kernel": jnp.asarray(kernel)}}}
        state = state._replace(train=state.train._replace(params=params))
    rollout = trainer.collect(state, prompts, 0)
    batch, info = trainer.prepare(state, rollout, prompts)
    before = jax.device_get(state.train.params)
    state, metrics = trainer.update(state, batch, 0)
    return batch, before, jax.device_get(state.train.params), training.fetch({**info, **metrics})


@pytest.fixture(scope="module")
def shares(tables, sft_run, one_device):
    """One update with the same batch and three shares of the value loss's gradient."""
    prompts = some_prompts(sft_run)
    return {
        share: iterate(make(tables, sft_run, one_device, critic_gradient=share), prompts, KERNEL)
        for share in (0.0, 0.5, 1.0)
    }


def test_it_starts_at_zero_and_is_all_that_the_critic_has(tables, sft_run, one_device):
    trainer = make(tables, sft_run, one_device)
    params = trainer.init().train.params
    assert jax.tree.map(jnp.shape, params["critic"]) == {"head": {"kernel": (WIDTH, 1)}}
    assert not np.asarray(params["critic"]["head"]["kernel"]).any()
    assert isinstance(trainer.models["critic"], models.ValueHead)
    assert trainer.with_trunk(params)["critic"].keys() == {"head"}
    moments = [x for x in jax.tree.leaves(trainer.init().train.opt_state) if x.ndim]
    trained = sum(x.size for x in jax.tree.leaves(params["policy"])) + WIDTH
    assert sum(x.size for x in moments) == 2 * trained  # Adam's two, of the policy and of the head


def test_without_a_share_the_policy_is_trained_as_if_values_had_no_loss(shares, tables, sft_run, one_device):
    with pytest.warns(UnusualHyperparameter, match="value_coef is 0"):
        trainer = make(tables, sft_run, one_device, loss=stages.PPOLossConfig(value_coef=0.0))
    unvalued = iterate(trainer, some_prompts(sft_run), KERNEL)
    none, some, whole = (shares[share][2] for share in (0.0, 0.5, 1.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), none["policy"], unvalued[2]["policy"])
    assert not np.array_equal(none["critic"]["head"]["kernel"], KERNEL)  # the head learns nevertheless
    np.testing.assert_array_equal(unvalued[2]["critic"]["head"]["kernel"], KERNEL)
    for other in (some, whole):
        assert not np.allclose(none["policy"]["embedding"], other["policy"]["embedding"], atol=1e-5)
        np.testing.assert_allclose(other["critic"]["head"]["kernel"], none["critic"]["head"]["kernel"], atol=1e-6)
    assert shares[0.0][3]["value_loss"] == pytest.approx(shares[1.0][3]["value_loss"], rel=1e-5)
    assert shares[0.0][3]["grad_norm"] < shares[1.0][3]["grad_norm"]


def test_old_values_are_those_of_the_head_on_the_policy_that_sampled(shares, sft_run):
    batch, before, _, _ = shares[1.0]
    model, params = sft_run.model, before["policy"]
    rows = [x.reshape(-1, x.shape[-1]) for x in (batch.tokens, batch.positions, batch.segment_ids)]
    values = np.asarray((model.apply(params, *rows) @ KERNEL)[:, :-1, 0]).reshape(*batch.tokens.shape[:2], -1)
    mask = np.asarray(batch.mask)[..., 1:]
    np.testing.assert_allclose(np.asarray(batch.old_values)[..., 1:][mask], values[mask], atol=1e-4)
    assert np.abs(values[mask]).max() > 0.1


MESHES = {
    "data=8": parallel.MeshConfig(),
    "data=2, fsdp=2, tensor=2": parallel.MeshConfig(data=2, fsdp=2, tensor=2),
}


@pytest.mark.parametrize("layout", MESHES)
def test_eight_devices_give_the_same_figures(tables, sft_run, shares, layout):
    trainer = make(tables, sft_run, parallel.make_mesh(MESHES[layout]))
    batch, _, after, figures = iterate(trainer, some_prompts(sft_run), KERNEL)
    np.testing.assert_array_equal(batch.tokens, shares[1.0][0].tokens)
    for name in ("loss", "policy_loss", "value_loss", "grad_norm", "explained_variance"):
        assert figures[name] == pytest.approx(shares[1.0][3][name], rel=1e-4, abs=1e-5), name
    want = shares[1.0][2]["critic"]["head"]["kernel"]
    np.testing.assert_allclose(after["critic"]["head"]["kernel"], want, atol=1e-5)


def run_ppo(tables, folder, out, mesh, **changes):
    settings = {
        "critic": "head",
        "iterations": 12,
        "prompts": 32,
        "eval_every": 12,
        "kl": KLConfig(coef=0.01, maximum=0.02),
        "policy_optimizer": training.OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
        "critic_optimizer": training.OptimizerConfig(learning_rate=2e-2, weight_decay=0.0),
        **changes,
    }
    config = tiny_task.ppo_config(tables, out, policy=folder, **settings)
    return stages.ppo(config, reward=tiny_task.count_a, mesh=mesh)


@pytest.fixture(scope="module")
def learnt(tables, folder, sft_run, one_device, tmp_path_factory):
    return run_ppo(tables, folder, tmp_path_factory.mktemp("head"), one_device)


def test_ppo_learns(learnt):
    rewards = [row["ppo/proxy_mean"] for row in learnt.metrics if row["step"] > 0]
    assert np.mean(rewards[-3:]) > 1.5 * np.mean(rewards[:3])
    explained = [row["ppo/explained_variance"] for row in learnt.metrics if row["step"] > 0]
    assert explained[0] == pytest.approx(0.0, abs=1e-6)  # a head of zeros says one value of all states
    assert explained[-1] > 0


def test_the_head_learns_the_returns_of_a_batch(tables, sft_run, one_device):
    """The same batch 60 times over: what is left of the squared error is less than half of the returns' own square."""
    trainer = make(
        tables,
        sft_run,
        one_device,
        iterations=60,
        loss=stages.PPOLossConfig(value_clip=1e9),
        policy_optimizer=training.OptimizerConfig(learning_rate=1e-2, weight_decay=0.0),
        critic_optimizer=training.OptimizerConfig(learning_rate=3e-2, weight_decay=0.0),
    )
    prompts, state, value_losses = some_prompts(sft_run), trainer.init(), []
    batch, _ = trainer.prepare(state, trainer.collect(state, prompts, 0), prompts)
    for step in range(60):
        state, metrics = trainer.update(state, batch, step)
        value_losses.append(training.fetch(metrics)["value_loss"])
    assert value_losses[0] == pytest.approx(0.5 * np.square(np.asarray(batch.returns)[batch.mask]).mean(), rel=1e-4)
    assert value_losses[-1] < 0.5 * value_losses[0]


def test_a_finished_run_holds_policy_and_head(learnt, idle):
    params, config, _ = load_stage(learnt.directory, "ppo")
    assert params["critic"].keys() == {"head"}
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(learnt.params))
    assert not config.scalar_head
    assert Policy.load(learnt.directory).stage == "ppo"
    again = stages.ppo(learnt.config, reward=tiny_task.count_a)
    jax.tree.map(np.testing.assert_array_equal, again.params, jax.device_get(learnt.params))
    said = json.loads((learnt.directory / "config.json").read_text())["ppo"]
    assert (said["critic"], said["critic_gradient"]) == ("head", 1.0)


def test_another_critic_is_another_run(learnt):
    with pytest.raises(stages.RunError, match=r"ppo stage of another config \(critic"):
        stages.ppo(dataclasses.replace(learnt.config, critic="own"), reward=tiny_task.count_a)


def test_an_interrupted_run_ends_bit_for_bit_like_one_that_never_stopped(
    tables, folder, learnt, tmp_path, one_device, monkeypatch
):
    update, calls = OnlineTrainer.update, []

    def stopped(self, state, batch, step):
        calls.append(step)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return update(self, state, batch, step)

    monkeypatch.setattr(OnlineTrainer, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_ppo(tables, folder, tmp_path, one_device)
    again = run_ppo(tables, folder, tmp_path, one_device)
    assert calls[11:] in ([10, 11], [9, 10, 11])  # not from the start
    jax.tree.map(np.testing.assert_array_equal, again.params, learnt.params)


def test_a2c_takes_it_too(tables, sft_run, one_device):
    trainer = make(tables, sft_run, one_device, objective="a2c", critic_gradient=0.5)
    _, before, after, figures = iterate(trainer, some_prompts(sft_run), KERNEL)
    assert not np.array_equal(after["critic"]["head"]["kernel"], before["critic"]["head"]["kernel"])
    assert not np.array_equal(after["policy"]["embedding"], before["policy"]["embedding"])
    assert figures["value_loss"] > 0


def test_the_command_line_has_it():
    config = cli.override(PPOConfig(), "ppo", ["--critic", "head", "--critic-gradient", "0.5"])
    assert (config.critic, config.critic_gradient) == ("head", 0.5)
    assert PPOConfig().critic == "own"


def test_a_share_that_would_do_nothing_or_too_much_is_refused():
    with pytest.raises(ValueError, match=r"critic_gradient \(0\.5\) does nothing while critic is own.*--critic head"):
        PPOConfig(critic_gradient=0.5)
    with pytest.raises(ValueError, match="critic_gradient must be a finite number"):
        PPOConfig(critic="head", critic_gradient=float("nan"))
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match="critic_gradient must lie between 0 and 1"):
            PPOConfig(critic="head", critic_gradient=share)


def test_the_rate_of_a_head_is_looked_at_by_the_width_it_stands_on():
    """0.3 / width, whatever the model's size: 1e-3 is for a width of 128, not of 2048."""
    config = PPOConfig(critic="head", policy_optimizer=training.OptimizerConfig(learning_rate=1e-6))
    large = {"embedding": np.broadcast_to(np.float32(0), (10**6, 2048))}
    with pytest.warns(UnusualHyperparameter, match=r"critic_optimizer\.learning_rate is 0\.001.*2048") as seen:
        warn_of_rates("ppo", config, large)
    assert len(seen) == 1
