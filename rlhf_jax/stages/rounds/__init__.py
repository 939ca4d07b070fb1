"""Sampling again from the policy just trained: choose pairs, have them labelled, retrain the reward model, train on."""

from rlhf_jax.stages.rounds.config import ChooseConfig, RoundsConfig
from rlhf_jax.stages.rounds.rounds import RoundsResult, rounds

__all__ = ["ChooseConfig", "RoundsConfig", "RoundsResult", "rounds"]
