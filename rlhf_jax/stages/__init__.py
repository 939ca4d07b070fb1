"""Stages: each builds model, objective and data from a config, and runs the loop."""

from rlhf_jax.data.batches import PackedEpochs
from rlhf_jax.data.config import DataConfig
from rlhf_jax.data.encode import EncodedPrompt
from rlhf_jax.models.forward import forward
from rlhf_jax.renamed import renamed
from rlhf_jax.runs.errors import NeedsPeople, RunError
from rlhf_jax.runs.folder import RunResult
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.stages.audit import audit
from rlhf_jax.stages.baselines import baselines
from rlhf_jax.stages.best_of_n import best_of_n
from rlhf_jax.stages.choose import describe_objective, find_objective
from rlhf_jax.stages.comparison import Judged, Judges, keep_best
from rlhf_jax.stages.comparison import compare as compare_policies
from rlhf_jax.stages.config import StageConfig
from rlhf_jax.stages.constitution import ReviseConfig, Revised, revise
from rlhf_jax.stages.ending import NothingTrained
from rlhf_jax.stages.eval_tasks import evaluate_tasks, evaluate_tasks_beside
from rlhf_jax.stages.evaluate import evaluate, evaluate_beside, win_rates
from rlhf_jax.stages.group import group
from rlhf_jax.stages.held_out import HeldOutPairs
from rlhf_jax.stages.judge_reward import JudgeReward
from rlhf_jax.stages.labelling import LabelConfig, Labelled, label
from rlhf_jax.stages.lift import lift
from rlhf_jax.stages.objective_loss import make_loss_fn
from rlhf_jax.stages.online.config import GroupConfig, KLConfig, OnlineConfig, PPOConfig, PPOLossConfig, PTXConfig
from rlhf_jax.stages.online.gap import SamplerMismatch
from rlhf_jax.stages.online.trainer import OnlineState, OnlineTrainer
from rlhf_jax.stages.opinions import Comparisons, comparisons
from rlhf_jax.stages.people import CompareConfig, ask_people, compare, open_store
from rlhf_jax.stages.ppo import ppo
from rlhf_jax.stages.preference import PreferenceConfig, preference
from rlhf_jax.stages.quickstart import QuickstartConfig, quickstart, quickstart_config
from rlhf_jax.stages.reward_model import RewardConfig, reward_model
from rlhf_jax.stages.rounds import ChooseConfig, RoundsConfig, RoundsResult, rounds
from rlhf_jax.stages.sampler import Sampler
from rlhf_jax.stages.scoring import LoadedModel, RolloutReward
from rlhf_jax.stages.sft import SFTConfig, sft
from rlhf_jax.stages.sources import find_task
from rlhf_jax.stages.task import Task

__all__ = [
    "ChooseConfig",
    "CompareConfig",
    "Comparisons",
    "DataConfig",
    "EncodedPrompt",
    "GroupConfig",
    "HeldOutPairs",
    "JudgeReward",
    "Judged",
    "Judges",
    "KLConfig",
    "LabelConfig",
    "Labelled",
    "LoadedModel",
    "NeedsPeople",
    "NothingTrained",
    "OnlineConfig",
    "OnlineState",
    "OnlineTrainer",
    "PPOConfig",
    "PPOLossConfig",
    "PTXConfig",
    "PackedEpochs",
    "Policy",
    "PreferenceConfig",
    "QuickstartConfig",
    "ReviseConfig",
    "Revised",
    "RewardConfig",
    "RolloutReward",
    "RoundsConfig",
    "RoundsResult",
    "RunError",
    "RunResult",
    "SFTConfig",
    "Sampler",
    "SamplerMismatch",
    "Scorer",
    "StageConfig",
    "Task",
    "ask_people",
    "audit",
    "baselines",
    "best_of_n",
    "compare",
    "compare_policies",
    "comparisons",
    "describe_objective",
    "evaluate",
    "evaluate_beside",
    "evaluate_tasks",
    "evaluate_tasks_beside",
    "find_objective",
    "find_task",
    "forward",
    "group",
    "keep_best",
    "label",
    "lift",
    "make_loss_fn",
    "open_store",
    "ppo",
    "preference",
    "quickstart",
    "quickstart_config",
    "revise",
    "reward_model",
    "rounds",
    "sft",
    "win_rates",
]

__getattr__ = renamed(
    __name__,
    {
        "Prompt": "stages.EncodedPrompt",
        "Trunk": "stages.LoadedModel",
        "batches": "data.batches",
        "chat": "runs.chat",
        "export": "runs.export",
        "fetch": "runs.fetch",
        "inference": "runs.policy",
        "loading": "runs.loading",
        "pretrained": "runs.pretrained",
        "reading": "data.reading",
        "run": "runs.folder",
        "yardsticks": "stages.baselines",
    },
)
