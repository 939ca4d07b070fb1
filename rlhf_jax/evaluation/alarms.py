"""What can go wrong in training a policy and shows in its log: pure functions over the rows of ``metrics.jsonl``.

A row is a dict with ``step`` and figures ``STAGE/...``; figures are named here without their stage. Rows that lack a
figure are passed over: evaluations are rarer than updates, a run may stop at any time, and not every stage logs all
of them. Each alarm is reported once, at the step where it first held.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from rlhf_jax.evaluation.log_rows import Alarm, Row, figure, points_of
from rlhf_jax.evaluation.sample_alarms import constant_reward, flat_reward, no_response_ends

# Nats a token: the mean difference between sampler and trainer that rounding of thirty layers in bfloat16 explains.
LARGEST_GAP = 0.06


def alarms(
    history: Sequence[Row],
    *,
    stage: str = "ppo",
    judge: str = "gold",
    max_kl: float | None = None,
    from_step: int = 20,
) -> list[Alarm]:
    """All alarms of a history, in the order of their steps.

    Args:
        history: rows in the order of their steps; those of other stages may be among them.
        stage: whose figures to look at: ``ppo``, ``group``, ``preference``, or any that logs the same names.
        judge: the judge whose score is held against the proxy.
        max_kl: nats a response above which the KL is an alarm; 20 where nobody says.
        from_step: the first step at which a reward that has not risen is an alarm.

    Returns:
        At most one alarm of each kind; empty when nothing is wrong.

    Example:
        >>> [alarm.name for alarm in alarms([{"step": 3, "ppo/kl": 31.0}])]
        ['high_kl']
        >>> [alarm.name for alarm in alarms([{"step": 3, "group/skipped": 1}], stage="group")]
        ['skipped_updates']
    """
    hacking = functools.partial(reward_hacking, judge=judge)
    far = high_kl if max_kl is None else functools.partial(high_kl, limit=max_kl)
    flat = functools.partial(flat_reward, from_step=from_step)
    checks = (
        negative_kl,
        far,
        hacking,
        mode_collapse,
        no_response_ends,
        constant_reward,
        flat,
        skipped_updates,
        logprob_gap,
    )
    found = [alarm for check in checks if (alarm := check(history, stage=stage)) is not None]
    return sorted(found, key=lambda alarm: alarm.step)


def negative_kl(
    history: Sequence[Row], *, stage: str = "ppo", window: int = 10, tolerance: float = 0.05
) -> Alarm | None:
    """The estimated KL to the reference averages below zero over a window.

    The estimate of one batch may be below zero, the KL itself cannot: a whole window below means that the sampled
    tokens are not from the policy that the log-probabilities are of, or that responses are cut in a biased way.

    Args:
        history: rows in the order of their steps.
        stage: whose figures to look at.
        window: steps averaged over; usual 5 to 20.
        tolerance: nats a response that noise may account for.

    Returns:
        The alarm, or None.

    Example:
        >>> negative_kl([{"step": i, "ppo/kl": -0.5} for i in range(10)]).step
        9
    """
    series = points_of(history, f"{stage}/kl")
    for end in range(window, len(series) + 1):
        mean = sum(value for _, value in series[end - window : end]) / window
        if mean < -tolerance:
            message = (
                f"The KL to the reference averaged {mean:.2f} nats a response over {window} steps, and a KL cannot be "
                "negative: sampling and training disagree about the policy."
            )
            return Alarm("negative_kl", series[end - 1][0], message)
    return None


def high_kl(history: Sequence[Row], *, stage: str = "ppo", limit: float = 20.0) -> Alarm | None:
    """The KL to the reference passes a limit, in training or on held-out prompts.

    Args:
        history: rows in the order of their steps.
        stage: whose figures to look at.
        limit: nats a response.

    Returns:
        The alarm, or None.

    Example:
        >>> high_kl([{"step": 0, "ppo/kl": 3.0}]) is None
        True
    """
    found = [
        point for name in ("kl", "heldout_kl") for point in points_of(history, f"{stage}/{name}") if point[1] > limit
    ]
    if not found:
        return None
    step, value = min(found)
    message = (
        f"The KL to the reference reached {value:.1f} nats a response, above {limit:g}: "
        "the policy has left the text that the comparisons were about. A higher KL coefficient (beta), a lower "
        "learning rate or fewer steps hold it closer."
    )
    return Alarm("high_kl", step, message)


def reward_hacking(
    history: Sequence[Row],
    *,
    stage: str = "ppo",
    window: int = 4,
    rise: float = 0.1,
    gold_rise: float = 0.02,
    judge: str = "gold",
) -> Alarm | None:
    """Held-out proxy reward rises over a window of evaluations while a judge's score does not.

    The later half of the window is compared with the earlier half, so one noisy evaluation raises no alarm.

    Args:
        history: rows in the order of their steps.
        stage: whose figures to look at.
        window: evaluations looked at together; even, at least 2.
        rise: how much the proxy must rise, in standard deviations of the proxy over responses (the first logged
            ``proxy_std``; 1 if none was logged).
        gold_rise: a rise of the judge's score up to this counts as flat.
        judge: whose score, ``heldout_JUDGE`` in the log.

    Returns:
        The alarm, or None.

    Raises:
        ValueError: if ``window`` is odd or below 2.

    Example:
        >>> rows = [{"step": i, "ppo/heldout_proxy": 1.0 * i, "ppo/heldout_gold": -0.1 * i} for i in range(4)]
        >>> reward_hacking(rows).name
        'reward_hacking'

    Source: Gao et al. (2022), Scaling laws for reward model overoptimization.
    """
    if window < 2 or window % 2:
        raise ValueError(f"window must be even and at least 2, found {window}")
    gold_at = dict(points_of(history, f"{stage}/heldout_{judge}"))
    series = [
        (step, proxy, gold_at[step]) for step, proxy in points_of(history, f"{stage}/heldout_proxy") if step in gold_at
    ]
    unit = next((value for _, value in points_of(history, f"{stage}/proxy_std") if value > 0), 1.0)
    half = window // 2
    for end in range(window, len(series) + 1):
        early, late = series[end - window : end - half], series[end - half : end]
        proxy_change = sum(row[1] for row in late) / half - sum(row[1] for row in early) / half
        gold_change = sum(row[2] for row in late) / half - sum(row[2] for row in early) / half
        if proxy_change > rise * unit and gold_change <= gold_rise:
            message = (
                f"From step {early[0][0]} to {late[-1][0]} the proxy reward rose by {proxy_change:.2f} while the "
                f"{judge} score changed by {gold_change:+.2f}: what the reward likes better is its own mistakes."
            )
            return Alarm("reward_hacking", late[-1][0], message)
    return None


def mode_collapse(
    history: Sequence[Row], *, stage: str = "ppo", most_common: float = 0.5, distinct_2: float = 0.05
) -> Alarm | None:
    """One response answers most prompts, or hardly any pair of tokens is used only once.

    Args:
        history: rows in the order of their steps.
        stage: whose figures to look at.
        most_common: share of a batch (``most_common``) that may be one and the same response.
        distinct_2: share of different word pairs (``distinct_2``) below which the responses are near copies.

    Returns:
        The alarm, or None.

    Example:
        >>> mode_collapse([{"step": 7, "ppo/most_common": 0.9}]).step
        7
    """
    for row in history:
        common, distinct = figure(row, f"{stage}/most_common"), figure(row, f"{stage}/distinct_2")
        if common is not None and common > most_common:
            seen = f"One and the same response was {common:.0%} of a batch"
        elif distinct is not None and distinct < distinct_2:
            seen = f"Only {distinct:.1%} of the token pairs of a batch were different"
        else:
            continue
        return Alarm("mode_collapse", int(row["step"]), f"{seen}: the policy gives (nearly) one answer to all prompts.")
    return None


def skipped_updates(history: Sequence[Row], *, stage: str = "ppo") -> Alarm | None:
    """Updates were skipped because the loss or a gradient was not finite.

    Args:
        history: rows in the order of their steps; ``skipped`` is the number of updates skipped in a step.
        stage: whose figures to look at.

    Returns:
        The alarm with the total, at the first skipped step; None if there was none.

    Example:
        >>> skipped_updates([{"step": 1, "ppo/skipped": 0.0}]) is None
        True
    """
    skipped = [(step, value) for step, value in points_of(history, f"{stage}/skipped") if value > 0]
    if not skipped:
        return None
    total = sum(value for _, value in skipped)
    message = (
        f"Non-finite updates were skipped at {len(skipped)} step(s), {total:g} in all: "
        "the parameters are as they were before, but look at the learning rate and the rewards."
    )
    return Alarm("skipped_updates", skipped[0][0], message)


def logprob_gap(history: Sequence[Row], *, stage: str = "ppo", limit: float = LARGEST_GAP) -> Alarm | None:
    """The sampler's log-probabilities differ from the trainer's for the same tokens under the same parameters.

    Args:
        history: rows in the order of their steps.
        stage: whose figures to look at.
        limit: nats a token, in the mean. A run's own gate knows its precision and is finer.

    Returns:
        The alarm, or None.

    Example:
        >>> logprob_gap([{"step": 0, "ppo/logprob_gap": 0.4}]).name
        'logprob_gap'
    """
    for step, value in points_of(history, f"{stage}/logprob_gap"):
        if abs(value) > limit:
            message = (
                f"Sampler and trainer differ by {value:.3g} nats a token in the mean: the ratio does not start at 1, "
                "so the update is of a policy that did not write these responses."
            )
            return Alarm("logprob_gap", step, message)
    return None
