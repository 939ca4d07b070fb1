import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import objectives
from rlhf_jax.types import Outputs


def test_the_mean_over_all_response_tokens(batch, outputs, total):
    loss = objectives.sft(outputs, batch)
    expected = -np.asarray(outputs.logprobs)[np.asarray(batch.mask)].mean()
    np.testing.assert_allclose(total(loss), expected, rtol=1e-6)


def test_certain_tokens_cost_nothing(batch, total):
    assert total(objectives.sft(Outputs(logprobs=jnp.zeros(batch.mask.shape)), batch)) == 0


def test_every_counted_token_pulls_alike(batch, outputs, total):
    gradient = jax.grad(lambda x: total(objectives.sft(outputs._replace(logprobs=x), batch)))(outputs.logprobs)
    np.testing.assert_allclose(gradient, jnp.where(batch.mask, -1 / batch.mask.sum(), 0), rtol=1e-6)


@pytest.mark.parametrize("poison", [jnp.nan, -jnp.inf])
def test_behind_the_mask_nothing_matters(batch, outputs, total, poison):
    value_and_gradient = jax.value_and_grad(lambda x: total(objectives.sft(outputs._replace(logprobs=x), batch)))
    poisoned = value_and_gradient(jnp.where(batch.mask, outputs.logprobs, poison))
    jax.tree.map(np.testing.assert_array_equal, poisoned, value_and_gradient(outputs.logprobs))


def test_nothing_but_logprobs_is_read(batch, outputs):
    """The entropy costs a pass over all logits: an objective that logged it would make XLA keep that pass."""
    only = objectives.sft(Outputs(logprobs=outputs.logprobs), batch)
    assert not only.metrics
    np.testing.assert_array_equal(only.values, objectives.sft(outputs, batch).values)


def test_missing_logprobs_are_named(batch):
    with pytest.raises(ValueError, match=r"outputs\.logprobs is None"):
        objectives.sft(Outputs(), batch)
