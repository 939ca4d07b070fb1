"""The training state, one step, and the host loop. This layer knows no objective, no loss and no model."""

from rlhf_jax.renamed import renamed
from rlhf_jax.training.controllers import Controller, KLState, adaptive, banded, fixed
from rlhf_jax.training.goodput import GoodputLog, Spent, read_goodput
from rlhf_jax.training.loop import CheckpointStore, FitResult, LastUpdate, SkippedUpdates, Watcher, fit
from rlhf_jax.training.metrics import MetricsWriter, read_metrics
from rlhf_jax.training.optimizer import OptimizerConfig, by_role, make_optimizer, make_schedule, per_member
from rlhf_jax.training.phases import Phases
from rlhf_jax.training.progress import Progress
from rlhf_jax.training.signals import Interrupted, StopSignals
from rlhf_jax.training.state import TrainState, init, init_state
from rlhf_jax.training.step import AuxiliaryLoss, Metrics, Parts, TrainStep, fetch, jit_step, make_train_step
from rlhf_jax.training.watchdog import Watchdog

__all__ = [
    "AuxiliaryLoss",
    "CheckpointStore",
    "Controller",
    "FitResult",
    "GoodputLog",
    "Interrupted",
    "KLState",
    "LastUpdate",
    "Metrics",
    "MetricsWriter",
    "OptimizerConfig",
    "Parts",
    "Phases",
    "Progress",
    "SkippedUpdates",
    "Spent",
    "StopSignals",
    "TrainState",
    "TrainStep",
    "Watchdog",
    "Watcher",
    "adaptive",
    "banded",
    "by_role",
    "fetch",
    "fit",
    "fixed",
    "init",
    "init_state",
    "jit_step",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
    "per_member",
    "read_goodput",
    "read_metrics",
]

__getattr__ = renamed(__name__, {"Term": "training.AuxiliaryLoss"})
