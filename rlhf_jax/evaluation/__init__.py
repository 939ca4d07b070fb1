"""How good a reward model or a policy is, in figures with intervals: numpy on the host, nothing here is traced."""

from __future__ import annotations

from rlhf_jax.evaluation import monitors
from rlhf_jax.evaluation.alarms import (
    alarms,
    high_kl,
    logprob_gap,
    mode_collapse,
    negative_kl,
    reward_hacking,
    skipped_updates,
)
from rlhf_jax.evaluation.baselines import fit_ridge, vader
from rlhf_jax.evaluation.best_of_n import best_of_n_mean
from rlhf_jax.evaluation.calibration import calibration, calibration_interval
from rlhf_jax.evaluation.choices import ChoiceQuality, ScoredChoice, choice_quality
from rlhf_jax.evaluation.intervals import bootstrap_groups, bootstrap_mean, bootstrap_pairs, wilson
from rlhf_jax.evaluation.judge_quality import JudgeQuality, judge_quality
from rlhf_jax.evaluation.labels import label_warnings
from rlhf_jax.evaluation.length_control import length_controlled
from rlhf_jax.evaluation.log_rows import Alarm
from rlhf_jax.evaluation.over_optimisation import OverOptimisation, fit_over_optimisation
from rlhf_jax.evaluation.over_optimisation_intervals import FittedIntervals, over_optimisation_intervals
from rlhf_jax.evaluation.own_samples import OwnSamples, ordered_alike, ordered_alike_interval
from rlhf_jax.evaluation.policy import describe_responses, distinct_n, most_common_share, unique_tokens, win_rate
from rlhf_jax.evaluation.reward_model import pair_accuracy, reliability, reward_quality
from rlhf_jax.evaluation.sample_alarms import constant_reward, flat_reward, no_response_ends
from rlhf_jax.evaluation.self_preference import SelfPreference, self_preference
from rlhf_jax.evaluation.win_rates import paired_difference, paired_win_rate
from rlhf_jax.renamed import renamed

__all__ = [
    "Alarm",
    "ChoiceQuality",
    "FittedIntervals",
    "JudgeQuality",
    "OverOptimisation",
    "OwnSamples",
    "ScoredChoice",
    "SelfPreference",
    "alarms",
    "best_of_n_mean",
    "bootstrap_groups",
    "bootstrap_mean",
    "bootstrap_pairs",
    "calibration",
    "calibration_interval",
    "choice_quality",
    "constant_reward",
    "describe_responses",
    "distinct_n",
    "fit_over_optimisation",
    "fit_ridge",
    "flat_reward",
    "high_kl",
    "judge_quality",
    "label_warnings",
    "length_controlled",
    "logprob_gap",
    "mode_collapse",
    "monitors",
    "most_common_share",
    "negative_kl",
    "no_response_ends",
    "ordered_alike",
    "ordered_alike_interval",
    "over_optimisation_intervals",
    "pair_accuracy",
    "paired_difference",
    "paired_win_rate",
    "reliability",
    "reward_hacking",
    "reward_quality",
    "self_preference",
    "skipped_updates",
    "unique_tokens",
    "vader",
    "wilson",
    "win_rate",
]

__getattr__ = renamed(__name__, {"yardsticks": "evaluation.baselines"})
