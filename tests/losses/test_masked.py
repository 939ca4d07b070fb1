import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax import losses

X = jnp.array([[1.0, 2.0, 6.0], [4.0, -7.0, 9.0], [8.0, 8.0, 8.0]])
MASK = jnp.array([[True, True, True], [True, False, False], [False, False, False]])  # counts 1 2 6 | 4 | nothing


def fraction(pair):
    return tuple(float(x) for x in pair)


def test_worked_sums_and_means():
    assert losses.masked_sum(X, MASK) == 13.0
    assert losses.masked_mean(X, MASK) == 13.0 / 4
    assert losses.masked_mean(X, MASK, axis=-1).tolist() == [3.0, 4.0, 0.0]
    assert losses.masked_sum(X, MASK, axis=0).tolist() == [5.0, 2.0, 6.0]
    assert losses.masked_mean(X, MASK, axis=(0, 1)) == 13.0 / 4


def test_worked_reductions():
    assert fraction(losses.token_mean(X, MASK)) == (13.0, 4.0)
    assert fraction(losses.sequence_mean(X, MASK)) == (7.0, 2.0)  # 3 + 4; the empty sequence is none
    assert fraction(losses.sequence_sum(X, MASK)) == (13.0, 2.0)
    assert fraction(losses.constant(26)(X, MASK)) == (0.5, 0.0)


@pytest.mark.parametrize("reduction", [losses.token_mean, losses.sequence_mean, losses.sequence_sum])
def test_nothing_counts_gives_zero_over_zero_entries(reduction):
    assert fraction(reduction(X, jnp.zeros_like(MASK))) == (0.0, 0.0)
    assert losses.masked_mean(X, jnp.zeros_like(MASK)) == 0.0


@pytest.mark.parametrize("n", [0, -4, float("nan")])
def test_constant_refuses_a_divisor_that_is_none(n):
    with pytest.raises(ValueError, match="n must be above 0"):
        losses.constant(n)


def test_a_mask_of_numbers_is_the_same_mask():
    assert fraction(losses.token_mean(X, MASK.astype(jnp.float32))) == (13.0, 4.0)
    assert fraction(losses.sequence_mean(X, MASK.astype(jnp.int32))) == (7.0, 2.0)


def test_whitening_equals_numpy_on_the_sliced_entries():
    whitened = losses.masked_whiten(X, MASK)
    counted = np.asarray(X)[np.asarray(MASK)]
    np.testing.assert_allclose(whitened[MASK], (counted - counted.mean()) / counted.std(), rtol=1e-6)
    assert not whitened[~MASK].any()
    np.testing.assert_allclose(losses.masked_mean(whitened, MASK), 0, atol=1e-6)
    np.testing.assert_allclose(losses.masked_mean(whitened**2, MASK), 1, rtol=1e-6)


def test_whitening_can_keep_the_mean():
    whitened = losses.masked_whiten(X, MASK, shift_mean=False)
    np.testing.assert_allclose(losses.masked_mean(whitened, MASK), 13.0 / 4, rtol=1e-6)
    np.testing.assert_allclose(whitened[MASK], losses.masked_whiten(X, MASK)[MASK] + 13.0 / 4, rtol=1e-6)
    assert not whitened[~MASK].any()


def test_whitening_what_does_not_vary_gives_zeros():
    assert not losses.masked_whiten(jnp.full((2, 3), 5.0), jnp.ones((2, 3))).any()
    assert not losses.masked_whiten(X, jnp.zeros_like(MASK)).any()


FUNCTIONS = {
    "masked_sum": losses.masked_sum,
    "masked_mean": losses.masked_mean,
    "mean_of_rows": lambda x, mask: losses.masked_mean(x, mask, axis=-1).sum(),
    "masked_whiten": lambda x, mask: (losses.masked_whiten(x, mask) ** 3).sum(),
    "masked_whiten_mean_kept": lambda x, mask: (losses.masked_whiten(x, mask, shift_mean=False) ** 3).sum(),
    "token_mean": lambda x, mask: losses.token_mean(x, mask)[0],
    "sequence_mean": lambda x, mask: losses.sequence_mean(x, mask)[0],
    "sequence_sum": lambda x, mask: losses.sequence_sum(x, mask)[0],
    "constant": lambda x, mask: losses.constant(4)(x, mask)[0],
}


@pytest.mark.parametrize("poison", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_lies_behind_the_mask_changes_neither_value_nor_gradient(name, poison):
    value_and_gradient = jax.value_and_grad(FUNCTIONS[name])
    clean, clean_gradient = value_and_gradient(X, MASK)
    value, gradient = value_and_gradient(jnp.where(MASK, X, poison), MASK)
    assert jnp.isfinite(value)
    assert value == clean
    np.testing.assert_array_equal(gradient, clean_gradient)
    assert not gradient[~MASK].any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients(name, check_gradient):
    check_gradient(lambda x: FUNCTIONS[name](x, MASK), np.asarray(X))


REDUCTIONS = {
    "token_mean": losses.token_mean,
    "sequence_mean": losses.sequence_mean,
    "sequence_sum": losses.sequence_sum,
    "constant": losses.constant(10),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_micro_batches_add_up_to_the_whole_batch(name):
    pieces = [REDUCTIONS[name](X[i : i + 1], MASK[i : i + 1]) for i in range(3)]
    numerator, denominator = (sum(parts) for parts in zip(*pieces, strict=True))
    assert (float(numerator), float(denominator)) == fraction(REDUCTIONS[name](X, MASK))


def test_averaging_the_means_of_micro_batches_would_be_wrong():
    means = [losses.masked_mean(X[i : i + 1], MASK[i : i + 1]) for i in range(2)]
    assert sum(means) / 2 == 3.5
    assert losses.masked_mean(X[:2], MASK[:2]) == 3.25


@pytest.mark.parametrize("name", REDUCTIONS)
def test_eight_devices_reduce_to_what_one_does(name):
    values = jax.random.normal(jax.random.key(0), (16, 5))
    mask = jax.random.bernoulli(jax.random.key(1), 0.5, (16, 5))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    spread = jax.jit(REDUCTIONS[name])(jax.device_put(values, sharding), jax.device_put(mask, sharding))
    np.testing.assert_allclose(fraction(spread), fraction(REDUCTIONS[name](values, mask)), rtol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_mask_of_another_shape_is_refused(name):
    with pytest.raises(AssertionError):
        FUNCTIONS[name](X, MASK[:, :1])
