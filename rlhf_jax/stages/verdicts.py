"""What the figures of a run mean, in plain sentences: which bar is met, which is missed, and by how much.

Nothing is met that was not tried: a stage that left what it started from is not praised for having stayed there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlhf_jax.evaluation.reward_model import FEWEST_PAIRS
from rlhf_jax.stage_names import STAGES
from rlhf_jax.stages.policy_verdicts import policy_sentences
from rlhf_jax.stages.titles import POLICIES, policy_name, stage_title

# The least a reward model on human_sentiment must reach over all domains.
ACCURACY_BAR = 0.70

Kind = Literal["failed", "met", "missed", "note", "warning"]


class Verdict(NamedTuple):
    """One sentence about a run and whether it is good news."""

    kind: Kind
    text: str


def verdicts(summary: Mapping[str, Any]) -> list[Verdict]:
    """Sentences on the stages of a run, as far as its summary goes.

    Args:
        summary: as in ``summary.json``; any part may be missing.

    Returns:
        The sentences, in the order of the stages. What several stages say of the same rows is said once.

    Example:
        >>> verdicts({"ppo": {"gold_win_rate": 0.6, "gold_win_rate_ci": [0.52, 0.67], "kl": 4.0}})[0].kind
        'met'
    """
    found = [
        verdict for stage in (*(s.name for s in STAGES), "best_of_n") for verdict in stage_verdicts(stage, summary)
    ]
    return list(dict.fromkeys(found))


def stage_verdicts(stage: str, summary: Mapping[str, Any]) -> list[Verdict]:
    """Sentences on one stage.

    Args:
        stage: its name.
        summary: as in ``summary.json``: the part of the stage, and what there is beside it.

    Returns:
        What went wrong, which checkpoint was kept and why, what the figures mean, which rows they are made of, and
        warnings; empty where the stage has not ended.

    Example:
        >>> [text for _, text in stage_verdicts("sft", {"sft": {"kept": "Step 4, the last one, was kept."}})]
        ['Supervised fine-tuning: step 4, the last one, was kept.']
    """
    figures = summary.get(stage, {})
    title = stage_title(stage, figures.get("objective"), figures.get("reward"))
    if stage not in summary:
        gave_up = summary.get("failed", {}).get(stage)
        return [Verdict("failed", f"{title} gave up: {_sentence(gave_up)}")] if gave_up else []
    found = _ending(title, figures)
    if stage == "reward" and not figures.get("failed"):
        found += _reward_verdicts(figures, summary.get("baselines", {}))
    if stage in POLICIES and not figures.get("failed"):
        policy = f"the {policy_name(stage, figures)} policy"
        found += [Verdict(kind, text) for kind, text in policy_sentences(policy, figures)]
    if rows := rows_sentence(figures.get("rows", {})):
        found.append(Verdict("note", f"{title}: {rows}."))
    return found + [Verdict("warning", text) for text in figures.get("warnings", [])]


def alarm_verdicts(summary: Mapping[str, Any]) -> list[Verdict]:
    """The alarms of all stages as warnings, each with its stage and the step where it first held."""
    return [
        Verdict("warning", f"{stage.name}, step {alarm['step']}: {alarm['message']}")
        for stage in STAGES
        for alarm in summary.get(stage.name, {}).get("alarms", [])
    ]


def rows_sentence(rows: Mapping[str, int]) -> str:
    """Say how many rows a stage trained on, held out, left out and did not come to.

    Example:
        >>> rows_sentence({"trained": 1200, "held_out": 60, "test": 60, "left_out": 3})
        '1,200 rows were trained on, 60 held out to choose the checkpoint, 60 for the final figures; 3 were left out'
    """
    what = {"trained": "trained on", "held_out": "held out to choose the checkpoint", "test": "for the final figures"}
    parts = [f"{rows[key]:,} {'rows were ' * (key == 'trained')}{name}" for key, name in what.items() if key in rows]
    if not parts:
        return ""
    lost = rows.get("left_out", 0)
    left = f"{lost:,} {'was' if lost == 1 else 'were'}" if lost else "none was"
    more = f"; {rows['not_reached']:,} more were not reached, for want of iterations" if rows.get("not_reached") else ""
    return f"{', '.join(parts)}; {left} left out{more}"


def _ending(title: str, figures: Mapping[str, Any]) -> list[Verdict]:
    """Whether anything was trained, which checkpoint is left, and why the stage ended where it did."""
    found: list[Verdict] = []
    tried, skipped = figures.get("updates"), figures.get("skipped_updates", 0)
    if figures.get("failed"):
        found.append(Verdict("failed", f"{title}: {figures['failed']}; what the stage left is no result."))
    elif figures.get("kept"):
        kept = figures["kept"]
        missed = figures.get("best_step") == 0
        found.append(Verdict("missed" if missed else "note", f"{title}: {kept[0].lower()}{kept[1:]}"))
    if skipped and not figures.get("failed"):
        of = f"{skipped:,} of {tried:,}" if tried else f"{skipped:,}"
        found.append(
            Verdict("warning", f"{title}: {of} updates were skipped, because the loss or a gradient was not finite.")
        )
    if figures.get("stop_reason"):
        found.append(
            Verdict("note", f"{title}: stopped early, at step {figures.get('steps')}: {figures['stop_reason']}.")
        )
    return found


def _reward_verdicts(reward: Mapping[str, Any], baselines: Mapping[str, Any]) -> list[Verdict]:
    accuracy, interval, pairs = reward.get("accuracy"), reward.get("accuracy_ci"), reward.get("pairs")
    if accuracy is None:
        none = "No held-out pair has a majority, so there is no accuracy to tell a good reward model from a bad one by."
        return [Verdict("warning", none)] if pairs == 0 else []
    held = f"{pairs:,} held-out pairs" if pairs is not None else "held-out pairs"
    stated = f"The reward model ranks {accuracy:.1%} of {held} as the majority of people does"
    # The bar is about human_sentiment, and only its runs have this baseline.
    if "ridge" not in baselines:
        known = f" (95% interval {interval[0]:.1%} to {interval[1]:.1%})" if interval else ""
        chance = interval and interval[0] <= 0.5 <= interval[1]
        said = ": it is not shown to be better than chance" if chance else ""
        said += f"; {FEWEST_PAIRS} pairs are the least that say something" if pairs and pairs < FEWEST_PAIRS else ""
        return [Verdict("note", f"{stated}{known}{said}.")]
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


def _against(accuracy: float, interval: Sequence[float] | None, other: float, name: str) -> Verdict:
    points = abs(accuracy - other) * 100
    if points < 0.05:
        return Verdict("met", f"The reward model equals {name} ({other:.1%}).")
    side = "above" if accuracy > other else "below"
    text = f"The reward model is {points:.1f} points {side} {name} ({other:.1%})"
    if interval and interval[0] <= other <= interval[1]:
        text += ", a difference within its own 95% interval"
    return Verdict("met" if accuracy > other else "missed", f"{text}.")


def _sentence(text: str) -> str:
    whole = text.strip().rstrip(".")
    return f"{whole[:1].upper()}{whole[1:]}."
