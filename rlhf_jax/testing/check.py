"""What a sound objective does, property by property, and the order in which ``check_objective`` looks at them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.testing.calling import FORM, Called, check_signature
from rlhf_jax.testing.faults import (
    check_ids,
    check_integers,
    check_mask,
    check_shift,
    check_stop_gradient,
)
from rlhf_jax.testing.points import Point, check_groups, check_signs, check_ties
from rlhf_jax.testing.probes import ObjectiveError, compare, evaluator, passes, prober, quotient
from rlhf_jax.testing.tiny import EOS, tiny_batch, tiny_models
from rlhf_jax.testing.variants import before_the_first_update, disturbed, micro_batches, on_mesh, packed, padded
from rlhf_jax.types import Array, Objective, Params, SequenceBatch


def check_objective(
    objective: Objective,
    *,
    batch: SequenceBatch | None = None,
    signs: bool = True,
    rtol: float = 1e-5,
    seed: int = 0,
) -> list[str]:
    """Check that an objective is sound: what it gives depends on the tokens that count and on nothing else.

    The properties, in this order:

    - takes outputs and batch: it can be called so, with nothing left to bind.
    - fields; runs: it reads fields that there are, and raises nothing.
    - returns a Loss: ``Loss(values, mask, reduction)``, two arrays and a function; the mask is bool.
    - declared reduction: means and sums are left to the reduction, which gives a numerator and a denominator.
    - scalar float32: the values and what the reduction makes of them.
    - metrics: names, and values with a mask of the same shape.
    - traceable: no ``if``, ``float()`` or numpy looks at an array.
    - finite gradients; has a gradient: with respect to the models' parameters.
    - mask: nothing behind the mask changes the loss.
    - shift: each token meets its own log-probability, mask, advantage and so on, not its neighbour's.
    - padding length; padding side: neither of them changes the loss.
    - pad == eos: the mask is the batch's, not made from the padding's id.
    - packing: several responses in a row give the same loss.
    - integer rewards: scores, rewards, ratings, advantages and returns are not cut to whole numbers, and may be such.
    - micro-batching: micro-batches of unequal length give the loss of the whole batch.
    - filler groups: empty groups, which fill every batch up, do not count.
    - mesh: several devices give the loss of one.
    - stop gradient: the loss has none with respect to the batch, whose fields were computed before.
    - finite at ties: where the policy is its own reference, and where scores, rewards or votes are equal.
    - sign: more reward, or another signal, pushes a response up, not down; without one, the demonstration or the chosen
      response is not made less likely.
    - jit = eager: the objective gives the same outside ``jax.jit``.

    Args:
        objective: ``(outputs, batch) -> Loss``, hyperparameters bound.
        batch: right-padded, with the fields the objective reads; ``tiny_batch()`` by default, which fills them all.
        signs: look at the sign; False for an objective that is meant to push down, as unlearning is.
        rtol: how far a loss may be off, relative to itself.
        seed: the tiny models' seed.

    Returns:
        The names of the properties that were checked; ``mesh`` is left out on a machine with one device.

    Raises:
        ObjectiveError: on the first property that does not hold; ``error.property`` is its name. What the objective
            raises itself is one of them, with the line at which it did.

    Example:
        >>> from rlhf_jax import losses, objectives
        >>> from rlhf_jax.types import Loss
        >>> "packing" in check_objective(objectives.sft)
        True
        >>> def forgets_the_mask(outputs, batch):
        ...     return Loss(-outputs.logprobs, jnp.ones_like(batch.mask), losses.token_mean)
        >>> check_objective(forgets_the_mask)
        Traceback (most recent call last):
        rlhf_jax.testing.ObjectiveError: mask: ...
    """
    check_signature(objective)
    called = Called(objective)
    roles, params = tiny_models(seed)
    batch = tiny_batch() if batch is None else batch
    batch = jax.tree.map(jnp.asarray, batch)
    checked: list[str] = []

    probe, (run, _) = prober(called), passes(tuple(roles.items()))
    outputs = run(params, batch)
    eager = quotient(*called.reduced(called(outputs, batch)))
    evaluate = evaluator(probe, roles)
    loss, gradient = evaluate(params, batch)
    checked += [*FORM, "traceable"]
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves((loss, gradient))):
        raise ObjectiveError("finite gradients", f"the loss is {loss} and some gradient is not finite")
    if not any(bool(jnp.any(x != 0)) for x in jax.tree.leaves(gradient)):
        raise ObjectiveError("has a gradient", "the gradient is zero for every parameter")
    checked += ["finite gradients", "has a gradient"]

    def same(name: str, got: tuple[Array, Params], detail: str) -> None:
        compare(name, (loss, gradient), got, rtol, detail)
        checked.append(name)

    fresh = before_the_first_update(outputs, batch)
    as_eos = batch._replace(tokens=jnp.where(batch.segment_ids > 0, batch.tokens, EOS))

    def hidden(where: Array, batch: SequenceBatch) -> tuple[Array, Params]:
        return evaluate(params, disturbed(batch, where, seed=5), disturb=lambda o: disturbed(o, where, seed=6))

    check_mask((loss, gradient), hidden, batch, as_eos, rtol)
    checked.append("mask")
    check_shift(probe, fresh, batch)
    checked.append("shift")
    same("padding length", evaluate(params, padded(batch, right=3)), "three more columns of padding change the loss")
    same("padding side", evaluate(params, padded(batch, left=3)), "padding on the left changes the loss")
    check_ids(probe, fresh, batch)
    same("pad == eos", hidden(~batch.mask, as_eos), "padding with the end-of-sequence token changes the loss")
    same("packing", evaluate(params, packed(batch)), "several responses in one row change the loss")
    check_integers(probe, fresh, batch, rtol)
    checked.append("integer rewards")
    same(
        "micro-batching",
        evaluate(params, *micro_batches(batch)),
        "four micro-batches of unequal length give another loss than one batch",
    )
    here = Point(fresh, batch)
    check_groups(probe, here, rtol)
    checked.append("filler groups")
    if len(jax.devices()) > 1:
        same("mesh", on_mesh(evaluate, params, batch), f"{len(jax.devices())} devices give another loss than one")
    for point in (outputs, fresh):
        check_stop_gradient(probe, point, batch)
    checked.append("stop gradient")
    check_ties(probe, here)
    checked.append("finite at ties")
    if signs:
        check_signs(probe, here)
        checked.append("sign")
    jitted = quotient(*probe(outputs, batch)[0])
    compare("jit = eager", (jitted, ()), (eager, ()), rtol, "the objective gives another loss outside jit")
    return [*checked, "jit = eager"]
