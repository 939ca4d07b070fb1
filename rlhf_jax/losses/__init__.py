"""The mathematics: arrays in, unreduced arrays out, one concept a file. Only ``masked`` reduces.

Inputs of any float type are computed in float32; hyperparameters are keyword-only; per-token arrays are aligned
(nothing is shifted here); logs are natural. Imports nothing of ours but its siblings.
"""

from rlhf_jax.losses.bradley_terry import bradley_terry
from rlhf_jax.losses.gae import gae
from rlhf_jax.losses.kl import full_kl, k1, k2, k3, kl_penalised_rewards
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
from rlhf_jax.losses.ppo import clipped_surrogate, clipped_value
from rlhf_jax.losses.sft import cross_entropy

__all__ = [
    "Reduction",
    "bradley_terry",
    "clipped_surrogate",
    "clipped_value",
    "constant",
    "cross_entropy",
    "entropy",
    "full_kl",
    "gae",
    "k1",
    "k2",
    "k3",
    "kl_penalised_rewards",
    "masked_fill",
    "masked_mean",
    "masked_sum",
    "masked_whiten",
    "sequence_mean",
    "sequence_sum",
    "token_logprobs",
    "token_mean",
]
