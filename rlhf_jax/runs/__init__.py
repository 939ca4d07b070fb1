"""What a run left and how it is used: its folder, its models, sampling, scoring, chatting, exporting."""

from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.folder import RunResult
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.scorer import Scorer

__all__ = ["Policy", "RunError", "RunResult", "Scorer"]
