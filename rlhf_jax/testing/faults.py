"""One check for each mistake: the mask, shifts by one, ids, whole numbers, gradients into the batch.

Every check raises ``ObjectiveError`` with the property's name, or returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from rlhf_jax.testing.probes import ObjectiveError, Probe, compare, difference, quotient, unlike
from rlhf_jax.testing.variants import unused, with_last_token
from rlhf_jax.types import Array, Outputs, Params, SequenceBatch

_PER_TOKEN = ("old_logprobs", "ref_logprobs", "advantages", "returns", "old_values")
# What raters and reward functions may give as whole numbers.
_SIGNALS = ("score", "reward", "rating", "advantages", "returns")


def check_mask(
    want: tuple[Array, Params],
    hidden: Callable[[Array, SequenceBatch], tuple[Array, Params]],
    batch: SequenceBatch,
    as_eos: SequenceBatch,
    rtol: float,
) -> None:
    """Look for what is read behind the mask, and tell which mistake it is by what else changes the loss.

    Args:
        want: loss and gradient of the batch as it is.
        hidden: a function to the same two, with noise wherever its first argument is True.
        batch: the batch as it is.
        as_eos: the batch with end-of-sequence tokens for padding.
        rtol: as for ``compare``.
    """
    behind = hidden(~batch.mask, batch)
    if difference(want, behind, rtol):
        by_id = "the mask is made from the padding's id, not read from the batch"
        compare("pad == eos", behind, hidden(~batch.mask, as_eos), rtol, by_id)
        far = ~(batch.mask | jnp.roll(batch.mask, 1, axis=-1) | jnp.roll(batch.mask, -1, axis=-1))
        if bool(jnp.any(far)) and not difference(want, hidden(far, batch), rtol):
            raise ObjectiveError(
                "shift", "the entries right beside a response change the loss: something is off by one"
            )
    compare("mask", want, behind, rtol, "outputs or fields behind the mask change the loss")


def check_shift(probe: Probe, outputs: Outputs, batch: SequenceBatch) -> None:
    """Look for shifts inside the responses, where the mask hides what they bring in from outside.

    Two things give a shift away. A field that moves by one drops out of the response at one end: the loss then depends
    on every token but the first, or but the last. And a change at one token changes the gradient of its neighbour on
    one side, but not its own; whatever spreads over the response on purpose (a mean, a sum over what is still to come)
    reaches the token itself.
    """
    mask = np.asarray(batch.mask)
    number = np.cumsum(mask, axis=-1)
    count = number[..., -1:]
    long = mask & (count >= 3)
    first, last = long & (number == 1), long & (number == count)
    column = np.broadcast_to(np.arange(mask.shape[-1]) % 3, mask.shape)
    noise = np.random.default_rng(2).uniform(0.1, 0.5, mask.shape).astype(np.float32)
    before = probe(outputs, batch)[:2]

    def after(name: str, where: np.ndarray) -> tuple[tuple[Array, Array], Outputs]:
        nudge = np.where(where, noise, np.float32(0))
        if name in Outputs._fields:
            return probe(outputs._replace(**{name: getattr(outputs, name) + nudge}), batch)[:2]
        return probe(outputs, batch._replace(**{name: getattr(batch, name) + nudge}))[:2]

    given = [name for name in _PER_TOKEN if getattr(batch, name) is not None]
    for name in ("logprobs", "entropy", *(x for x in given if x != "old_values")):  # bootstrapping skips an end rightly
        ends = [unlike(before, after(name, where)) for where in (first, last)]
        if ends[0] != ends[1] and unlike(before, after(name, long & ~first & ~last)):
            if ends[0] and unlike(before, probe(outputs, with_last_token(batch, unused(batch)))[:2]):
                raise ObjectiveError("pad == eos", "the last token of a response is left out because of its id")
            raise ObjectiveError(
                "shift",
                f"{name}: the {'last' if ends[0] else 'first'} token of a response does not reach the loss, all others "
                "do: something is off by one",
            )
    for name in ("values", *given):
        moved = after(name, mask & (column == 0))[1]
        for output in ("logprobs", "entropy", "values"):
            change = np.abs(np.asarray(getattr(moved, output)) - np.asarray(getattr(before[1], output)))
            seen = change > max(1e-3 * change.max(), 1e-6 * np.abs(np.asarray(getattr(before[1], output))).max())
            own, later, earlier = (bool(np.any(seen & mask & (column == i))) for i in range(3))
            if name in ("values", "old_values"):
                earlier = False  # the value of the next state is what one bootstraps from
            if later != earlier and not own:
                side = "next" if later else "previous"
                raise ObjectiveError("shift", f"a token's {name} act on the {output} of the {side} token, not its own")


def check_ids(probe: Probe, outputs: Outputs, batch: SequenceBatch) -> None:
    """Look for end-of-sequence tokens that stop counting once they share the padding's id, and only then."""
    padding = np.asarray(batch.tokens)[np.asarray(batch.segment_ids) == 0]
    if padding.size == 0:
        return
    plain, as_padding, as_word = (
        probe(outputs, b)[:2]
        for b in (batch, with_last_token(batch, int(padding[0])), with_last_token(batch, unused(batch)))
    )
    if unlike(plain, as_padding) and not unlike(plain, as_word):
        raise ObjectiveError("pad == eos", "a token that counts is left out because it has the padding's id")


def check_integers(probe: Probe, outputs: Outputs, batch: SequenceBatch, rtol: float) -> None:
    """Look for rewards cut to whole numbers: steps of 1 change the loss, and fractions, even in reverse order, do not.

    The check looks at 0 to 2 and again at 3 to 5, so that an objective that asks only whether a rating is above some
    number does not fail it.
    """
    rng = np.random.default_rng(3)
    as_int: dict[str, Any] = {}
    for name in _SIGNALS:
        if getattr(batch, name) is None:
            continue
        shape = getattr(batch, name).shape
        fraction, other = (rng.uniform(0.06, 0.44, shape).astype(np.float32) for _ in range(2))
        steps = rng.integers(0, 3, shape).astype(np.float32)

        def at(value: Any, name: str = name) -> tuple[tuple[Array, Array], Outputs]:
            return probe(outputs, batch._replace(**{name: value}))[:2]

        base = {level: at(np.float32(level) + fraction) for level in (0, 3)}
        moved = {level: unlike(base[level], at(np.float32(level) + fraction + steps)) for level in base}
        if any(moved.values()):
            as_int[name] = rng.integers(-3, 4, shape).astype(np.int32)
        if all(moved.values()) and not any(
            unlike(base[level], at(np.float32(level) + x)) for level in base for x in (0.5 - fraction, other)
        ):
            raise ObjectiveError(
                "integer rewards", f"batch.{name} reaches the loss in whole numbers, without fractions"
            )
    if as_int:
        as_float: dict[str, Any] = {name: x.astype(np.float32) for name, x in as_int.items()}
        (value, want, _), (other_value, got, _) = (probe(outputs, batch._replace(**x)) for x in (as_float, as_int))
        compare(
            "integer rewards",
            (quotient(*value), want),
            (quotient(*other_value), got),
            rtol,
            "rewards of integer type change the loss",
        )


def check_stop_gradient(probe: Probe, outputs: Outputs, batch: SequenceBatch) -> None:
    """Look for gradients into the batch's float fields."""
    for name, gradient in probe(outputs, batch)[2].items():
        if bool(jnp.any(gradient != 0)):
            raise ObjectiveError(
                "stop gradient", f"the loss has a gradient with respect to batch.{name}: use jax.lax.stop_gradient"
            )
