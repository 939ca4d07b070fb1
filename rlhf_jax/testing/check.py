"""What a sound objective does, property by property, and the order in which ``check_objective`` looks at them."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.testing.faults import (
    check_form,
    check_ids,
    check_integers,
    check_mask,
    check_shift,
    check_stop_gradient,
)
from rlhf_jax.testing.probes import ObjectiveError, compare, evaluator, passes, prober, quotient
from rlhf_jax.testing.tiny import EOS, tiny_batch, tiny_models
from rlhf_jax.testing.variants import before_the_first_update, disturbed, micro_batches, on_mesh, packed, padded
from rlhf_jax.types import Array, Objective, Params, SequenceBatch


def check_objective(
    objective: Objective, *, batch: SequenceBatch | None = None, rtol: float = 1e-5, seed: int = 0
) -> list[str]:
    """Check that an objective is sound: what it gives depends on the tokens that count and on nothing else.

    The properties, in this order:

    - returns a Loss: ``Loss(values, mask, reduction)``.
    - scalar float32: the values and what the reduction makes of them.
    - finite gradients; has a gradient: with respect to the models' parameters.
    - mask: nothing behind the mask changes the loss.
    - shift: each token meets its own log-probability, mask, advantage and so on, not its neighbour's.
    - padding length; padding side: neither of them changes the loss.
    - pad == eos: the mask is the batch's, not made from the padding's id.
    - packing: several responses in a row give the same loss.
    - integer rewards: scores, rewards, ratings, advantages and returns are not cut to whole numbers, and may be such.
    - micro-batching: micro-batches of unequal length give the loss of the whole batch.
    - mesh: several devices give the loss of one.
    - stop gradient: the loss has none with respect to the batch, whose fields were computed before.
    - jit = eager: the objective gives the same outside ``jax.jit``.

    Args:
        objective: ``(outputs, batch) -> Loss``, hyperparameters bound.
        batch: right-padded, with the fields the objective reads; ``tiny_batch()`` by default, which fills them all.
        rtol: how far a loss may be off, relative to itself.
        seed: the tiny models' seed.

    Returns:
        The names of the properties that were checked; ``mesh`` is left out on a machine with one device.

    Raises:
        ObjectiveError: on the first property that does not hold; ``error.property`` is its name.

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
    roles, params = tiny_models(seed)
    batch = tiny_batch() if batch is None else batch
    batch = jax.tree.map(jnp.asarray, batch)
    checked: list[str] = []

    probe, (run, _) = prober(objective), passes(tuple(roles.items()))
    outputs = run(params, batch)
    eager = check_form(objective, outputs, batch)
    checked += ["returns a Loss", "scalar float32"]
    evaluate = evaluator(probe, roles)
    loss, gradient = evaluate(params, batch)
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
    if len(jax.devices()) > 1:
        same("mesh", on_mesh(evaluate, params, batch), f"{len(jax.devices())} devices give another loss than one")
    for point in (outputs, fresh):
        check_stop_gradient(probe, point, batch)
    checked.append("stop gradient")
    jitted = quotient(*probe(outputs, batch)[0])
    compare("jit = eager", (jitted, ()), (eager, ()), rtol, "the objective gives another loss outside jit")
    return [*checked, "jit = eager"]
