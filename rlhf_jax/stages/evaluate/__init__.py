"""Reward models, implicit rewards and judges on anybody's rows, and two runs beside each other."""

from rlhf_jax.stages.evaluate.evaluate import evaluate
from rlhf_jax.stages.evaluate.result import Benchmark, Difference, Evaluation, Golden, Members

__all__ = ["Benchmark", "Difference", "Evaluation", "Golden", "Members", "evaluate"]
