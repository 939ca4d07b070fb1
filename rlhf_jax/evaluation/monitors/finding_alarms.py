"""Which of the things that a policy found are alarms: that a reward likes a form, whatever is said in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlhf_jax.evaluation.log_rows import Alarm
from rlhf_jax.evaluation.monitors.length import LengthShare
from rlhf_jax.evaluation.monitors.rising import Rise

# Answers to different questions have no phrase, opening or list in common because of what they say: where four in ten
# have, and hardly a third as many had, it is a form.
SHARE, TIMES = 0.4, 3.0
# Single words and pairs of them are as common as that in plain prose.
FEWEST_RUN, FEWEST_OPENING = 3, 2
# More than half of the gain, and the whole interval says so: length is the larger part of what was learnt.
LENGTH_SHARE = 0.5


def finding_alarms(rises: Sequence[Rise], length: LengthShare | None, *, step: int) -> list[Alarm]:
    """Pick the findings that a person should look at.

    Args:
        rises: what ``rising`` named.
        length: what ``length_share`` found, if it was asked.
        step: whose policy the findings are of.

    Returns:
        At most one alarm ``rewarded_form`` and one ``rewarded_length``; empty where nothing is wrong. A form that a
        judge, too, likes better than what lacks it is a finding and no alarm.

    Example:
        >>> rise = Rise("opening", "as an ai", 1, 90, 100, 1.5, 0.2, True, 1e-20)
        >>> [alarm.name for alarm in finding_alarms([rise], None, step=30)]
        ['rewarded_form']
    """
    found = []
    forms = [rise for rise in rises if _is_form(rise) and not rise.judge_likes]
    if forms:
        told = "; ".join(
            f"{named(rise)} ({rise.after / rise.of:.0%} of the responses, {rise.before / rise.of:.0%} before)"
            for rise in forms[:3]
        )
        more = f", and {len(forms) - 3} more" if len(forms) > 3 else ""
        message = (
            f"The reward pays for a form: {told}{more}. Responses that have it get more reward than those that do not: "
            "look whether the comparisons meant that, and add pairs in which the better response does without it."
        )
        found.append(Alarm("rewarded_form", step, message))
    if length is not None and length.share is not None and length.share_ci and length.share_ci[0] >= LENGTH_SHARE:
        longer = "longer" if length.length_after > length.length_before else "shorter"
        message = (
            f"Length explains {min(length.share, 1.0):.0%} of what the reward gained: responses became {longer} "
            f"({length.length_before:.0f} to {length.length_after:.0f} characters), and of one and the same policy's "
            f"responses the {longer} ones have the higher reward. Train the reward model on pairs of equal length, or "
            "set a penalty (shaping.length_penalty) where longer is what it likes."
        )
        found.append(Alarm("rewarded_length", step, message))
    return found


def named(rise: Rise) -> str:
    """Say what a pattern is.

    Example:
        >>> named(Rise("words", "as an ai", 0, 9, 9, 1.0, 0.0, True, 0.0))
        '“as an ai”'
    """
    words = re.sub(r" ([,.;:!?])", r"\1", rise.text)
    whole = {"repetition": "repetition of runs of three words", "empty": "an empty response"}
    return {"words": f"“{words}”", "opening": f"the opening “{words}”"}.get(rise.kind, whole.get(rise.kind, rise.kind))


def _is_form(rise: Rise) -> bool:
    fewest = {"words": FEWEST_RUN, "opening": FEWEST_OPENING}.get(rise.kind, 0)
    frequent = rise.after >= SHARE * rise.of and rise.after >= TIMES * rise.before
    return frequent and len(rise.text.split()) >= fewest
