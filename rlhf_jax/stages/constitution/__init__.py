"""A policy criticises and revises what it said by principles: rows to imitate, and pairs to learn from."""

from rlhf_jax.stages.constitution.config import ReviseConfig
from rlhf_jax.stages.constitution.revise import Revised, revise

__all__ = ["ReviseConfig", "Revised", "revise"]
