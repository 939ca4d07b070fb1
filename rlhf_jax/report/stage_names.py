"""The stages that the report knows, and what it calls them, their objectives and the policies they train."""

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


def stage_title(stage: str, objective: str | None) -> str:
    """The heading of a stage, with its objective where that is not the one everybody expects.

    Args:
        stage: its name in the log.
        objective: as for ``objective_name``; None if the run does not say.

    Example:
        >>> stage_title("group", "rloo"), stage_title("ppo", "ppo"), stage_title("ppo", "a2c")
        ('Group policy gradient: rloo', 'PPO against the reward model', 'Policy gradient with a critic: a2c')
    """
    title, name = TITLES.get(stage, stage), objective_name(objective or _USUAL.get(stage, ""))
    if name == _USUAL.get(stage, ""):
        return title
    return f"{'Policy gradient with a critic' if stage == 'ppo' else title}: {name}"


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


def starting_policy(figures: Mapping[str, Any]) -> str:
    """What the policy that a stage started from is called.

    Example:
        >>> starting_policy({}), starting_policy({"started_from": "preference"})
        ('SFT policy', 'preference policy')
    """
    stage = figures.get("started_from", "sft")
    return f"{'SFT' if stage == 'sft' else stage} policy"
