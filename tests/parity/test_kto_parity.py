"""KTO against TRL's KTOTrainer, its estimate of the reference point included."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from problem import MODEL, ours, problem, rows

from rlhf_jax import objectives
from rlhf_jax.stages.reference_point import reference_point

BATCH = problem(4, 2, seed=5)
DESIRABLE = np.array([[True, False], [True, True], [False, False], [False, True]])
# Prompts with responses to other prompts: random tokens are as good as any.
KL_ABOVE_0, KL_BELOW_0 = problem(4, 2, seed=8), problem(4, 2, seed=18)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.33, 1.0), (0.5, 2.0)], ids=str)
@pytest.mark.parametrize("mismatched", [KL_ABOVE_0, KL_BELOW_0], ids=["KL above 0", "KL estimated below 0"])
def test_kto(trl, compare, mismatched, weights):
    options = {"beta": 0.3, "desirable_weight": weights[0], "undesirable_weight": weights[1]}
    expected_kl, theirs = trl.kto(BATCH, DESIRABLE, mismatched, **options)
    assert (expected_kl > 0) == (mismatched is KL_ABOVE_0)
    params, reference = ({"policy": rows(x)} for x in (mismatched.logits, mismatched.ref_logits))
    kl = reference_point(MODEL, params, reference, mismatched.batch)
    np.testing.assert_allclose(kl, expected_kl, rtol=1e-5)
    label, kl = jnp.asarray(DESIRABLE, jnp.float32), jnp.broadcast_to(kl, DESIRABLE.shape)
    batch = BATCH.batch._replace(label=label, kl=kl)
    compare(ours(functools.partial(objectives.kto, **options), BATCH.logits, batch), theirs)


@pytest.mark.parametrize("desirable", [True, False])
def test_kto_on_thumbs_of_one_sort_with_a_negative_estimate(trl, compare, desirable):
    all_alike = np.full(DESIRABLE.shape, desirable)
    expected_kl, theirs = trl.kto(BATCH, all_alike, KL_BELOW_0, beta=0.3)
    assert expected_kl == 0
    label, kl = jnp.asarray(all_alike, jnp.float32), jnp.full(DESIRABLE.shape, -0.3)
    batch = BATCH.batch._replace(label=label, kl=kl)
    compare(ours(functools.partial(objectives.kto, beta=0.3), BATCH.logits, batch), theirs)
