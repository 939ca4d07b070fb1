"""Reward models, implicit rewards and judges on anybody's rows, and two runs beside each other."""

from rlhf_jax.stages.evaluate.beside import evaluate_beside
from rlhf_jax.stages.evaluate.evaluate import evaluate
from rlhf_jax.stages.evaluate.policies import win_rates
from rlhf_jax.stages.evaluate.result import Benchmark, Beside, Evaluation, Golden, Members, WinRates

__all__ = [
    "Benchmark",
    "Beside",
    "Evaluation",
    "Golden",
    "Members",
    "WinRates",
    "evaluate",
    "evaluate_beside",
    "win_rates",
]
