"""The mathematics: arrays in, unreduced arrays out, one concept a file. Only ``masked`` reduces.

Inputs of any float type are computed in float32; hyperparameters are keyword-only; per-token arrays are aligned
(nothing is shifted here); logs are natural. Imports nothing of ours but its siblings.
"""

from rlhf_jax.losses.bradley_terry import bradley_terry
from rlhf_jax.losses.gae import gae
from rlhf_jax.losses.group import best_of_n_kl, grpo_advantages, gspo_ratio, rloo_advantages
from rlhf_jax.losses.importance import effective_sample_size, truncated_importance_weights
from rlhf_jax.losses.kl import full_kl, k1, k2, k3, kl_penalised_rewards
from rlhf_jax.losses.kto import kto
from rlhf_jax.losses.likert import likert
from rlhf_jax.losses.logprobs import entropy, token_logprobs
from rlhf_jax.losses.masked import (
    Reduction,
    constant,
    masked_fill,
    masked_mean,
    masked_sum,
    masked_whiten,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from rlhf_jax.losses.plackett_luce import plackett_luce
from rlhf_jax.losses.policy_gradient import policy_gradient
from rlhf_jax.losses.ppo import clipped_surrogate, clipped_value
from rlhf_jax.losses.preference import cpo, dpo, implicit_reward, ipo, orpo, robust_dpo, simpo, slic
from rlhf_jax.losses.rao_kupper import rao_kupper
from rlhf_jax.losses.segments import segment_scores
from rlhf_jax.losses.sft import cross_entropy

__all__ = [
    "Reduction",
    "best_of_n_kl",
    "bradley_terry",
    "clipped_surrogate",
    "clipped_value",
    "constant",
    "cpo",
    "cross_entropy",
    "dpo",
    "effective_sample_size",
    "entropy",
    "full_kl",
    "gae",
    "grpo_advantages",
    "gspo_ratio",
    "implicit_reward",
    "ipo",
    "k1",
    "k2",
    "k3",
    "kl_penalised_rewards",
    "kto",
    "likert",
    "masked_fill",
    "masked_mean",
    "masked_sum",
    "masked_whiten",
    "orpo",
    "plackett_luce",
    "policy_gradient",
    "rao_kupper",
    "rloo_advantages",
    "robust_dpo",
    "segment_scores",
    "sequence_mean",
    "sequence_sum",
    "simpo",
    "slic",
    "token_logprobs",
    "token_mean",
    "truncated_importance_weights",
]
