"""Rollouts: prompts in, sampled responses with their log-probabilities out."""

from rlhf_jax.rollout.generate import Engine
from rlhf_jax.rollout.sampling import SamplingConfig, response_keys, sample_token, truncate

__all__ = ["Engine", "SamplingConfig", "response_keys", "sample_token", "truncate"]
