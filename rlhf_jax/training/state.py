"""The training state: everything one step reads and writes, as one pytree that is donated, sharded and saved whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.types import Array, Params


class TrainState(NamedTuple):
    """Parameters by role, their optimiser's state, and how far training is.

    Example:
        >>> import optax, jax.numpy as jnp
        >>> state = init_state({"policy": {"x": jnp.ones(3)}}, optax.sgd(0.1))
        >>> int(state.step), int(state.skipped)
        (0, 0)
    """

    params: Params
    opt_state: Any
    step: Array  # int32 []; updates tried
    skipped: Array  # int32 []; updates left out because the loss or a gradient was not finite
    skipped_in_row: Array  # int32 []; left out since the last one that counted


def init_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Make a fresh state at step 0.

    The parameters are copied: a train step donates its state, and what was handed in (a reference model, say) must
    outlive it.

    Args:
        params: parameters by role.
        optimizer: what will update them.

    Returns:
        A state whose buffers are its own.

    Example:
        >>> import optax, jax.numpy as jnp
        >>> params = {"policy": {"x": jnp.ones(3)}}
        >>> init_state(params, optax.sgd(0.1)).params["policy"]["x"] is params["policy"]["x"]
        False
    """
    # Five separate buffers: one shared zero would be donated twice.
    return TrainState(
        params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )


def init(
    make_params: Callable[..., Params],
    optimizer: optax.GradientTransformation,
    *args: Any,
    shardings: Callable[[TrainState], TrainState],
) -> tuple[TrainState, TrainState]:
    """Make a fresh state in place on the mesh: no device ever holds more than its part.

    Args:
        make_params: ``(*args) -> params``, traced; for example ``model.init`` with a key, or a function that takes
            parameters and gives them back with a new head.
        optimizer: what will update the parameters.
        *args: arrays (a key, parameters) for ``make_params``; they are not donated. Shapes give a state of
            shapes.
        shardings: the function from the state's shapes to a state of shardings, for example
            ``lambda shapes: parallel.param_shardings(shapes, mesh)``.

    Returns:
        The state, and its shardings in a state of the same shape.

    Example:
        >>> import functools, jax, optax, jax.numpy as jnp
        >>> place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        >>> state, shardings = init(
        ...     lambda x: {"policy": {"x": x}}, optax.adam(0.1), jnp.ones(3),
        ...     shardings=lambda shapes: jax.tree.map(lambda _: place, shapes))
        >>> state.params["policy"]["x"].shape
        (3,)
    """

    def build(*inner: Any) -> TrainState:
        return init_state(make_params(*inner), optimizer)

    # Without out_shardings the optimiser's moments of sharded parameters come back replicated.
    shapes = jax.eval_shape(build, *args)
    places = shardings(shapes)
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(args)):
        held = jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places)
        return held, places
    return jax.jit(build, out_shardings=places)(*args), places
