"""Judges, which measure a policy and train none, come from the caller, from the config, or from the data set."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rlhf_jax import checkpoint, rewards
from rlhf_jax.judges import JudgeConfig, find_judge
from rlhf_jax.rewards import TextReward
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.runs.user_code import called, load_function
from rlhf_jax.stages.config import judges_by_name
from rlhf_jax.stages.judge_reward import JudgeReward
from rlhf_jax.stages.names import check_judges
from rlhf_jax.stages.task import Task

VOTES = "judge:"  # opens the name of a judge that votes, where a reward or a measuring judge may be named


def choose_judges(
    passed: Mapping[str, TextReward] | None,
    named: str | Sequence[str],
    task: Task,
    *,
    prompts: Sequence[str] = ("Hello.", "How are you?"),
    reward_model: str = "",
) -> Mapping[str, TextReward]:
    """Choose who measures a policy: what was passed, or else the config's judges, or else the data set's own.

    Args:
        passed: judges by name that a stage was given.
        named: the config's ``judge``: ``NAME=WHAT`` each, where ``WHAT`` is ``FILE.py:function``, a run folder, or
            ``judge:SPEC``, a judge that votes and scores responses alone; without a name the scores are called
            ``gold``. Or none.
        task: the data set that the prompts come from; it may have judges of its own.
        prompts: some of those whose responses will be judged. The config's judges are called once, on the first two, so
            that a mistake in them shows before training.
        reward_model: run folder of the reward model whose scores are called ``proxy``, if there is one.

    Returns:
        Judges by name; none where nobody named one.

    Raises:
        RunError: when a judge has a name of ours; when one of the config's cannot be loaded, fails, or does not give
            one finite number for each response.
    """
    if passed is not None:
        check_judges(passed)
        return passed
    asked = judges_by_name(named)
    if not asked:
        own = task.judges()
        check_judges(own)
        return own
    found = {name: _load_judge(what, reward_model) for name, what in asked.items()}
    check_judges(found)
    for name, judge in found.items():
        try_texts(judge, f"judge {asked[name]}", prompts)
    return found


def judge_runs(named: Sequence[str]) -> list[str]:
    """List the run folders that a config's judges are in.

    Example:
        >>> judge_runs(["fair=mine.py:fair", "gold=runs/other"])
        ['runs/other']
    """
    every = judges_by_name(named).values()
    return [what for what in every if ".py:" not in what and not what.startswith(VOTES)]


def choose_reward(passed: TextReward | None, name: str) -> TextReward:
    """Choose the reward that was passed, or else the function or the judge that the config names.

    Args:
        passed: the callable that a stage was given.
        name: the config's ``reward``, ``FILE.py:function`` or ``judge:SPEC``.

    Raises:
        RunError: when there is no such file or function, or no such judge.
    """
    if passed is not None:
        return passed
    if name.startswith(VOTES):
        return load_judge(name)
    if ".py:" not in name:
        raise RunError(
            f"reward {name}: expected FILE.py:function; a run folder is --reward-model {name}, an AI judge judge:{name}"
        )
    return load_function(name, f"reward {name}")


def load_judge(name: str) -> JudgeReward:
    """Load a judge that votes, to train by or to measure with.

    Args:
        name: ``judge:SPEC``; SPEC is what ``JudgeConfig.judge`` may name, a .toml file say.

    Raises:
        RunError: when there is no such judge.
    """
    return JudgeReward(find_judge(judge_config(name)), name)


def judge_config(name: str) -> JudgeConfig:
    """Make the config of ``judge:SPEC``.

    Example:
        >>> judge_config("judge:reward:runs/mine").judge
        'reward:runs/mine'
    """
    try:
        return JudgeConfig(judge=name.removeprefix(VOTES))
    except ValueError as error:
        raise RunError(f"{name}: {error}") from error


def reward_name(reward: TextReward) -> str:
    """Say what a reward is called, for summary and page: its function, or what names the judge."""
    return reward.name if isinstance(reward, JudgeReward) else called(reward)


def try_reward(reward: TextReward, what: str, prompts: Sequence[str]) -> None:
    """Call a reward once, on two short texts, so that a mistake in it shows before training.

    Args:
        reward: as for ``try_texts``, or a judge, which is asked to vote.
        what: what messages call it.
        prompts: the first two are asked.

    Raises:
        RunError: when it fails, or gives no numbers and no votes.
    """
    if isinstance(reward, JudgeReward):
        reward.scores(prompts)
    else:
        try_texts(reward, what, prompts)


def try_texts(reward: TextReward, what: str, prompts: Sequence[str]) -> None:
    """Call a reward or a judge once, on two short texts, so that a mistake in it shows before training.

    Args:
        reward: ``(prompts, responses) -> numbers``.
        what: what messages call it.
        prompts: the first two are asked.

    Raises:
        RunError: when it fails, or does not give one finite number for each response.
    """
    asked = list(prompts[:2])
    try:
        # A policy may say nothing at all.
        rewards.score_texts(reward, asked, ["", "A short response."][: len(asked)], called="it")
    except Exception as error:  # whatever a function of the user's own raises
        raise RunError(f"{what}: {error}") from error


def ruling_judge(judges: Collection[str]) -> str:
    """The judge that decides whether a policy got better: ``gold``, or else the first there is.

    Example:
        >>> ruling_judge(["short", "gold"]), ruling_judge(["short", "kind"]), ruling_judge([])
        ('gold', 'short', 'gold')
    """
    return next((name for name in ("gold", *judges) if name in judges), "gold")


def judge_names(judges: Mapping[str, TextReward], named: Sequence[str]) -> dict[str, str]:
    """What each judge is, for summary and page.

    Args:
        judges: from ``choose_judges``.
        named: the config's ``judge``.

    Example:
        >>> from rlhf_jax import evaluation
        >>> judge_names({"gold": evaluation.vader}, ["mine.py:count"]), judge_names({"gold": evaluation.vader}, ())
        ({'gold': 'mine.py:count'}, {'gold': 'baselines.py:vader'})
    """
    asked = judges_by_name(named)
    return {key: asked.get(key) or called(judge) for key, judge in judges.items()}


def _load_judge(name: str, reward_model: str) -> TextReward:
    if name.startswith(VOTES):
        return load_judge(name)
    if ".py:" in name:
        return load_function(name, f"judge {name}")
    if name.endswith(".py"):
        raise RunError(f"judge {name}: name the function in it too, FILE.py:function")
    try:
        judge = Scorer.load(name)
    except RunError as error:
        raise RunError(
            f"judge {name}: {error}; a judge is a run folder with a reward model, a sequence classifier as a "
            "checkpoint, judge:SPEC of one that scores, or FILE.py:function"
        ) from error
    if reward_model and _same(Path(name), Path(reward_model)):
        warnings.warn(
            f"the judge {name} is the reward model {reward_model} itself: a gold score that is the proxy shows "
            "nothing; name one that was trained on other comparisons",
            stacklevel=3,
        )
    return judge


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same reward model: by content in run folders, by the folder as checkpoints."""
    left, right = (x / "params" / "reward" for x in (one, other))
    if left.exists() and right.exists():
        return checkpoint.params_digest(left) == checkpoint.params_digest(right)
    return one.resolve() == other.resolve()
