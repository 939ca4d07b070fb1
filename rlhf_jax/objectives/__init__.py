"""What can be trained for: ``(Outputs, SequenceBatch) -> Loss``, one objective a file, built from ``losses``.

An objective says what each token (or pair) costs, which of them count and how they are averaged; forward passes,
gradients, micro-batches and devices are not its business. Hyperparameters are keyword-only; bind them with
``functools.partial``.
"""

from rlhf_jax.objectives.a2c import a2c
from rlhf_jax.objectives.cpo import cpo
from rlhf_jax.objectives.dapo import dapo
from rlhf_jax.objectives.dpo import dpo
from rlhf_jax.objectives.dr_grpo import dr_grpo
from rlhf_jax.objectives.expert_iteration import expert_iteration
from rlhf_jax.objectives.grpo import grpo
from rlhf_jax.objectives.gspo import gspo
from rlhf_jax.objectives.ipo import ipo
from rlhf_jax.objectives.kto import kto
from rlhf_jax.objectives.likert import likert
from rlhf_jax.objectives.online_dpo import online_dpo
from rlhf_jax.objectives.orpo import orpo
from rlhf_jax.objectives.plackett_luce import plackett_luce
from rlhf_jax.objectives.ppo import explained_variance, ppo
from rlhf_jax.objectives.reinforce import reinforce
from rlhf_jax.objectives.reward_model import reward_model
from rlhf_jax.objectives.rloo import rloo
from rlhf_jax.objectives.robust_dpo import robust_dpo
from rlhf_jax.objectives.sft import sft
from rlhf_jax.objectives.simpo import simpo
from rlhf_jax.objectives.slic import slic

# What `--objective NAME` finds.
NAMES = (
    "a2c",
    "cpo",
    "dapo",
    "dpo",
    "dr_grpo",
    "expert_iteration",
    "grpo",
    "gspo",
    "ipo",
    "kto",
    "likert",
    "online_dpo",
    "orpo",
    "plackett_luce",
    "ppo",
    "reinforce",
    "reward_model",
    "rloo",
    "robust_dpo",
    "sft",
    "simpo",
    "slic",
)

__all__ = [
    "NAMES",
    "a2c",
    "cpo",
    "dapo",
    "dpo",
    "dr_grpo",
    "expert_iteration",
    "explained_variance",
    "grpo",
    "gspo",
    "ipo",
    "kto",
    "likert",
    "online_dpo",
    "orpo",
    "plackett_luce",
    "ppo",
    "reinforce",
    "reward_model",
    "rloo",
    "robust_dpo",
    "sft",
    "simpo",
    "slic",
]
