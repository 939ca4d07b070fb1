"""Objectives by name: ours, one in a file, and what is said of a name or a hyperparameter that there is not."""

import functools

import jax.numpy as jnp
import pytest

from rlhf_jax import losses, objectives, testing
from rlhf_jax.stages import RunError, describe_objective, find_objective
from rlhf_jax.stages.choose import (
    GROUP,
    PPO,
    PREFERENCE,
    REWARD,
    SFT,
    bind_objective,
    choose_objective,
    try_objective,
)
from rlhf_jax.types import Loss, Outputs

# A hyperparameter that has no default, so that nobody trains with a value that fits another task.
NEEDED = {"dr_grpo": {"max_length": 48}}

FILE = """
import functools

from rlhf_jax import losses, objectives
from rlhf_jax.types import Loss

halves = 0.5


def mine(outputs, batch, *, weight=1.0):
    return Loss(-weight * outputs.logprobs, batch.mask, losses.token_mean)


def other(outputs, batch):
    return mine(outputs, batch)


class Weighted:
    def __call__(self, outputs, batch, *, weight=2.0):
        return mine(outputs, batch, weight=weight)


weighted = Weighted()
bound = functools.partial(mine, weight=4.0)
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    return tmp_path / "own.py"


def value(objective):
    """The first token's loss, of log-probabilities -1."""
    batch = testing.tiny_batch(groups=1)
    return float(objective(Outputs(logprobs=-jnp.ones(batch.mask.shape)), batch).values[0, 0, 0])


@pytest.mark.parametrize("name", objectives.NAMES)
def test_every_name_is_the_function_of_that_name(name):
    bound = find_objective(name, NEEDED.get(name, {}))
    assert (bound.func if name in NEEDED else bound) is getattr(objectives, name)


def test_hyperparameters_are_bound():
    bound = find_objective("simpo", {"beta": 3.0, "margin": 0.5})
    assert (bound.func, bound.keywords) == (objectives.simpo, {"beta": 3.0, "margin": 0.5})


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_a_hyperparameter_without_a_default_must_be_given(name):
    (needed,) = NEEDED[name]
    with pytest.raises(RunError, match=rf"^objective {name} needs --hyperparameters {needed} VALUE$"):
        find_objective(name, {})


@pytest.mark.parametrize(
    ("name", "hyperparameters", "says"),
    [
        ("dpa", {}, r"^there is no objective 'dpa': did you mean 'dpo'\? objectives are a2c, .*FILE\.py:function$"),
        ("sipmo", {}, "did you mean 'simpo'"),
        ("NAMES", {}, "there is no objective 'NAMES': objectives are"),
        ("explained_variance", {}, "there is no objective 'explained_variance': objectives are"),
        ("dpo", {"bta": 0.1}, r"^objective dpo has no hyperparameter 'bta': did you mean 'beta'\?$"),
        ("orpo", {"zzz": 0.1}, r"^objective orpo has no hyperparameter 'zzz': it has weight$"),
        ("sft", {"beta": 0.1}, r"^objective sft has no hyperparameter 'beta': it has none$"),
        ("dpo", {"outputs": 0.1}, "objective dpo has no hyperparameter 'outputs'"),
    ],
    ids=lambda x: x if isinstance(x, str) and len(x) < 20 else "",
)
def test_a_name_that_there_is_not_gets_the_nearest_one(name, hyperparameters, says):
    with pytest.raises(RunError, match=says):
        find_objective(name, hyperparameters)


def test_a_function_in_a_file_is_an_objective(file):
    assert value(find_objective(f"{file}:mine", {})) == 1.0
    assert value(find_objective(f"{file}:mine", {"weight": 3.0})) == 3.0
    assert value(find_objective(f"{file}:other", {})) == 1.0


def test_whatever_can_be_called_in_a_file_is_an_objective(file):
    assert value(find_objective(f"{file}:weighted", {})) == 2.0
    assert value(find_objective(f"{file}:weighted", {"weight": 5.0})) == 5.0
    assert value(find_objective(f"{file}:bound", {})) == 4.0


@pytest.mark.parametrize(
    ("words", "hyperparameters", "says"),
    [
        ("gone.py:mine", {}, r"gone\.py:mine: no such file .*gone\.py$"),
        ("own.txt:mine", {}, r"own\.txt is not a Python file"),
        ("own.py:mime", {}, r"own\.py has no function 'mime': did you mean 'mine'\?"),
        ("own.py:zzz", {}, r"has no function 'zzz': it defines mine, other$"),
        ("own.py:halves", {}, r"has no function 'halves'"),
        ("own.py:", {}, r"has no function ''"),
        ("own.py:mine", {"wieght": 1.0}, r"has no hyperparameter 'wieght': did you mean 'weight'\?"),
        ("own.py:other", {"weight": 1.0}, r"has no hyperparameter 'weight': it has none"),
    ],
    ids=lambda x: x if isinstance(x, str) and len(x) < 15 else "",
)
def test_a_file_that_does_not_hold_it_says_what_it_holds(file, words, hyperparameters, says):
    file.with_name("own.txt").write_text(FILE)
    with pytest.raises(RunError, match=says):
        find_objective(str(file.with_name(words.rpartition(":")[0])) + ":" + words.rpartition(":")[2], hyperparameters)


def test_the_path_of_a_file_without_a_function_says_how_to_name_one(file):
    with pytest.raises(RunError, match=r"there is no objective .*own\.py': .*FILE\.py:function"):
        find_objective(str(file), {})


def test_a_configs_own_fields_are_bound_where_the_objective_has_them():
    """``center`` and ``margin`` are fields of the reward model's config, and hyperparameters of some objectives."""
    fields = {"center": 0.25, "margin": 0.5}

    def bound(function, hyperparameters=()):
        return getattr(bind_objective(function, "mine", dict(hyperparameters), fields), "keywords", {})

    assert bound(objectives.reward_model) == fields
    assert bound(objectives.sft) == {}
    assert bound(objectives.reward_model, {"center": 0.0}) == {**fields, "center": 0.0}  # said twice, the last counts
    assert bound(functools.partial(objectives.reward_model, margin=0.0)) == {"center": 0.25, "margin": 0.0}


def test_hyperparameters_are_bound_to_a_function_that_is_passed_too():
    passed = choose_objective(objectives.simpo, "simpo", {"beta": 3.0})
    assert (passed.func, passed.keywords) == (objectives.simpo, {"beta": 3.0})
    over = choose_objective(functools.partial(objectives.simpo, beta=2.0, margin=0.5), "simpo", {"beta": 3.0})
    assert over.keywords == {"beta": 3.0, "margin": 0.5}
    assert choose_objective(objectives.simpo, "ignored", {}) is objectives.simpo
    assert choose_objective(None, "simpo", {}) is objectives.simpo
    with pytest.raises(RunError, match="objective mine has no hyperparameter 'gamma'"):
        choose_objective(objectives.simpo, "mine", {"gamma": 1.0})


STAGES = {
    "sft": (SFT, 1, ("sft",)),
    "reward": (REWARD, 4, ("reward_model",)),
    "preference": (PREFERENCE, 2, ("dpo", "robust_dpo", "ipo", "kto", "orpo", "simpo", "cpo", "slic", "sft")),
    "group": (GROUP, 4, ("rloo", "grpo", "dapo", "gspo", "reinforce", "expert_iteration", "online_dpo", "sft")),
    "ppo": (PPO, 1, ("ppo", "a2c", "reinforce")),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_gives_its_objectives_what_they_read(stage):
    given, responses, names = STAGES[stage]
    for name in names:
        try_objective(find_objective(name, {}), name, given, responses=responses)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "stage", "says"),
    [
        ("rloo", {}, "preference", "objective rloo: batch.reward is None, but the objective reads it"),
        ("ppo", {}, "group", "objective ppo: outputs.values is None"),
        ("dpo", {}, "group", r"objective dpo: expected pairs .*, found groups of 4"),
        ("rloo", {}, "ppo", r"objective rloo: .*at least 2, found 1"),
        ("reward_model", {}, "preference", "objective reward_model: outputs.scores is None"),
        ("sft", {}, "reward", "objective sft: outputs.logprobs is None"),
        ("kto", {"desirable_weight": -1.0}, "preference", "objective kto: desirable_weight must be"),
        ("expert_iteration", {"keep": 5}, "group", "objective expert_iteration: keep must be .*at most 4"),
    ],
    ids=lambda x: x if isinstance(x, str) and len(x) < 20 else "",
)
def test_an_objective_that_does_not_fit_the_stage_says_what_it_lacks(name, hyperparameters, stage, says):
    given, responses, _ = STAGES[stage]
    with pytest.raises(RunError, match=says):
        try_objective(find_objective(name, hyperparameters), name, given, responses=responses)


@pytest.mark.parametrize(
    "broken",
    [
        lambda outputs, batch: None,
        lambda outputs, batch: Loss(outputs.logprobs + jnp.zeros(7), batch.mask, losses.token_mean),
        lambda outputs: outputs,
    ],
    ids=["no loss", "shapes", "arguments"],
)
def test_a_function_that_is_no_objective_is_an_error_a_person_can_read(broken):
    with pytest.raises(RunError, match=r"^objective mine: "):
        try_objective(broken, "mine", SFT, responses=1)


def my_objective(outputs, batch, *, kl_estimator=losses.k3, weight=1.0):
    return Loss(-weight * outputs.logprobs, batch.mask, losses.token_mean)


class Objective:
    def __call__(self, outputs, batch):
        return my_objective(outputs, batch)


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (objectives.dpo, "rlhf_jax.objectives.dpo.dpo"),
        (functools.partial(objectives.dpo, beta=0.05), "rlhf_jax.objectives.dpo.dpo(beta=0.05)"),
        # The outer value is the one that counts, in whatever order they were bound.
        (
            functools.partial(functools.partial(objectives.dpo, label_smoothing=0.1, beta=1.0), beta=0.05),
            "rlhf_jax.objectives.dpo.dpo(beta=0.05, label_smoothing=0.1)",
        ),
        (functools.partial(my_objective, kl_estimator=losses.k2), f"{__name__}.my_objective(kl_estimator=k2)"),
        (Objective(), "Objective"),
        (functools.partial(Objective()), "Objective"),
    ],
    ids=["plain", "bound", "bound twice", "a function bound", "a class", "a class bound"],
)
def test_a_function_that_is_passed_gets_a_name_that_says_which(objective, name):
    assert describe_objective(objective) == name


def test_the_name_of_a_wrapped_function_is_its_own():
    @functools.wraps(objectives.kto)
    def logged(outputs, batch):
        return objectives.kto(outputs, batch)

    assert describe_objective(logged) == "rlhf_jax.objectives.kto.kto"
