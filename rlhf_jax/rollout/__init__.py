"""Rollouts: prompts in, sampled responses with their log-probabilities out."""

from rlhf_jax.rollout.generate import Engine, Laid
from rlhf_jax.rollout.sampling import SamplingConfig, response_keys, sample_token, truncate
from rlhf_jax.rollout.slots import Cost

__all__ = ["Cost", "Engine", "Laid", "SamplingConfig", "response_keys", "sample_token", "truncate"]
