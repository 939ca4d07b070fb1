"""Checks on arrays alone, without a model: empty groups, parts of a batch, ties, signs, noise behind the mask.

A point is where an objective is looked at: outputs, and a batch. All points of a check have the shapes of the first, so
that the objective is compiled once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.testing.probes import ObjectiveError, Probe
from rlhf_jax.testing.variants import disturbed
from rlhf_jax.types import Array, Outputs, SequenceBatch

_PER_TOKEN = ("logprobs", "entropy", "values")


class Point(NamedTuple):
    """What an objective is given."""

    outputs: Outputs
    batch: SequenceBatch


class Seen(NamedTuple):
    """What it makes of that: its numerator and denominator, and the numerator's gradient by the outputs' fields."""

    numerator: float
    weight: float
    gradient: dict[str, np.ndarray]

    @property
    def finite(self) -> bool:
        """Whether every number is finite."""
        whole = np.isfinite([self.numerator, self.weight]).all()
        return bool(whole and all(np.isfinite(x).all() for x in self.gradient.values()))


def look(probe: Probe, point: Point) -> Seen:
    """Run the objective at a point."""
    (numerator, weight), into_outputs, _ = probe(*point)
    fields = into_outputs._asdict().items()
    return Seen(float(numerator), float(weight), {name: np.asarray(x) for name, x in fields if x is not None})


def near(a: float, b: float, rtol: float) -> bool:
    """Whether two losses are the same but for rounding."""
    return abs(a - b) <= rtol * max(abs(a), 1e-2)


def alike(want: Seen, got: Seen, rtol: float) -> bool:
    """Whether numerator, denominator and gradients are the same but for rounding."""
    if not (near(want.numerator, got.numerator, rtol) and near(want.weight, got.weight, rtol)):
        return False
    pairs = [(x, got.gradient[name]) for name, x in want.gradient.items()]
    scale = max((float(np.max(np.abs(x))) for x, _ in pairs), default=0.0)
    return all(float(np.max(np.abs(x - y))) <= 10 * rtol * scale for x, y in pairs)


def keep_groups(point: Point, kept: np.ndarray) -> Point:
    """Empty the groups of a point that are not kept, as the filler of a batch is: zeros that no mask shows."""

    def emptied(x: Array) -> Array:
        return jnp.where(kept.reshape(-1, *(1,) * (x.ndim - 1)), x, jnp.zeros((), x.dtype))

    batch = jax.tree.map(emptied, point.batch)
    # One estimate for the whole batch, and a controller's price: they are in every group, empty or not.
    return Point(jax.tree.map(emptied, point.outputs), batch._replace(kl=point.batch.kl, kl_coef=point.batch.kl_coef))


def check_groups(probe: Probe, point: Point, rtol: float) -> None:
    """Look whether a batch is the sum of its parts, each filled up with empty groups.

    Raises:
        ObjectiveError: ``filler groups`` where empty groups count, ``micro-batching`` where parts do not add up.
    """
    count = point.batch.tokens.shape[0]
    few = np.arange(count) < max(1, 3 * count // 8)
    whole, one, other = (look(probe, keep_groups(point, kept)) for kept in (few | True, few, ~few))
    none = look(probe, keep_groups(point, few & False))
    if not near(0.0, none.weight, rtol) or not near(0.0, none.numerator, rtol):
        raise ObjectiveError(
            "filler groups",
            "groups without a token that counts, which fill every batch up, are counted: an empty batch has the "
            f"numerator {none.numerator:g} and the denominator {none.weight:g}; take the mask from batch.mask, as "
            "batch.mask.any(-1).all(-1) for pairs",
        )
    if not near(whole.weight, one.weight + other.weight, rtol):
        raise ObjectiveError(
            "filler groups",
            f"empty groups, which fill every batch up, change what counts: {one.weight:g} and {other.weight:g} in two "
            f"parts, {whole.weight:g} in the whole; take the mask from batch.mask",
        )
    sums = {name: x + other.gradient[name] for name, x in one.gradient.items()}
    if not alike(whole, Seen(one.numerator + other.numerator, whole.weight, sums), rtol):
        raise ObjectiveError(
            "micro-batching",
            f"two parts of a batch do not add up to the whole: {one.numerator:.6g} and {other.numerator:.6g}, not "
            f"{whole.numerator:.6g}; no mean, sum or deviation over the batch can be taken inside the objective",
        )


def check_noise(probe: Probe, point: Point, rtol: float) -> None:
    """Look whether anything behind the mask reaches the loss, in outputs or in the batch's fields."""
    hidden = ~point.batch.mask
    noisy = Point(disturbed(point.outputs, hidden, seed=6), disturbed(point.batch, hidden, seed=5))
    if not alike(look(probe, point), look(probe, noisy), rtol):
        raise ObjectiveError("mask", "outputs or fields behind the mask change the loss")


def check_columns(probe: Probe, point: Point, rtol: float) -> None:
    """Look whether the column in which a response begins has a say: everything moves to the right by two."""
    shape = point.batch.tokens.shape

    def moved(x: Any) -> Any:
        return jnp.roll(x, 2, axis=-1) if x.shape == shape else x

    want, got = look(probe, point), look(probe, jax.tree.map(moved, point))
    back = {name: np.roll(x, -2, axis=-1) if x.shape == shape else x for name, x in got.gradient.items()}
    if not alike(want, got._replace(gradient=back), rtol):
        raise ObjectiveError("padding side", "two columns of padding on the left in place of the right change the loss")


def tied(point: Point) -> Point:
    """Move a point to where everything is equal: the policy is its reference, all scores, rewards and ratings agree."""
    batch, outputs = point.batch, point.outputs
    same = [x for x in (batch.ref_logprobs, batch.old_logprobs, outputs.logprobs) if x is not None]
    changes: dict[str, Any] = {
        name: jnp.full_like(x, 0.5)
        for name in ("reward", "score", "rating", "advantages", "returns")
        if (x := getattr(batch, name)) is not None
    }
    if batch.votes is not None:
        changes["votes"] = jnp.broadcast_to(3.0 * (1 - jnp.eye(batch.votes.shape[-1])), batch.votes.shape)
    changes |= {name: same[0] for name in ("ref_logprobs", "old_logprobs") if getattr(batch, name) is not None}
    if batch.old_values is not None and outputs.values is not None:
        changes["old_values"] = outputs.values
    scores = None if outputs.scores is None else jnp.full_like(outputs.scores, 0.5)
    logprobs = same[0] if outputs.logprobs is not None else None
    return Point(outputs._replace(logprobs=logprobs, scores=scores), batch._replace(**changes))


def check_ties(probe: Probe, point: Point) -> None:
    """Look for what is not finite where everything is equal, as in the first update and between equal responses."""
    equal = tied(point)
    first = Point(equal.outputs._replace(scores=point.outputs.scores), first_update(point.batch, equal.batch))
    agree = "the policy is its own reference"
    for what, at in ((agree, first), ("scores, rewards, ratings and votes are equal", equal)):
        seen = look(probe, at)
        if not seen.finite:
            raise ObjectiveError(
                "finite at ties",
                f"the loss or a gradient is not finite where {what}: a root, a norm, a logarithm or a division at 0 "
                "needs a small number added, or jnp.where before it",
            )


def first_update(batch: SequenceBatch, equal: SequenceBatch) -> SequenceBatch:
    """Make the batch of a first update: only what the policy is compared with is equal to it."""
    return batch._replace(ref_logprobs=equal.ref_logprobs, old_logprobs=equal.old_logprobs, old_values=equal.old_values)


_SIGNALS = ("reward", "score", "advantages", "rating", "label", "votes", "returns")


def check_signs(probe: Probe, point: Point) -> None:
    """Look whether more of a signal pushes a response up: its log-probabilities, its score, and for returns its values.

    The first response of every group gets more of the signal than it has. Where no signal changes the loss, the first
    response, which is the demonstration or the chosen one, must not be pushed down where policy and reference agree.
    """
    heard = False
    for name in _SIGNALS:
        if getattr(point.batch, name) is None:
            continue
        less, more = (look(probe, _with_signal(point, name, by)) for by in (0.0, 1.0))
        if alike(less, more, 1e-6):
            continue
        heard = True
        fields = ("values",) if name == "returns" else ("logprobs", "scores")
        change = sum(_first_of_all(more, field) - _first_of_all(less, field) for field in fields)
        size = sum(_size(more, field) for field in fields)
        if change > 1e-4 * size > 0:
            _refuse_sign(f"more of batch.{name} for a response pushes its {' and '.join(fields)} down")
    if not heard:
        seen = look(probe, tied(point))
        push = _first_of_all(seen, "logprobs") + _first_of_all(seen, "scores")
        if push > 1e-4 * (_size(seen, "logprobs") + _size(seen, "scores")) > 0:
            _refuse_sign("the demonstration, or the chosen response of a pair, is made less likely")


def _refuse_sign(what: str) -> None:
    raise ObjectiveError(
        "sign", f"{what}: the loss is minimised, so what should rise stands behind a minus; signs=False allows it"
    )


def _with_signal(point: Point, name: str, by: float) -> Point:
    """Give the first response of every group more of a signal; a label becomes 0 or 1."""
    x = getattr(point.batch, name)
    if name == "label":
        return Point(point.outputs, point.batch._replace(label=x.at[:, 0].set(by)))
    if name == "votes":
        return Point(point.outputs, point.batch._replace(votes=x.at[:, 0, 1:].add(4.0 * by)))
    # Far enough to cross a threshold.
    return Point(point.outputs, point.batch._replace(**{name: x.at[:, 0].add(8.0 * by)}))


def _first_of_all(seen: Seen, field: str) -> float:
    """Add up the gradient by the first response of every group."""
    return float(seen.gradient[field][:, 0].sum()) if field in seen.gradient else 0.0


def _size(seen: Seen, field: str) -> float:
    return float(np.abs(seen.gradient[field]).sum()) if field in seen.gradient else 0.0
