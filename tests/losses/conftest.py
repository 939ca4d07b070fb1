"""An independent judge of gradients, for every loss."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def check_gradient() -> Callable[..., None]:
    """Compare the gradient of ``sum(weights * f(*inputs))`` in every input with central differences, in float64.

    The weights differ from entry to entry, so a gradient that lands on the wrong entry shows.
    """

    def check(f: Callable[..., jax.Array], *inputs: np.ndarray, step: float = 1e-6, tolerance: float = 1e-7) -> None:
        with jax.enable_x64(True):
            arrays = [np.asarray(x, np.float64) for x in inputs]
            output = f(*map(jnp.asarray, arrays))
            assert output.dtype == jnp.float64, "a loss narrowed its input: finite differences would not be sharp"
            weights = np.random.default_rng(7).uniform(0.5, 1.5, output.shape)
            total = jax.jit(lambda *xs: jnp.sum(jnp.asarray(weights) * f(*xs)))
            gradients = jax.grad(total, argnums=tuple(range(len(arrays))))(*map(jnp.asarray, arrays))
            for which, (x, gradient) in enumerate(zip(arrays, gradients, strict=True)):
                for at in np.ndindex(x.shape):
                    nudge = np.zeros_like(x)
                    nudge[at] = step
                    up, down = ([a + d * nudge if i == which else a for i, a in enumerate(arrays)] for d in (1, -1))
                    difference = (total(*map(jnp.asarray, up)) - total(*map(jnp.asarray, down))) / (2 * step)
                    np.testing.assert_allclose(gradient[at], difference, rtol=tolerance, atol=tolerance)

    return check
