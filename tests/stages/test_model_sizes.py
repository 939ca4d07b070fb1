"""Learning rates that are usual for a stage and a size, and a reward model beside a much larger policy."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest
import tiny_task

from rlhf_jax import models, stages
from rlhf_jax.losses.checks import UnusualHyperparameter
from rlhf_jax.models import LoRAConfig
from rlhf_jax.stages.model_sizes import parameter_count, usual_rates, warn_of_rates, warn_of_small_reward
from rlhf_jax.training import OptimizerConfig

# No array is made of these: what counts is their shape.
SEVEN_BILLION = {"embedding": np.broadcast_to(np.float32(0), (7000, 10**6))}
SMOLLM = {"embedding": np.broadcast_to(np.float32(0), (135, 10**6))}
A_MILLION = {"embedding": np.broadcast_to(np.float32(0), (1, 10**6))}


@pytest.mark.parametrize(
    ("stage", "low", "high"),
    [
        ("sft", 1e-5, 5e-4),
        ("reward", 1e-6, 1e-4),
        ("ppo", 1e-7, 1e-5),
        ("group", 1e-7, 1e-5),
        ("preference", 5e-7, 1e-5),
        ("critic", 1e-6, 1e-4),
    ],
)
def test_the_ranges_of_every_stage_and_size(stage, low, high):
    ranges = {
        size: [usual_rates(stage, size, adapters=adapters)[:2] for adapters in (False, True)]
        for size in (10**6, 135 * 10**6, 7 * 10**9)
    }
    assert ranges[7 * 10**9] == [pytest.approx((low, high)), pytest.approx((10 * low, 10 * high))]
    assert ranges[135 * 10**6] == [pytest.approx((low, 10 * high)), pytest.approx((10 * low, 100 * high))]
    assert ranges[10**6] == [pytest.approx((1e-7, 1e-2)), pytest.approx((1e-6, 1e-1))]


def configs(rate, lora):
    optimizer, critic = OptimizerConfig(learning_rate=rate), OptimizerConfig(learning_rate=1e-5)
    return {
        "sft": stages.SFTConfig(init="somewhere", optimizer=optimizer, lora=lora),
        "reward": stages.RewardConfig(optimizer=optimizer, lora=lora),
        "ppo": stages.PPOConfig(policy_optimizer=optimizer, critic_optimizer=critic, lora=lora),
        "group": stages.GroupConfig(policy_optimizer=optimizer, lora=lora),
        "preference": stages.PreferenceConfig(optimizer=optimizer, lora=lora),
    }


@pytest.mark.parametrize("stage", ["sft", "reward", "ppo", "group", "preference"])
@pytest.mark.parametrize("rank", [0, 8])
def test_a_rate_for_a_small_model_is_warned_of_where_the_model_is_large(stage, rank):
    config = configs(6e-3 if rank else 6e-4, LoRAConfig(rank=rank))[stage]
    name = "policy_optimizer" if stage in ("ppo", "group") else "optimizer"
    said = rf"^{name}\.learning_rate is .* outside the usual .*et al\. 20"
    with pytest.warns(UnusualHyperparameter, match=said) as seen:
        warn_of_rates(stage, config, SEVEN_BILLION)
    assert len(seen) == 1
    assert ("10 times as much for adapters" in str(seen[0].message)) == (rank > 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_rates(stage, config, A_MILLION)
        warn_of_rates(stage, configs(1e-4 if rank else 1e-5, LoRAConfig(rank=rank))[stage], SEVEN_BILLION)


def test_the_critics_rate_is_looked_at_by_itself():
    critic = OptimizerConfig(learning_rate=1e-3)
    config = dataclasses.replace(configs(1e-6, LoRAConfig())["ppo"], critic_optimizer=critic)
    with pytest.warns(UnusualHyperparameter, match=r"^critic_optimizer\.learning_rate is 0\.001, outside") as seen:
        warn_of_rates("ppo", config, SEVEN_BILLION)
    assert len(seen) == 1


@pytest.mark.filterwarnings("error")
def test_the_defaults_are_usual_for_the_quickstarts_model():
    config = stages.quickstart_config(out="unused")
    for stage in ("sft", "reward", "ppo"):
        warn_of_rates(stage, vars(config)[stage], A_MILLION)
    warn_of_rates("group", stages.GroupConfig(), A_MILLION)
    warn_of_rates("preference", stages.PreferenceConfig(), A_MILLION)


def test_parameters_are_those_of_one_member_and_a_shared_trunk_counts():
    config = models.ModelConfig(vocab_size=32, d_model=8, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=4, d_ff=16)
    trunk = models.build(config).init(jax.random.key(0))
    count = parameter_count(trunk)
    assert count == sum(x.size for x in jax.tree.leaves(trunk))
    scalar = dataclasses.replace(config, scalar_head=True)
    single = models.with_scalar_head(trunk, scalar)
    head = single["head"]["kernel"].size
    own = count - sum(x.size for x in jax.tree.leaves({k: v for k, v in trunk.items() if k not in single}))
    assert parameter_count(single) == own + head
    stacked = jax.tree.map(lambda *x: np.stack(x), single, single, single)
    assert models.members(stacked) == 3
    assert parameter_count(stacked) == parameter_count(single)


def test_a_reward_model_much_smaller_than_the_policy_is_warned_of_once():
    with pytest.warns(UnusualHyperparameter, match=r"reward model's share .* is 0\.0192857.*Gao et al\. 2023") as seen:
        warn_of_small_reward(SMOLLM, SEVEN_BILLION)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reward, policy in ((SMOLLM, SMOLLM), (SEVEN_BILLION, SMOLLM)):
            warn_of_small_reward(reward, policy)
        warn_of_small_reward({"embedding": np.zeros(25)}, {"embedding": np.zeros(100)})


class Begun(Exception):
    """The stage has looked at its models, and would write its folder now."""


@pytest.fixture
def look(monkeypatch):
    """Start a stage, stop it before it writes anything, and give the warnings."""

    def start(*_):
        raise Begun

    monkeypatch.setattr("rlhf_jax.runs.folder.start", start)

    def warned(function, config, mesh, **more):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with pytest.raises(Begun):
                function(config, mesh=mesh, **more)
        return [str(each.message) for each in seen if issubclass(each.category, UnusualHyperparameter)]

    return warned


def test_every_stage_looks_before_it_trains(tables, reward_run, look, tmp_path, one_device):
    place, wild = reward_run.directory, OptimizerConfig(learning_rate=0.5)
    both = {"policy": place, "reward": place}
    for function, config in (
        (stages.sft, tiny_task.sft_config(tables, tmp_path, optimizer=wild)),
        (stages.reward_model, tiny_task.reward_config(tables, tmp_path, init=place, optimizer=wild)),
        (stages.preference, tiny_task.preference_config(tables, tmp_path, policy=place, optimizer=wild)),
        (stages.ppo, tiny_task.ppo_config(tables, tmp_path, **both, policy_optimizer=wild)),
        (stages.group, tiny_task.group_config(tables, tmp_path, **both, policy_optimizer=wild)),
    ):
        (warned,) = look(function, config, one_device)
        assert "optimizer.learning_rate is 0.5, outside the usual 1e-07 to 0.01 (" in warned


def test_ppo_and_group_look_at_the_reward_model(tables, reward_run, look, tmp_path, one_device, monkeypatch):
    monkeypatch.setattr("rlhf_jax.stages.model_sizes.LEAST_REWARD_SHARE", 2.0)  # ours are of one size
    both = {"policy": reward_run.directory, "reward": reward_run.directory}
    for function, config in (
        (stages.ppo, tiny_task.ppo_config(tables, tmp_path, **both)),
        (stages.group, tiny_task.group_config(tables, tmp_path, **both)),
    ):
        (warned,) = look(function, config, one_device)
        assert warned.startswith("the reward model's share of the policy's parameters is 1.")
        assert look(function, config, one_device, reward=tiny_task.count_a) == []  # nobody knows a function's size
