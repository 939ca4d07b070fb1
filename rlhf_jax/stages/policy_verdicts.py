"""What a policy's figures mean: whether each judge and the reward prefer it to its start, and how far it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlhf_jax.stages.titles import judge_name, starting_policy

Sentence = tuple[Literal["met", "missed", "note"], str]


def policy_sentences(policy: str, figures: Mapping[str, Any]) -> list[Sentence]:
    """Sentences on one policy.

    Args:
        policy: what it is called.
        figures: its part of the summary.

    Returns:
        (kind, text): one for each judge and for the proxy reward, one on the KL, and one on the implicit reward of
        preference optimisation. Where the policy is the one that it started from there is nothing to compare.

    Example:
        >>> policy_sentences("the PPO policy", {"best_step": 0, "kl": 0.0, "gold_win_rate": 0.5})[0][1]
        'The PPO policy is the SFT policy itself, so there is nothing to judge: the gold judge, KL.'
    """
    start = starting_policy(figures.get("started_from", "sft"))
    judges = judged_by(figures)
    if figures.get("best_step") == 0:
        asked = [judge_name(name, figures) for name in judges]
        asked += ["KL"] * (figures.get("kl") is not None)
        named = f": {', '.join(asked)}" if asked else ""
        return [("note", f"T{policy[1:]} is the {start} itself, so there is nothing to judge{named}.")]
    prompts = figures.get("test_prompts")
    held = f"{prompts:,} held-out prompts" if prompts else "held-out prompts"
    found: list[Sentence] = []
    for name in judges:
        rate, interval = figures[f"{name}_win_rate"], figures.get(f"{name}_win_rate_ci")
        found.append(_win(held, judge_name(name, figures), policy, start, rate, interval))
    if figures.get("kl") is not None:
        found.append(_kl(policy, start, figures["kl"], figures.get("max_kl")))
    if figures.get("accuracy") is not None:
        pairs = f"{figures['pairs']:,} " if figures.get("pairs") else ""
        ranked = f"The implicit reward of {policy} ranks {figures['accuracy']:.1%} of {pairs}held-out pairs"
        found.append(("note", f"{ranked} as the majority of people does."))
    if figures.get("label_auc") is not None:
        ranked = f"The implicit reward of {policy} puts thumbs up above thumbs down in {figures['label_auc']:.1%}"
        among = f", from {figures['responses']:,} responses" if figures.get("responses") else ""
        found.append(("note", f"{ranked} of held-out couples of one and the other{among}."))
    return found


def judged_by(figures: Mapping[str, Any]) -> list[str]:
    """Names of what compared a policy with its start: the judge that counts first, then the others, the proxy last.

    Example:
        >>> judged_by({"proxy_win_rate": 0.9, "short_win_rate": 0.4, "gold_win_rate": 0.6})
        ['gold', 'short', 'proxy']
    """
    won = [
        key.removesuffix("_win_rate") for key, rate in figures.items() if key.endswith("_win_rate") and rate is not None
    ]
    return sorted(won, key=lambda name: {"gold": 0, "proxy": 2}.get(name, 1))


def _win(held: str, judge: str, policy: str, start: str, rate: float, interval: Sequence[float] | None) -> Sentence:
    text = f"On {held} {judge} prefers {policy} to the {start} {rate:.1%}"
    if not interval:
        return "note", f"{text} of the time; the run gives no interval."
    text += f" of the time (95% interval {interval[0]:.1%} to {interval[1]:.1%})"
    if interval[0] > 0.5:
        return "met", f"{text}: better than the {start}."
    if interval[1] < 0.5:
        return "missed", f"{text}: worse than the {start}."
    return "missed", f"{text}: the interval holds 50%, so no improvement is shown."


def _kl(policy: str, start: str, kl: float, limit: float | None) -> Sentence:
    # An estimate just below zero is not to be read as -0.0.
    text = f"T{policy[1:]} is {round(kl, 1) + 0.0:.1f} nats a response from the {start}"
    if limit is None:
        return "note", f"{text}."
    if kl <= limit:
        return "met", f"{text}, within max_kl, {limit:g}."
    return "missed", f"{text}; the limit is max_kl, {limit:g}."
