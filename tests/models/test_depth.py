"""Blocks one after another: unrolled, in turns of a few, or one by one, the stream and its gradient are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import depth

X = jax.random.normal(jax.random.key(0), (2, 3, 4))


def block(x, params, key, windowed):
    """A block that tells its windows, its weights and its key apart."""
    shift = 0.0 if key is None else jax.random.normal(key)
    return jnp.tanh(x @ params["w"] * (0.5 if windowed else 1.0) + params["b"][None, None] + shift)


def weights(layers):
    w, b = jax.random.split(jax.random.key(1))
    return {"w": jax.random.normal(w, (layers, 4, 4)), "b": jax.random.normal(b, (layers, 4))}


def in_a_loop(windowed, stacked, keys):
    x = X
    for i, flag in enumerate(windowed):
        x = block(x, jax.tree.map(lambda leaf, i=i: leaf[i], stacked), None if keys is None else keys[i], flag)
    return x


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize(
    "windowed",
    [(False,) * 5, (False,) * 19, (True, False) * 9, (True, True, False) * 6 + (True,), (True,) + (False,) * 17],
    ids=["few", "many", "alternating", "a pattern and a rest", "no pattern"],
)
@pytest.mark.parametrize("drawn", [False, True], ids=["no keys", "keys"])
def test_every_block_runs_once_in_order_with_its_own_weights_window_and_key(windowed, lean, drawn):
    stacked = weights(len(windowed) + 2)  # a trunk that is deeper than the model

    def keys():
        return jax.random.split(jax.random.key(2), len(windowed)) if drawn else None

    run = lambda w: jnp.sum(depth.run_blocks(block, windowed, X, w, keys(), lean=lean) ** 3)  # noqa: E731
    want = lambda w: jnp.sum(in_a_loop(windowed, w, keys()) ** 3)  # noqa: E731
    (got, gradient), (loss, expected) = (jax.jit(jax.value_and_grad(f))(stacked) for f in (run, want))
    np.testing.assert_allclose(got, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, expected)


@pytest.mark.parametrize(
    ("windowed", "turn", "lean"),
    [
        ((False,) * 16, 16, 1),
        ((False,) * 17, 8, 1),
        ((True, False) * 13, 8, 2),
        ((True, True, True, True, True, False) * 4 + (True, True), 6, 6),
        ((True,) + (False,) * 29, 30, 30),
    ],
)
def test_a_turn_is_as_long_as_time_or_memory_wants_and_the_windows_allow(windowed, turn, lean):
    assert depth.turn_length(windowed) == turn
    assert depth.turn_length(windowed, lean=True) == lean


def test_the_gradient_of_what_was_taken_off_a_stack_is_one_concatenation():
    text = str(jax.make_jaxpr(jax.grad(lambda w: sum(jnp.sum(x**2) for x in depth.unstack(w, 6))))(jnp.ones((6, 3))))
    assert text.count("concatenate") == 1
    assert "pad" not in text
    assert "add_any" not in text
