"""Raters and comparisons: votes, agreement among people, and the sentences they agree about."""

from rlhf_jax.feedback.agreement import krippendorff_alpha, single_rater_accuracy
from rlhf_jax.feedback.comparisons import histograms, random_pairs, vote_share, votes, votes_from_histograms
from rlhf_jax.feedback.golden import golden_set

__all__ = [
    "golden_set",
    "histograms",
    "krippendorff_alpha",
    "random_pairs",
    "single_rater_accuracy",
    "vote_share",
    "votes",
    "votes_from_histograms",
]
