"""What a policy found to raise its reward, from its responses and their rewards: forms, length, agreeing."""

from __future__ import annotations

from rlhf_jax.evaluation.monitors.agreeing import Agreeing, Question, agreeing
from rlhf_jax.evaluation.monitors.finding_alarms import finding_alarms, named
from rlhf_jax.evaluation.monitors.length import LengthShare, length_share
from rlhf_jax.evaluation.monitors.patterns import Pattern, occurrences, repeated, spans, words_of
from rlhf_jax.evaluation.monitors.rising import Rise, rising

__all__ = [
    "Agreeing",
    "LengthShare",
    "Pattern",
    "Question",
    "Rise",
    "agreeing",
    "finding_alarms",
    "length_share",
    "named",
    "occurrences",
    "repeated",
    "rising",
    "spans",
    "words_of",
]
