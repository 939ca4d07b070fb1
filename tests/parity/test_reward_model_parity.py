"""Bradley-Terry against TRL's RewardTrainer, on the scores."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from problem import problem, reduced, value_and_gradient

from rlhf_jax import losses, objectives
from rlhf_jax.types import Outputs

RNG = np.random.default_rng(0)
SCORES = (2 * RNG.normal(size=(7, 2))).astype(np.float32)
MARGIN = RNG.uniform(0, 3, size=7).astype(np.float32)  # Llama 2's: by how clearly people preferred it


@pytest.mark.parametrize("center", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("margin", [0.0, MARGIN], ids=["no margin", "a margin a pair"])
def test_bradley_terry(trl, compare, margin, center):
    def loss(scores):
        return losses.bradley_terry(scores[:, 0], scores[:, 1], margin=margin, center=center).mean()

    theirs = trl.reward_model(SCORES, margin=None if np.ndim(margin) == 0 else margin, center=center or None)
    compare(value_and_gradient(loss, SCORES), theirs)


@pytest.mark.parametrize("center", [0.0, 0.01])
@pytest.mark.parametrize("margin", [0.0, 0.7])
def test_the_objective_on_hard_labels(trl, compare, margin, center):
    batch = problem(7, 2, seed=0).batch._replace(votes=jnp.tile(jnp.array([[0.0, 3.0], [0.0, 0.0]]), (7, 1, 1)))
    objective = functools.partial(objectives.reward_model, margin=margin, center=center)

    def loss(scores):
        return reduced(objective(Outputs(scores=scores), batch))

    theirs = trl.reward_model(SCORES, margin=np.full(7, margin, np.float32), center=center or None)
    compare(value_and_gradient(loss, SCORES), theirs)
