"""What console and page call the stages, their objectives and the policies that they train."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlhf_jax.stage_names import COMPARED_STAGES

# In the order of the page.
TITLES = {
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "ppo": "PPO against the reward model",
    "group": "Group policy gradient",
    "preference": "Preference optimisation",
    "best_of_n": "Best of n, without training",
}
POLICIES = (*COMPARED_STAGES, "best_of_n")
# A title says these already; a stage that ran before objectives had names had them too.
_USUAL = {"sft": "sft", "reward": "reward_model", "ppo": "ppo"}


def objective_name(objective: str) -> str:
    """The function's own name: without its file or module, without the hyperparameters bound to it.

    Args:
        objective: as a summary or a config has it; the config of a stage that was passed a function describes it.

    Example:
        >>> objective_name("dpo"), objective_name("mine/new.py:hinge"), objective_name("mine.losses.hinge(beta=0.1)")
        ('dpo', 'hinge', 'hinge')
    """
    found = re.search(r"([^\W\d]\w*)(?:\([^/\\]*\))?$", objective)
    return found[1] if found else objective


def stage_title(stage: str, objective: str | None, reward: str | None = None) -> str:
    """The heading of a stage, with its objective where that is not the one everybody expects.

    Args:
        stage: its name in the log.
        objective: as for ``objective_name``; None if the run does not say.
        reward: what it was trained against, if the run says; a function's name is a part of the heading.

    Example:
        >>> stage_title("group", "rloo"), stage_title("ppo", "ppo"), stage_title("ppo", "a2c")
        ('Group policy gradient: rloo', 'PPO against the reward model', 'Policy gradient with a critic: a2c')
        >>> stage_title("ppo", "ppo", "mine.py:length")
        'PPO against mine.py:length'
    """
    title, name = TITLES.get(stage, stage), objective_name(objective or _USUAL.get(stage, ""))
    own = reward if reward and (".py:" in reward or reward.startswith("judge:")) else None
    if name == _USUAL.get(stage, ""):
        return f"PPO against {own}" if own and stage == "ppo" else title
    whole = f"{'Policy gradient with a critic' if stage == 'ppo' else title}: {name}"
    return f"{whole}, against {own}" if own and stage in ("ppo", "group") else whole


def policy_name(stage: str, figures: Mapping[str, Any], objective: str | None = None) -> str:
    """What the policy of a stage is called in tables and sentences.

    Args:
        stage: one of ``POLICIES``.
        figures: its part of the summary.
        objective: the one in its config, for summaries that do not name it.

    Example:
        >>> policy_name("ppo", {}), policy_name("preference", {"objective": "dpo"}), policy_name("best_of_n", {"n": 16})
        ('PPO', 'dpo', 'best-of-16')
    """
    if stage == "best_of_n":
        return f"best-of-{figures.get('n', 'n')}"
    name = objective_name(figures.get("objective") or objective or _USUAL.get(stage, stage))
    return "PPO" if name == "ppo" else name


def starting_policy(stage: str) -> str:
    """What the policy that a stage started from is called.

    Args:
        stage: the stage that made it; ``pretrained`` where none of ours did.

    Example:
        >>> starting_policy("sft"), starting_policy("preference"), starting_policy("pretrained")
        ('SFT policy', 'preference policy', 'pretrained policy')
    """
    return f"{'SFT' if stage == 'sft' else stage} policy"


def judge_name(name: str, figures: Mapping[str, Any]) -> str:
    """What a score is called in a sentence: a judge's, or the reward's that was trained on.

    Args:
        name: as in the summary, ``gold``, ``proxy``, or what somebody called a judge of theirs.
        figures: the stage's part of the summary, which may say what the reward and the judge are.

    Example:
        >>> judge_name("gold", {}), judge_name("helpful", {}), judge_name("proxy", {"reward": "mine.py:length"})
        ('the gold judge', 'the judge helpful', 'the reward (mine.py:length)')
    """
    if name == "proxy":
        return f"the reward{_what(figures.get('reward'))}"
    if name == "gold":
        return f"the gold judge{_what(figures.get('judges', {}).get('gold'))}"
    return "VADER" if name == "vader" else f"the judge {name}"


def _what(name: str | None) -> str:
    return f" ({name})" if name else ""
