"""Rewards: anything that scores a response, ensembles of them, and the shaping of scores."""

from rlhf_jax.rewards.ensemble import EnsembleConfig, combine, disagreement
from rlhf_jax.rewards.functions import TextReward, score_texts
from rlhf_jax.rewards.shaping import Moments, ShapingConfig, add_to_moments, empty_moments, shape_rewards

__all__ = [
    "EnsembleConfig",
    "Moments",
    "ShapingConfig",
    "TextReward",
    "add_to_moments",
    "combine",
    "disagreement",
    "empty_moments",
    "score_texts",
    "shape_rewards",
]
