"""KTO against TRL's KTOTrainer, its estimate of the reference point included."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from problem import ours, outputs, problem

from rlhf_jax import losses, objectives

BATCH = problem(4, 2, seed=5)
DESIRABLE = np.array([[True, False], [True, True], [False, False], [False, True]])
# TRL pairs every prompt with the response to another one; of the random tokens here none fits its prompt anyway.
KL_ABOVE_0, KL_BELOW_0 = problem(4, 2, seed=8), problem(4, 2, seed=18)


def reference_point(mismatched):
    """The mean summed log-ratio of responses to prompts they do not belong to, before it is cut at 0."""
    log_ratio = outputs(mismatched.logits, mismatched.batch).logprobs - mismatched.batch.ref_logprobs
    return losses.masked_sum(log_ratio, mismatched.mask, axis=-1).mean()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.33, 1.0), (0.5, 2.0)], ids=str)
@pytest.mark.parametrize("mismatched", [KL_ABOVE_0, KL_BELOW_0], ids=["KL above 0", "KL estimated below 0"])
def test_kto(trl, compare, mismatched, weights):
    options = {"beta": 0.3, "desirable_weight": weights[0], "undesirable_weight": weights[1]}
    kl, theirs = trl.kto(BATCH, DESIRABLE, mismatched, **options)
    estimate = reference_point(mismatched)
    np.testing.assert_allclose(max(estimate, 0), kl, rtol=1e-5)
    assert (kl > 0.05) == (mismatched is KL_ABOVE_0)
    batch = BATCH.batch._replace(
        label=jnp.asarray(DESIRABLE, jnp.float32), kl=jnp.broadcast_to(estimate, DESIRABLE.shape)
    )
    compare(ours(functools.partial(objectives.kto, **options), BATCH.logits, batch), theirs)


@pytest.mark.parametrize("desirable", [True, False])
def test_kto_on_thumbs_of_one_sort(trl, compare, desirable):
    all_alike = np.full(DESIRABLE.shape, desirable)
    _, theirs = trl.kto(BATCH, all_alike, KL_BELOW_0, beta=0.3)
    batch = BATCH.batch._replace(label=jnp.asarray(all_alike, jnp.float32), kl=jnp.zeros(DESIRABLE.shape))
    compare(ours(functools.partial(objectives.kto, beta=0.3), BATCH.logits, batch), theirs)
