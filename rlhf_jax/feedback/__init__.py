"""Raters and comparisons: votes, agreement among people, one label from many, and the sentences they agree about."""

from rlhf_jax.feedback.aggregation import DawidSkene, dawid_skene, majority
from rlhf_jax.feedback.agreement import fleiss_kappa, krippendorff_alpha, single_rater_accuracy
from rlhf_jax.feedback.comparisons import histograms, random_pairs, vote_share, votes, votes_from_histograms
from rlhf_jax.feedback.consensus import Consensus, consensus, labels_of_votes
from rlhf_jax.feedback.drift import Drift, Periods, by_period, drift
from rlhf_jax.feedback.filtering import Kept, kept_raters
from rlhf_jax.feedback.golden import golden_set
from rlhf_jax.feedback.judges import Judge, Verdicts, from_scores, judged, of_both_orders, votes_of_scores
from rlhf_jax.feedback.labels import label_alpha
from rlhf_jax.feedback.principles import Principle, Principles, parse_principles, read_principles
from rlhf_jax.feedback.raters import (
    RaterReport,
    agreement_with_golden,
    agreement_with_others,
    rater_report,
    rater_weights,
    telling_pairs,
)
from rlhf_jax.feedback.rubrics import Criterion, Rubric, read_rubric

__all__ = [
    "Consensus",
    "Criterion",
    "DawidSkene",
    "Drift",
    "Judge",
    "Kept",
    "Periods",
    "Principle",
    "Principles",
    "RaterReport",
    "Rubric",
    "Verdicts",
    "agreement_with_golden",
    "agreement_with_others",
    "by_period",
    "consensus",
    "dawid_skene",
    "drift",
    "fleiss_kappa",
    "from_scores",
    "golden_set",
    "histograms",
    "judged",
    "kept_raters",
    "krippendorff_alpha",
    "label_alpha",
    "labels_of_votes",
    "majority",
    "of_both_orders",
    "parse_principles",
    "random_pairs",
    "rater_report",
    "rater_weights",
    "read_principles",
    "read_rubric",
    "single_rater_accuracy",
    "telling_pairs",
    "vote_share",
    "votes",
    "votes_from_histograms",
    "votes_of_scores",
]
