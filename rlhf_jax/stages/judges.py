"""Judges, which measure a policy and train none, come from the caller, from the config, or from the data set."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rlhf_jax import checkpoint, rewards
from rlhf_jax.rewards import TextReward
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.runs.user_code import called, load_function
from rlhf_jax.stages.task import Task


def choose_judges(
    passed: Mapping[str, TextReward] | None,
    name: str,
    task: Task,
    *,
    prompts: Sequence[str] = ("Hello.", "How are you?"),
    reward_model: str = "",
) -> Mapping[str, TextReward]:
    """Choose who measures a policy: what was passed, or else the config's judge, or else the data set's own.

    Args:
        passed: judges by name that a stage was given.
        name: the config's ``judge``, ``FILE.py:function`` or a run folder, whose scores are called ``gold``; or empty.
        task: the data set that the prompts come from; it may have judges of its own.
        prompts: some of those whose responses will be judged. The config's judge is called once, on the first two, so
            that a mistake in it shows before training.
        reward_model: run folder of the reward model whose scores are called ``proxy``, if there is one.

    Returns:
        Judges by name; none where nobody named one.

    Raises:
        RunError: when the judge cannot be loaded, fails, or does not give one finite number for each response.
    """
    if passed is not None:
        return passed
    if not name:
        return task.judges()
    judge = _load_judge(name, reward_model)
    asked = list(prompts[:2])
    try:
        rewards.score_texts(judge, asked, ["", "A short response."][: len(asked)])  # a policy may say nothing at all
    except Exception as error:  # whatever a function of the user's own raises
        raise RunError(f"judge {name}: {error}") from error
    return {"gold": judge}


def ruling_judge(judges: Collection[str]) -> str:
    """The judge that decides whether a policy got better: ``gold``, or else the first there is.

    Example:
        >>> ruling_judge(["short", "gold"]), ruling_judge(["short", "kind"]), ruling_judge([])
        ('gold', 'short', 'gold')
    """
    return next((name for name in ("gold", *judges) if name in judges), "gold")


def judge_names(judges: Mapping[str, TextReward], name: str) -> dict[str, str]:
    """What each judge is, for summary and page.

    Args:
        judges: from ``choose_judges``.
        name: the config's ``judge``.

    Example:
        >>> from rlhf_jax import evaluation
        >>> judge_names({"gold": evaluation.vader}, "mine.py:count"), judge_names({"gold": evaluation.vader}, "")
        ({'gold': 'mine.py:count'}, {'gold': 'baselines.py:vader'})
    """
    return {key: name if key == "gold" and name else called(judge) for key, judge in judges.items()}


def _load_judge(name: str, reward_model: str) -> TextReward:
    if ".py:" in name:
        return load_function(name, f"judge {name}")
    if name.endswith(".py"):
        raise RunError(f"judge {name}: name the function in it too, FILE.py:function")
    try:
        judge = Scorer.load(name)
    except RunError as error:
        raise RunError(
            f"judge {name}: {error}; a judge is a run folder with a reward model, or FILE.py:function"
        ) from error
    if reward_model and _same(Path(name) / "params" / "reward", Path(reward_model) / "params" / "reward"):
        warnings.warn(
            f"the judge {name} is the reward model {reward_model} itself: a gold score that is the proxy shows "
            "nothing; name one that was trained on other comparisons",
            stacklevel=3,
        )
    return judge


def _same(one: Path, other: Path) -> bool:
    return other.exists() and checkpoint.params_digest(one) == checkpoint.params_digest(other)
