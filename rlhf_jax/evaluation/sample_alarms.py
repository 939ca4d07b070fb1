"""Alarms about what is sampled and scored: that nothing can be learnt from it. ``alarms`` has the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rlhf_jax.evaluation.log_rows import Alarm, Row, points_of

# A spread of rewards below it, beside a mean of 1 or above, is rounding.
CONSTANT = 1e-6


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


def _stays(points: Sequence[tuple[int, float]], bad: Callable[[float], bool], window: int) -> int | None:
    """Find the step at which a figure was bad in as many rows one after another as ``window`` says."""
    in_a_row = 0
    for step, value in points:
        in_a_row = in_a_row + 1 if bad(value) else 0
        if in_a_row == window:
            return step
    return None
