"""Alarms about what is sampled and scored: that nothing can be learnt from it. ``alarms`` has the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlhf_jax.evaluation.log_rows import Alarm, Row, points_of

# A spread of rewards below it, beside a mean of 1 or above, is rounding.
CONSTANT = 1e-6
# Nats a response. At a KL of d the best policy for a normal reward gains sqrt(2 d) standard deviations of it
# (best-of-n comes close): at 0.5 nats a whole one, so a policy that has gained a tenth has not been led by its reward.
LOW_KL, FLAT = 0.5, 0.1


def no_response_ends(history: Sequence[Row], *, stage: str = "ppo", window: int = 2) -> Alarm | None:
    """No response ends by itself: all are cut at the longest that is allowed.

    Args:
        history: rows in the order of their steps.
        stage: whose figures to look at.
        window: iterations (``eos_rate``), or evaluations (``heldout_eos``) of a stage that samples no batches, in a row
            without an end; one batch of a policy that ends a few responses in a hundred may have none by chance.
            Evaluations ask the same few prompts every time, and say nothing against batches in which responses end.

    Returns:
        The alarm, or None.

    Example:
        >>> no_response_ends([{"step": i, "ppo/eos_rate": 0.0} for i in range(3)]).step
        1
    """
    ended = points_of(history, f"{stage}/eos_rate") or points_of(history, f"{stage}/heldout_eos")
    step = _stays(ended, lambda share: share == 0, window)
    if step is None:
        return None
    message = (
        f"No response ended by itself in {window} batches in a row: all were cut at max_new_tokens, and what the "
        "reward and the KL see are beginnings. Raise max_new_tokens; or, if responses are as long as they should be, "
        "the policy has not learnt to end one: look whether the responses of SFT end with the token that ends one "
        "here, and whether the chat template is the model's own."
    )
    return Alarm("no_response_ends", step, message)


def constant_reward(history: Sequence[Row], *, stage: str = "ppo", window: int = 2) -> Alarm | None:
    """Every response of an iteration gets the same reward, so that none is better than another.

    Args:
        history: rows in the order of their steps.
        stage: whose figures to look at.
        window: iterations in a row whose ``proxy_std`` is nothing beside ``proxy_mean``.

    Returns:
        The alarm, or None.

    Example:
        >>> constant_reward([{"step": i, "ppo/proxy_std": 0.0, "ppo/proxy_mean": 1.0} for i in range(2)]).name
        'constant_reward'
    """
    mean_at = dict(points_of(history, f"{stage}/proxy_mean"))
    spreads = points_of(history, f"{stage}/proxy_std")
    beside = [(step, spread / max(1.0, abs(mean_at.get(step, 0.0)))) for step, spread in spreads]
    step = _stays(beside, lambda spread: spread < CONSTANT, window)
    if step is None:
        return None
    said = f", {mean_at[step]:.4g}" if step in mean_at else ""
    message = (
        f"All responses got the same reward{said}, in {window} iterations in a row: nothing tells a better one from "
        "a worse one, and only the KL is trained on. Look whether the reward reads the response and not the prompt "
        "alone, whether what it looks for ever occurs, and whether responses are empty."
    )
    return Alarm("constant_reward", step, message)


def flat_reward(history: Sequence[Row], *, stage: str = "ppo", from_step: int = 20) -> Alarm | None:
    """The policy stays close to its start, and its reward is what it was.

    Args:
        history: rows in the order of their steps.
        stage: whose figures to look at. One that logs no ``proxy_std`` does not train on a reward, and has no alarm.
        from_step: the first step at which an evaluation counts, for every run begins so. A stage asks from half of its
            iterations on, or from 20, whichever is later.

    Returns:
        The alarm at the first evaluation at which every ``heldout_kl`` so far was below ``LOW_KL``, and the last two
        values of ``heldout_proxy`` are in the mean less than ``FLAT`` standard deviations above the first one; or None.

    Example:
        >>> rows = [{"step": 10 * i, "ppo/heldout_kl": 0.01, "ppo/heldout_proxy": 1.0} for i in range(4)]
        >>> rows[1]["ppo/proxy_std"] = 0.8
        >>> flat_reward(rows).step
        20
    """
    unit = next((value for _, value in points_of(history, f"{stage}/proxy_std") if value > CONSTANT), None)
    kl_at = dict(points_of(history, f"{stage}/heldout_kl"))
    held = [(step, value) for step, value in points_of(history, f"{stage}/heldout_proxy") if step in kl_at]
    if unit is None:
        return None
    for i in range(2, len(held)):
        step, kl = held[i][0], max(kl_at[at] for at, _ in held[: i + 1])
        rise = (held[i - 1][1] + held[i][1]) / 2 - held[0][1]
        if kl >= LOW_KL:
            return None
        if step >= from_step and rise < FLAT * unit:
            message = (
                f"After {step} steps the policy is {max(kl_at[step], 0.0):.2f} nats a response from where it started, "
                f"and the held-out reward has changed by {rise / unit:+.2f} standard deviations: it is hardly trained. "
                "Raise the reward's weight or lower beta (kl.coef, loss.kl_coef); where the KL is not what holds it, "
                "raise the learning rate."
            )
            return Alarm("flat_reward", step, message)
    return None


def _stays(points: Sequence[tuple[int, float]], bad: Callable[[float], bool], window: int) -> int | None:
    """Find the step at which a figure was bad in as many rows one after another as ``window`` says."""
    in_a_row = 0
    for step, value in points:
        in_a_row = in_a_row + 1 if bad(value) else 0
        if in_a_row == window:
            return step
    return None
