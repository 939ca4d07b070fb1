"""What the figures of a run mean, in plain sentences: which bar is met, which is missed, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlhf_jax.report.formats import number
from rlhf_jax.report.stage_names import POLICIES, policy_name, starting_policy
from rlhf_jax.stage_names import STAGES

# The least a reward model on human_sentiment must reach over all domains, and the most a policy may drift.
ACCURACY_BAR, KL_BAR = 0.70, 20.0

Kind = Literal["met", "missed", "note", "warning"]


class Verdict(NamedTuple):
    """One sentence about a run and whether it is good news."""

    kind: Kind
    text: str


def verdicts(summary: Mapping[str, Any]) -> list[Verdict]:
    """Sentences on the reward model and the policies of a run, as far as its summary goes.

    Args:
        summary: as in ``summary.json``; any part may be missing.

    Returns:
        The sentences, in the order of the stages.

    Example:
        >>> verdicts({"ppo": {"gold_win_rate": 0.6, "gold_win_rate_ci": [0.52, 0.67], "kl": 4.0}})[0].kind
        'met'
    """
    reward = summary.get("reward", {})
    found: list[Verdict] = []
    if reward.get("accuracy") is not None:
        found += _reward_verdicts(reward, summary.get("baselines", {}))
    # Stages that read the same rows say the same of them.
    said = [text for stage in STAGES for text in summary.get(stage.name, {}).get("warnings", [])]
    found += [Verdict("warning", text) for text in dict.fromkeys(said)]
    for stage in POLICIES:
        if stage in summary:
            found += _policy_verdicts(f"the {policy_name(stage, summary[stage])} policy", summary[stage])
    return found


def _reward_verdicts(reward: Mapping[str, Any], baselines: Mapping[str, Any]) -> list[Verdict]:
    accuracy, interval = reward["accuracy"], reward.get("accuracy_ci")
    stated = f"The reward model ranks {accuracy:.1%} of held-out pairs as the majority of people does"
    # The bar is about human_sentiment, and only its runs have this baseline.
    if "ridge" not in baselines:
        return [Verdict("note", f"{stated}.")]
    above = accuracy >= ACCURACY_BAR
    found = [
        Verdict(
            "met" if above else "missed",
            f"{stated}: the bar of {ACCURACY_BAR:.0%} is {'met' if above else 'missed'}.",
        )
    ]
    for key, name in (("ridge", "the aim, ridge regression on TF-IDF"), ("vader", "VADER's word list")):
        other = baselines.get(key)
        if other is not None:
            found.append(_against(accuracy, interval, other, name))
    person = baselines.get("single_rater")
    if person is not None:
        side = "below" if accuracy < person else "above"
        text = f"One person agrees with the majority of the others on {person:.1%} of the pairs: the reward model is "
        found.append(Verdict("note", f"{text}{abs(accuracy - person) * 100:.1f} points {side} that."))
    return found


def _against(accuracy: float, interval: Any, other: float, name: str) -> Verdict:
    points = abs(accuracy - other) * 100
    if points < 0.05:
        return Verdict("met", f"The reward model equals {name} ({other:.1%}).")
    side = "above" if accuracy > other else "below"
    text = f"The reward model is {points:.1f} points {side} {name} ({other:.1%})"
    if interval and interval[0] <= other <= interval[1]:
        text += ", a difference within its own 95% interval"
    return Verdict("met" if accuracy > other else "missed", f"{text}.")


def _policy_verdicts(policy: str, figures: Mapping[str, Any]) -> list[Verdict]:
    found, start = [], starting_policy(figures)
    if figures.get("gold_win_rate") is not None:
        found.append(_win_verdict(policy, start, figures["gold_win_rate"], figures.get("gold_win_rate_ci")))
    if figures.get("kl") is not None:
        found.append(_kl_verdict(policy, start, figures["kl"]))
    if figures.get("accuracy") is not None:
        ranked = f"The implicit reward of {policy} ranks {figures['accuracy']:.1%} of held-out pairs"
        found.append(Verdict("note", f"{ranked} as the majority of people does."))
    if figures.get("label_auc") is not None:
        ranked = f"The implicit reward of {policy} puts thumbs up above thumbs down in {figures['label_auc']:.1%}"
        found.append(Verdict("note", f"{ranked} of held-out couples of one and the other."))
    return found


def _win_verdict(policy: str, start: str, rate: float, interval: Sequence[float] | None) -> Verdict:
    text = f"On held-out prompts the gold judge prefers {policy} to the {start} {rate:.1%}"
    if not interval:
        return Verdict("note", f"{text} of the time; the run gives no interval.")
    text += f" of the time (95% interval {interval[0]:.1%} to {interval[1]:.1%})"
    if interval[0] > 0.5:
        return Verdict("met", f"{text}: better than the {start}.")
    if interval[1] < 0.5:
        return Verdict("missed", f"{text}: worse than the {start}.")
    return Verdict("missed", f"{text}: the interval holds 50%, so no improvement is shown.")


def _kl_verdict(policy: str, start: str, kl: float) -> Verdict:
    text = f"T{policy[1:]} is {number(kl, 1)} nats a response from the {start}"
    if kl < KL_BAR:
        return Verdict("met", f"{text}, below {KL_BAR:g}.")
    return Verdict("missed", f"{text}; the limit is {KL_BAR:g}.")
