"""The implicit reward of every objective on pairs, from arrays: what it is, and whether it has a reference."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.stages import find_objective
from rlhf_jax.stages.evaluate.implicit import implicit_rewards
from rlhf_jax.stages.evaluate.preference_run import objective_of, reads_reference
from rlhf_jax.types import Outputs, SequenceBatch

# Two groups of two responses, of 3, 1, 2 and 3 tokens.
MASK = np.array([[[1, 1, 1], [1, 0, 0]], [[1, 1, 0], [1, 1, 1]]], bool)
LOGPROBS = np.array([[[-1.0, -2.0, -0.5], [-0.2, 0, 0]], [[-3.0, -1.0, 0], [-0.1, -0.4, -0.3]]])
REFERENCE = np.array([[[-2.0, -2.0, -1.0], [-0.1, 0, 0]], [[-1.0, -1.0, 0], [-0.5, -0.5, -0.5]]])
GAINED = np.array([[1.5, -0.1], [-2.0, 0.7]])
SUMS = np.array([[-3.5, -0.2], [-4.0, -0.8]])
LENGTHS = np.array([[3, 1], [2, 3]])


def rewards(objective, reference=REFERENCE):
    ones = jnp.ones(MASK.shape, jnp.int32)
    known = None if reference is None else jnp.asarray(reference)
    batch = SequenceBatch(ones, jnp.asarray(MASK), ones, ones, ref_logprobs=known)
    return np.asarray(implicit_rewards(objective, Outputs(logprobs=jnp.asarray(LOGPROBS)), batch))


@pytest.mark.parametrize(
    ("name", "hyperparameters", "reference", "want"),
    [
        ("dpo", {"beta": 0.5}, True, 0.5 * GAINED),
        ("robust_dpo", {"beta": 0.5}, True, 0.5 * GAINED),
        ("kto", {"beta": 0.5}, True, 0.5 * GAINED),
        ("ipo", {"beta": 0.5, "length_normalised": False}, True, 0.5 * GAINED),
        ("ipo", {"beta": 0.5, "length_normalised": True}, True, 0.5 * GAINED / LENGTHS),
        ("slic", {"beta": 0.5}, True, 0.5 * GAINED),
        ("simpo", {"beta": 2.5}, False, 2.5 * SUMS / LENGTHS),
        ("orpo", {}, False, SUMS / LENGTHS),
    ],
)
def test_it_is_what_the_objective_logs(name, hyperparameters, reference, want):
    objective = find_objective(name, hyperparameters)
    assert reads_reference(objective) == reference
    np.testing.assert_allclose(rewards(objective, REFERENCE if reference else None), want, atol=1e-6)


def test_without_a_reference_cpo_orders_by_log_probability():
    objective = find_objective("cpo", {})
    assert not reads_reference(objective)
    found = rewards(objective, None)
    np.testing.assert_allclose(found / found[0, 0], SUMS / SUMS[0, 0], atol=1e-6)


def test_a_file_that_a_run_folder_names_is_not_run(tmp_path):
    """Its implicit reward is the log-probability that was gained, in the order of any beta."""
    own = tmp_path / "mine.py"
    own.write_text("raise RuntimeError('this was run')")
    objective, called = objective_of({"objective": f"{own}:mine", "hyperparameters": {"beta": 3.0}})
    assert called == f"{own}:mine, log-probability gained"
    assert reads_reference(objective)
    np.testing.assert_allclose(rewards(objective), GAINED, atol=1e-6)


@pytest.mark.parametrize("name", ["rlhf_jax.objectives.dpo.dpo(beta=f())", "rlhf_jax.objectives.dpo.dpo(beta="])
def test_an_objective_that_cannot_be_read_back_is_the_log_probability_gained(name):
    assert objective_of({"objective": name})[1] == f"{name}, log-probability gained"
