"""Running an objective, alone or behind the models, and telling whether two results are the same.

The models are compiled once for all objectives, the objective apart from them: a check looks at it in many ways.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.models.forward import forward
from rlhf_jax.types import Array, Model, Outputs, Params, SequenceBatch

if TYPE_CHECKING:
    from rlhf_jax.testing.calling import Called

Probe = Callable[[Outputs, SequenceBatch], tuple[tuple[Array, Array], Outputs, dict[str, Array]]]


class ObjectiveError(AssertionError):
    """An objective that lacks a property; ``property`` is the name of it."""

    __module__ = "rlhf_jax.testing"  # tracebacks give the name that users catch

    def __init__(self, property_name: str, detail: str):
        super().__init__(f"{property_name}: {detail}")
        self.property = property_name


@functools.cache
def passes(roles: tuple[tuple[str, Model], ...]) -> tuple[Callable[..., Outputs], Callable[..., Params]]:
    """Compile the models' forward pass, and the way back: apart from the objective, once for all objectives."""
    run = functools.partial(forward, dict(roles))

    def back(params: Params, batch: SequenceBatch, into_outputs: Outputs) -> Params:
        return jax.vjp(lambda p: run(p, batch), params)[1](into_outputs)[0]

    return jax.jit(run), jax.jit(back)


def prober(called: Called) -> Probe:
    """Compile the objective alone, as ``stages.objective_loss`` calls it.

    The probe returns numerator and weight, and the numerator's gradient with respect to the outputs and to the batch's
    float fields.
    """

    @jax.jit
    def compiled(outputs: Outputs, batch: SequenceBatch) -> tuple[tuple[Array, Array], Outputs, dict[str, Array]]:
        arrays = {name: x for name, x in batch._asdict().items() if name != "packing" and x is not None}
        floats: dict[str, Any] = {name: x for name, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

        def numerator(outputs: Outputs, floats: dict[str, Any]) -> tuple[Array, Array]:
            return called.reduced(called(outputs, batch._replace(**floats)))

        value, (into_outputs, into_batch) = jax.value_and_grad(numerator, (0, 1), has_aux=True)(outputs, floats)
        return value, into_outputs, into_batch

    def probe(outputs: Outputs, batch: SequenceBatch) -> tuple[tuple[Array, Array], Outputs, dict[str, Array]]:
        try:
            return compiled(outputs, batch)
        except ObjectiveError:
            raise
        except Exception as error:  # what the objective did shows only where the whole is compiled
            text = str(error).strip().split("\n")[0]
            raise ObjectiveError(
                "traceable",
                "it cannot be compiled, as where an array is kept from one call for another: "
                f"{type(error).__name__}: {text}",
            ) from error

    return probe


def evaluator(probe: Probe, roles: dict[str, Model]) -> Callable[..., tuple[Array, Params]]:
    """Make the function to loss and gradient of a global batch in micro-batches: both are summed, then divided once."""
    run, back = passes(tuple(roles.items()))

    def evaluate(
        params: Params, *batches: SequenceBatch, disturb: Callable[[Outputs], Outputs] = lambda outputs: outputs
    ) -> tuple[Array, Params]:
        numerators, weights, gradients = [], [], []
        for batch in batches:
            value, into_outputs, _ = probe(disturb(run(params, batch)), batch)
            numerators.append(value[0])
            weights.append(value[1])
            gradients.append(back(params, batch, into_outputs))
        weight = sum(map(float, weights)) or 1.0
        return jnp.stack(numerators).sum() / weight, jax.tree.map(lambda *g: sum(g) / weight, *gradients)

    return evaluate


def quotient(numerator: Array, weight: Array) -> Array:
    """Divide the numerator by the weight; a weight of 0 divides nothing."""
    return numerator / (float(weight) or 1.0)


def unlike(before: Any, after: Any) -> bool:
    """Whether anything changed by more than rounding."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(
        np.max(np.abs(x - y)) > 1e-6 * np.max(np.abs(x)) for x, y in ((np.asarray(a), np.asarray(b)) for a, b in pairs)
    )


def difference(want: tuple[Array, Params], got: tuple[Array, Params], rtol: float) -> str:
    """Say how two losses and their gradients differ; the text is empty where they do not.

    Losses may differ by ``rtol``, gradients by ten times that of the largest entry, since they sum over more terms.
    """
    a, b = float(want[0]), float(got[0])
    if not abs(a - b) <= rtol * max(abs(a), 1e-2):
        return f"{a:.8g} becomes {b:.8g}"
    pairs = [(np.asarray(x), np.asarray(y)) for x, y in zip(*map(jax.tree.leaves, (want[1], got[1])), strict=True)]
    scale = max((float(np.max(np.abs(x))) for x, _ in pairs), default=0.0)
    off = max((float(np.max(np.abs(x - y))) for x, y in pairs), default=0.0)
    return "" if off <= 10 * rtol * scale else f"a gradient is off by {off:.3g} where the largest is {scale:.3g}"


def compare(name: str, want: tuple[Array, Params], got: tuple[Array, Params], rtol: float, detail: str) -> None:
    """Raise ``ObjectiveError`` with the property's name if two losses and their gradients differ."""
    how = difference(want, got, rtol)
    if how:
        raise ObjectiveError(name, f"{detail}: {how}")
