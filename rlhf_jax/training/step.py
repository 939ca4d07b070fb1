"""One optimiser step: gradients with a global denominator, accumulation, clipping, and a guard against non-finite ones.

The step knows no objective and no model. It asks a loss function for a numerator and a denominator and divides once,
after everything is summed, so the result does not depend on how the batch was cut.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlhf_jax.training.state import TrainState
from rlhf_jax.types import Array, LossFn, Params

Metrics = Mapping[str, tuple[Array, Array]]
TrainStep = Callable[[TrainState, Any, Array], tuple[TrainState, dict[str, tuple[Array, Array]]]]


class AuxiliaryLoss(NamedTuple):
    """A second loss, on batches of its own, and its weight in the sum; pretraining text mixed into PPO is one.

    Example:
        >>> from rlhf_jax.types import Aux
        >>> AuxiliaryLoss(lambda params, batch, key: (jnp.sum(params["x"]), Aux(jnp.float32(1), {})), weight=0.5).weight
        0.5
    """

    loss_fn: LossFn
    weight: float


class Parts(NamedTuple):
    """A batch in micro-batches, of which only the first ``used`` hold anything; the others are never run.

    One compiled program then serves batches that need few parts and batches that need many.

    Example:
        >>> from rlhf_jax.training import init_state
        >>> from rlhf_jax.types import Aux
        >>> loss_fn = lambda params, batch, key: (params["x"] * batch, Aux(jnp.float32(1), {}))
        >>> step = make_train_step(loss_fn, optax.sgd(1.0))
        >>> batch = Parts(jnp.array([1.0, 3.0, jnp.nan]), used=jnp.int32(2))
        >>> state, _ = step(init_state({"x": jnp.float32(0)}, optax.sgd(1.0)), batch, jax.random.key(0))
        >>> float(state.params["x"])
        -2.0
    """

    batches: Any  # every leaf [A, ...]
    used: Array  # int32 []


class _Sums(NamedTuple):
    """What adds up over micro-batches."""

    gradients: Any
    numerator: Array
    weight: Array
    metrics: Metrics


def _float32(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def _scaled(x: Array, scale: Array) -> Array:
    """Times a number, or a number for each member of the first axis."""
    return x * jnp.expand_dims(scale, tuple(range(scale.ndim, x.ndim)))


def _sums(loss_fn: LossFn, params: Params, batch: Any, key: Array) -> _Sums:
    (numerator, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, key)
    metrics = {name: (_float32(total), _float32(weight)) for name, (total, weight) in aux.metrics.items()}
    return _Sums(_float32(gradients), _float32(numerator), _float32(aux.weight), metrics)


def _accumulated(loss_fn: LossFn, params: Params, batches: Any, key: Array, count: Array | int) -> _Sums:
    """Sum over the first ``count`` micro-batches. The loop keeps one micro-batch's activations alive at a time."""
    batches = jax.tree.map(jnp.asarray, batches)
    first = jax.tree.map(lambda x: x[0], batches)
    most = jax.tree.leaves(batches)[0].shape[0]
    if most == 1:
        return _sums(loss_fn, params, first, key)
    # A stand-in for the key: asking for the shapes must not use it up.
    stand_in = jax.ShapeDtypeStruct(key.shape, key.dtype)
    shapes = jax.eval_shape(lambda k: _sums(loss_fn, params, first, k), stand_in)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    # As numbers: JAX's check for keys that are used twice sees no indices inside a loop.
    keys = jax.random.key_data(jax.random.split(key, most))

    def add(i: Array, total: _Sums) -> _Sums:
        part = jax.tree.map(lambda x: x[i], batches)
        own = jax.random.wrap_key_data(keys[i], impl=jax.random.key_impl(key))
        return jax.tree.map(jnp.add, total, _sums(loss_fn, params, part, own))

    return jax.lax.fori_loop(0, count, add, zeros)


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    extra: Mapping[str, AuxiliaryLoss] | None = None,
) -> TrainStep:
    """One update of the parameters, as a pure function; the caller jits it (see ``jit_step``).

    ``g = grad(sum_a n_a) / sum_a d_a``, with the numerator ``n_a`` and the denominator ``d_a`` of micro-batch ``a``

    A denominator of 0 means that the numerator is already normalised. For M models in one tree, whose leaves are
    [M, ...], a loss function may give the sum of their numerators and a denominator for each, [M]: each one's
    gradient is divided by its own. Extra terms add their gradients, each with a denominator of its own. If a
    loss or the gradient's norm is not finite, parameters and optimiser stay as they were and the update is counted as
    skipped.

    Args:
        loss_fn: ``(params, batch, key) -> (numerator [], Aux(weight [] or [M], metrics))``.
        optimizer: an optax transformation; clipping belongs there.
        accumulate: number of micro-batches. Above 1 every leaf of the batch is ``[accumulate, ...]``. A batch that is
            ``Parts`` says itself how many it has.
        extra: by name, losses on batches of their own that are added to the main one; the step then takes
            ``(batch, {name: batch})``.

    Returns:
        ``step(state, batch, key) -> (state, metrics)``. Metrics are ``(sum, weight)`` pairs: those of the loss
        function, ``loss``, ``grad_norm`` (before clipping), ``skipped`` (1 or 0) and a ``NAME_loss`` for each extra
        term. A skipped update adds nothing to the others.

    Raises:
        ValueError: accumulate is below 1, or (when traced) a leaf has another number of micro-batches.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from rlhf_jax.training import init_state
        >>> from rlhf_jax.types import Aux
        >>> def loss_fn(params, batch, key):
        ...     return jnp.sum(jnp.square(params["x"] - batch)), Aux(weight=jnp.float32(batch.size), metrics={})
        >>> optimizer = optax.sgd(0.5)
        >>> state = init_state({"x": jnp.zeros(())}, optimizer)
        >>> state, metrics = make_train_step(loss_fn, optimizer)(state, jnp.array([1.0, 3.0]), jax.random.key(0))
        >>> float(state.params["x"]), fetch(metrics)["loss"]
        (2.0, 5.0)

    Source: gradient accumulation by weight: Unsloth and Hugging Face, "Bugs in LLM training: gradient accumulation
    fix" (2024), describe what averaging the means of micro-batches gets wrong.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, found {accumulate}")
    terms = dict(extra or {})

    def sums(fn: LossFn, params: Params, batch: Any, key: Array) -> _Sums:
        if isinstance(batch, Parts):
            return _accumulated(fn, params, batch.batches, key, batch.used)
        if accumulate == 1:
            return _sums(fn, params, batch, key)
        for leaf in jax.tree.leaves(batch):
            if leaf.shape[:1] != (accumulate,):
                raise ValueError(
                    f"accumulate={accumulate} needs batches with {accumulate} micro-batches on the first axis, "
                    f"found shape {leaf.shape}"
                )
        return _accumulated(fn, params, batch, key, accumulate)

    def step(state: TrainState, batch: Any, key: Array) -> tuple[TrainState, dict[str, tuple[Array, Array]]]:
        batches = (batch, {}) if extra is None else batch
        parts = [(1.0, sums(loss_fn, state.params, batches[0], key))]
        for name, term in terms.items():
            # A key of its own for each term, from its name: adding a term leaves the others' randomness alone.
            own = jax.random.fold_in(key, zlib.crc32(name.encode()))
            parts.append((term.weight, sums(term.loss_fn, state.params, batches[1][name], own)))
        denominators = [jnp.where(part.weight == 0, 1.0, part.weight) for _, part in parts]
        scales = [weight / d for (weight, _), d in zip(parts, denominators, strict=True)]
        gradients = jax.tree.map(
            lambda *g: sum(_scaled(x, scale) for x, scale in zip(g, scales, strict=True)),
            *(p.gradients for _, p in parts),
        )
        totals = [(part.numerator, jnp.sum(d)) for (_, part), d in zip(parts, denominators, strict=True)]
        norm = optax.global_norm(gradients)
        finite = jnp.isfinite(norm) & jnp.all(jnp.stack([jnp.isfinite(n / d) for n, d in totals]))

        def update(params: Params, opt_state: Any) -> tuple[Params, Any]:
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        def stay(params: Params, opt_state: Any) -> tuple[Params, Any]:
            # The moments of 16-bit weights start in 16 bits, and are float32 from the first update on.
            to = jax.eval_shape(update, params, opt_state)
            return jax.tree.map(lambda x, y: x if x.dtype == y.dtype else x.astype(y.dtype), (params, opt_state), to)

        # A branch: to choose between the new state and the old one, both would have to be there at once.
        params, opt_state = jax.lax.cond(finite, update, stay, state.params, state.opt_state)
        bad = jnp.where(finite, 0, 1)
        new_state = TrainState(
            params=params,
            opt_state=opt_state,
            step=state.step + 1,
            skipped=state.skipped + bad,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )
        one = jnp.float32(1)
        # One non-finite step must not spoil a sum over many.
        names = ("loss", *(f"{name}_loss" for name in terms))
        measured = {**parts[0][1].metrics, **dict(zip(names, totals, strict=True)), "grad_norm": (norm, one)}
        counted = jax.tree.map(lambda x: jnp.where(finite, x, 0.0), measured)
        return new_state, {**counted, "skipped": (bad.astype(jnp.float32), one)}

    return step


def jit_step(step: TrainStep, state_shardings: Any, batch_shardings: Any, mesh: Mesh) -> TrainStep:
    """The step compiled for a mesh; the state it is given is donated, so only the returned one may be used.

    Args:
        step: from ``make_train_step``.
        state_shardings: a ``TrainState`` of shardings (``training.init`` returns it).
        batch_shardings: the batch's shardings, a tree or one for all.
        mesh: the mesh they are on.

    Returns:
        ``step(state, batch, key)``; the batch may be numpy arrays.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jax.sharding import NamedSharding, PartitionSpec
        >>> from rlhf_jax.training import init_state
        >>> from rlhf_jax.types import Aux
        >>> mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
        >>> place = NamedSharding(mesh, PartitionSpec())
        >>> step = make_train_step(lambda p, b, k: (p["x"] * b, Aux(jnp.float32(1), {})), optax.sgd(1.0))
        >>> state = init_state({"x": jax.device_put(jnp.float32(3.0), place)}, optax.sgd(1.0))
        >>> state, _ = jit_step(step, place, place, mesh)(state, jnp.float32(2.0), jax.random.key(0))
        >>> float(state.params["x"])
        1.0
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def on_mesh(state: TrainState, batch: Any, key: Array) -> tuple[TrainState, Metrics]:
        # What is sized by a device's share of the batch reads the mesh while the step is traced.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(state, batch, key)

    return jax.jit(
        on_mesh,
        in_shardings=(state_shardings, batch_shardings, everywhere),
        out_shardings=(state_shardings, everywhere),
        donate_argnums=0,
    )


def fetch(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics on the host: weighted sums divided, in one transfer.

    Args:
        metrics: name -> ``(sum, weight)``, or a number that is already final.

    Returns:
        name -> float. A pair of weight 0 counted nothing, and is left out.

    Example:
        >>> import jax.numpy as jnp
        >>> fetch({"loss": (jnp.float32(6), jnp.float32(4)), "empty": (jnp.float32(0), jnp.float32(0)), "rate": 0.5})
        {'loss': 1.5, 'rate': 0.5}
    """
    values: dict[str, float] = {}
    for name, value in jax.device_get(dict(metrics)).items():
        if isinstance(value, tuple):
            total, weight = float(value[0]), float(value[1])
            if weight != 0:
                values[name] = total / weight
        else:
            values[name] = float(value)
    return values
