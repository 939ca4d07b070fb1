"""Raters and comparisons: votes, agreement among people, one label from many, and the sentences they agree about."""

from rlhf_jax.feedback.aggregation import DawidSkene, dawid_skene, majority
from rlhf_jax.feedback.agreement import fleiss_kappa, krippendorff_alpha, single_rater_accuracy
from rlhf_jax.feedback.comparisons import histograms, random_pairs, vote_share, votes, votes_from_histograms
from rlhf_jax.feedback.golden import golden_set

__all__ = [
    "DawidSkene",
    "dawid_skene",
    "fleiss_kappa",
    "golden_set",
    "histograms",
    "krippendorff_alpha",
    "majority",
    "random_pairs",
    "single_rater_accuracy",
    "vote_share",
    "votes",
    "votes_from_histograms",
]
