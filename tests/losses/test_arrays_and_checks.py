import functools
import math

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax import losses
from rlhf_jax.losses.arrays import as_float, as_mask
from rlhf_jax.losses.checks import check_range

F = functools.partial(jnp.full, (2, 3), dtype=jnp.bfloat16)
LOGITS, TARGETS, MASK = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.zeros((2, 3), int), jnp.ones((2, 3), bool)

EVERY_LOSS = {
    "token_logprobs": lambda: losses.token_logprobs(LOGITS, TARGETS),
    "entropy": lambda: losses.entropy(LOGITS),
    "cross_entropy": lambda: losses.cross_entropy(LOGITS, TARGETS, label_smoothing=0.1, z_loss=1e-4),
    "masked_sum": lambda: losses.masked_sum(F(1), MASK),
    "masked_mean": lambda: losses.masked_mean(F(1), MASK),
    "masked_whiten": lambda: losses.masked_whiten(F(1), MASK),
    "bradley_terry": lambda: losses.bradley_terry(F(1), F(0), preference=F(0.5), margin=F(0), center=0.01),
    "k1": lambda: losses.k1(F(-1), F(-2)),
    "k2": lambda: losses.k2(F(-1), F(-2)),
    "k3": lambda: losses.k3(F(-1), F(-2)),
    "full_kl": lambda: losses.full_kl(LOGITS, LOGITS),
    "kl_penalised_rewards": lambda: losses.kl_penalised_rewards(F(1)[:, 0], F(-1), F(-2), MASK, kl_coef=0.1),
    "gae": lambda: losses.gae(F(1), F(0), MASK)[0],
    "clipped_surrogate": lambda: losses.clipped_surrogate(F(-1), F(-1), F(1), dual_clip=3.0),
    "clipped_value": lambda: losses.clipped_value(F(0), F(0), F(1)),
}


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_low_precision_in_float32_out_and_jit_changes_nothing(name):
    eager = EVERY_LOSS[name]()
    assert eager.dtype == jnp.float32
    assert jnp.allclose(eager, jax.jit(EVERY_LOSS[name])(), rtol=1e-6, atol=1e-6)


def test_as_float_keeps_float64_only_where_it_is_switched_on():
    assert as_float([1, 2]).dtype == jnp.float32
    assert as_float(True).dtype == jnp.float32
    with jax.enable_x64(True):
        assert as_float(jnp.ones(1, jnp.float64)).dtype == jnp.float64
        assert as_float(jnp.ones(1, jnp.float16)).dtype == jnp.float32


def test_as_mask_reads_any_number_but_zero_as_counting():
    assert as_mask(jnp.array([0.0, 0.5, 1.0])).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("value", "limits", "allowed"),
    [
        (0, {"above": 0}, "above 0"),
        (-1.0, {"at_least": 0, "at_most": 1}, "at least 0 and at most 1"),
        (1.5, {"at_least": 0, "at_most": 1}, "at least 0 and at most 1"),
        (math.nan, {"above": 0}, "above 0"),
        (math.nan, {}, "a number"),
    ],
)
def test_check_range_names_the_parameter_and_what_is_allowed(value, limits, allowed):
    with pytest.raises(ValueError, match=rf"clip must be {allowed}, found {value:g}"):
        check_range("clip", value, **limits)


def test_check_range_accepts_the_edges_infinity_and_traced_values():
    check_range("x", 0, at_least=0)
    check_range("x", 1.0, at_least=0, at_most=1)
    check_range("clip", math.inf, above=0)
    jax.jit(lambda clip: check_range("clip", clip, above=0))(-1.0)


def test_a_clip_range_may_be_annealed_inside_jit():
    surrogate = jax.jit(losses.clipped_surrogate)
    x = jnp.ones(1)
    assert surrogate(x, x - 1.0, x, clip_high=0.5) == -1.5
    assert surrogate(x, x - 1.0, x, clip_high=0.25) == -1.25
