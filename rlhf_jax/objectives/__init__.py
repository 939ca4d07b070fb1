"""What can be trained for: ``(Outputs, SequenceBatch) -> Loss``, one objective a file, built from ``losses``.

An objective says what each token (or pair) costs, which of them count and how they are averaged; forward passes,
gradients, micro-batches and devices are not its business. Hyperparameters are keyword-only; bind them with
``functools.partial``.
"""

from rlhf_jax.objectives.ppo import explained_variance, ppo
from rlhf_jax.objectives.reward_model import reward_model
from rlhf_jax.objectives.sft import sft

__all__ = ["explained_variance", "ppo", "reward_model", "sft"]
