"""Stages: each builds model, objective and data from a config, and runs the loop."""

from rlhf_jax.stages.batches import PackedEpochs
from rlhf_jax.stages.config import DataConfig, StageConfig
from rlhf_jax.stages.inference import Policy, Scorer
from rlhf_jax.stages.lift import forward, lift
from rlhf_jax.stages.ppo import SamplerMismatch, ppo
from rlhf_jax.stages.ppo_config import KLConfig, PPOConfig, PPOLossConfig
from rlhf_jax.stages.ppo_iteration import PPOState, PPOTrainer, Prompt, Trunk
from rlhf_jax.stages.quickstart import QuickstartConfig, quickstart, quickstart_config
from rlhf_jax.stages.reward_model import RewardConfig, reward_model
from rlhf_jax.stages.run import RunError, RunResult
from rlhf_jax.stages.sft import SFTConfig, sft
from rlhf_jax.stages.sources import Comparisons, HeldOutPairs, comparisons

__all__ = [
    "Comparisons",
    "DataConfig",
    "HeldOutPairs",
    "KLConfig",
    "PPOConfig",
    "PPOLossConfig",
    "PPOState",
    "PPOTrainer",
    "PackedEpochs",
    "Policy",
    "Prompt",
    "QuickstartConfig",
    "RewardConfig",
    "RunError",
    "RunResult",
    "SFTConfig",
    "SamplerMismatch",
    "Scorer",
    "StageConfig",
    "Trunk",
    "comparisons",
    "forward",
    "lift",
    "ppo",
    "quickstart",
    "quickstart_config",
    "reward_model",
    "sft",
]
