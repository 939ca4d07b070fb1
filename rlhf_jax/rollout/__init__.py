"""Rollouts: prompts in, sampled responses with their log-probabilities out."""

from rlhf_jax.rollout.generate import Engine, Laid
from rlhf_jax.rollout.sampling import SamplingConfig, occurrences, response_keys, sample_token, truncate
from rlhf_jax.rollout.slots import Cost
from rlhf_jax.rollout.stopping import StopTable, stop_at_text, stop_at_tokens

__all__ = [
    "Cost",
    "Engine",
    "Laid",
    "SamplingConfig",
    "StopTable",
    "occurrences",
    "response_keys",
    "sample_token",
    "stop_at_text",
    "stop_at_tokens",
    "truncate",
]
