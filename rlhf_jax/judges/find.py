"""From what names a judge to the judge."""

from __future__ import annotations

from rlhf_jax.feedback.judges import Judge, from_scores
from rlhf_jax.judges.config import JudgeConfig
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.runs.user_code import load_function


def find_judge(config: JudgeConfig) -> Judge:
    """Find the judge that a config names.

    Args:
        config: who judges and how.

    Returns:
        The judge, which ``feedback.judges.judged`` asks.

    Raises:
        RunError: when it cannot be loaded.
    """
    name = config.judge
    if name.startswith("scores:"):
        return from_scores(load_function(name.removeprefix("scores:"), f"judge {name}"))
    if name.startswith("reward:"):
        return from_scores(Scorer.load(name.removeprefix("reward:")))
    return load_function(name, f"judge {name}")
