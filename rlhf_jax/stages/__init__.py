"""Stages: each builds model, objective and data from a config, and runs the loop."""

from rlhf_jax.stages.batches import PackedEpochs
from rlhf_jax.stages.best_of_n import best_of_n
from rlhf_jax.stages.choose import describe_objective, find_objective
from rlhf_jax.stages.comparison import Judged, Judges, compare, keep_best
from rlhf_jax.stages.config import DataConfig, StageConfig
from rlhf_jax.stages.group import group
from rlhf_jax.stages.inference import Policy, Scorer
from rlhf_jax.stages.lift import forward, lift
from rlhf_jax.stages.online import SamplerMismatch
from rlhf_jax.stages.online_config import GroupConfig, KLConfig, OnlineConfig, PPOConfig, PPOLossConfig, PTXConfig
from rlhf_jax.stages.online_iteration import OnlineState, OnlineTrainer
from rlhf_jax.stages.ppo import ppo
from rlhf_jax.stages.preference import PreferenceConfig, preference
from rlhf_jax.stages.quickstart import QuickstartConfig, quickstart, quickstart_config
from rlhf_jax.stages.reward_model import RewardConfig, reward_model
from rlhf_jax.stages.run import RunError, RunResult
from rlhf_jax.stages.sampler import Prompt, Sampler
from rlhf_jax.stages.scoring import RolloutReward, Trunk
from rlhf_jax.stages.sft import SFTConfig, sft
from rlhf_jax.stages.sources import Comparisons, HeldOutPairs, comparisons

__all__ = [
    "Comparisons",
    "DataConfig",
    "GroupConfig",
    "HeldOutPairs",
    "Judged",
    "Judges",
    "KLConfig",
    "OnlineConfig",
    "OnlineState",
    "OnlineTrainer",
    "PPOConfig",
    "PPOLossConfig",
    "PTXConfig",
    "PackedEpochs",
    "Policy",
    "PreferenceConfig",
    "Prompt",
    "QuickstartConfig",
    "RewardConfig",
    "RolloutReward",
    "RunError",
    "RunResult",
    "SFTConfig",
    "Sampler",
    "SamplerMismatch",
    "Scorer",
    "StageConfig",
    "Trunk",
    "best_of_n",
    "compare",
    "comparisons",
    "describe_objective",
    "find_objective",
    "forward",
    "group",
    "keep_best",
    "lift",
    "ppo",
    "preference",
    "quickstart",
    "quickstart_config",
    "reward_model",
    "sft",
]
