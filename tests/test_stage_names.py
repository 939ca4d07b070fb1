"""The stages are named in one place, and whoever shows or starts a stage knows all of them."""

from rlhf_jax import cli, stages
from rlhf_jax.report.panels import stage_panels
from rlhf_jax.stage_names import COMPARED_STAGES, MODEL_STAGES, ONLINE_STAGES, POLICY_STAGES, STAGES
from rlhf_jax.stages.model_sizes import RATES
from rlhf_jax.stages.titles import POLICIES, TITLES

NAMES = {stage.name for stage in STAGES}


def test_a_folders_policy_is_the_one_that_was_trained_furthest():
    assert POLICY_STAGES == ("ppo", "group", "preference", "sft")
    assert (*POLICY_STAGES, "reward") == MODEL_STAGES


def test_what_is_trained_online_leaves_a_policy_that_is_compared():
    assert set(ONLINE_STAGES) < set(COMPARED_STAGES) < set(POLICY_STAGES)


def test_every_stage_has_a_title_diagrams_a_command_and_usual_learning_rates():
    assert set(TITLES) == NAMES | {"best_of_n"}
    assert set(POLICIES) == {*COMPARED_STAGES, "best_of_n"}
    assert set(cli.TRAINING) == NAMES | {"quickstart", "rounds"}
    assert set(RATES) == NAMES | {"critic"}
    for name in NAMES:
        rows = [{"stage": name, "step": 1, f"{name}/loss": 1.0, f"{name}/entropy": 1.0}]
        main, other = stage_panels(name, rows)
        assert len(main) == 1, name
        assert len(other) == 1, name  # of a stage without a list of diagrams all are in the first


def test_every_stage_has_a_function_of_its_config():
    for stage in STAGES:
        assert callable(vars(stages)["reward_model" if stage.name == "reward" else stage.name])
