"""Preference optimisation on pairs against TRL: DPOTrainer, and the experimental CPOTrainer and ORPOTrainer."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from problem import ours, problem, value_and_gradient

from rlhf_jax import losses, objectives

pytestmark = pytest.mark.filterwarnings("ignore::rlhf_jax.losses.checks.UnusualHyperparameter")

BATCH = problem(6, 2, seed=3)
# ORPO's supervised term is over the prompt as well in TRL. The first token of a text is nobody's target, so that with
# prompts of one token there is no difference.
SHORT_PROMPTS = problem(6, 2, seed=4, prompt=1)


def value_gradient(objective, batch=BATCH, **options):
    return ours(functools.partial(objective, **options), batch.logits, batch.batch)


@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_dpo(trl, compare, beta):
    compare(value_gradient(objectives.dpo, beta=beta), trl.dpo(BATCH, "sigmoid", beta=beta))


@pytest.mark.parametrize("beta", [0.5, 5.0])
def test_length_normalised_dpo(trl, compare, beta):
    found = value_gradient(objectives.dpo, beta=beta, length_normalised=True)
    compare(found, trl.dpo(BATCH, "sigmoid_norm", beta=beta))


@pytest.mark.parametrize("label_smoothing", [0.1, 0.4])
def test_conservative_dpo(trl, compare, label_smoothing):
    # TRL 1.16 ignores the smoothing under "sigmoid". "aot" has the formula, but sorts the gaps of a batch first; in a
    # batch of one pair there is nothing to sort.
    theirs = trl.one_pair_a_batch(trl.dpo, BATCH, "aot", beta=0.5, label_smoothing=label_smoothing)
    compare(value_gradient(objectives.dpo, beta=0.5, label_smoothing=label_smoothing), theirs)


@pytest.mark.parametrize("label_smoothing", [0.1, 0.4])
def test_robust_dpo(trl, compare, label_smoothing):
    theirs = trl.dpo(BATCH, "robust", beta=0.5, label_smoothing=label_smoothing)
    compare(value_gradient(objectives.robust_dpo, beta=0.5, label_smoothing=label_smoothing), theirs)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_ipo(trl, compare, beta):
    # Per token: TRL has no option for the sums of the paper.
    compare(value_gradient(objectives.ipo, beta=beta), trl.dpo(BATCH, "ipo", beta=beta))


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_slic(trl, compare, beta):
    compare(value_gradient(objectives.slic, beta=beta), trl.dpo(BATCH, "hinge", beta=beta))


def test_slic_without_a_reference(trl, compare):
    batch = BATCH.batch._replace(ref_logprobs=jnp.zeros(BATCH.mask.shape))
    objective = functools.partial(objectives.slic, beta=0.2, sft_weight=0.5)
    # One pair a batch: TRL averages the supervised term over the batch's tokens, we average it over the pairs.
    theirs = trl.one_pair_a_batch(trl.cpo, BATCH, "hinge", beta=0.2, sft_weight=0.5)
    compare(ours(objective, BATCH.logits, batch), theirs)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cpo(trl, compare, label_smoothing):
    options = {"beta": 0.3, "label_smoothing": label_smoothing}
    found = value_gradient(objectives.cpo, sft_weight=0.0, **options)
    compare(found, trl.cpo(BATCH, "sigmoid", sft_weight=0.0, **options))


@pytest.mark.parametrize("sft_weight", [0.3, 1.0])
def test_cpo_with_its_supervised_term(trl, compare, sft_weight):
    # One pair a batch, as for SLiC.
    theirs = trl.one_pair_a_batch(trl.cpo, BATCH, "sigmoid", beta=0.3, sft_weight=sft_weight)
    compare(value_gradient(objectives.cpo, beta=0.3, sft_weight=sft_weight), theirs)


@pytest.mark.parametrize(("beta", "margin"), [(2.0, 1.0), (10.0, 0.0)])
def test_simpo(trl, compare, beta, margin):
    # Both subtract the margin from the scaled gap; TRL's ``simpo_gamma`` is our ``margin``.
    found = value_gradient(objectives.simpo, beta=beta, margin=margin)
    compare(found, trl.cpo(BATCH, "simpo", beta=beta, simpo_gamma=margin))


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_orpo(trl, compare, weight):
    # One pair a batch, as for SLiC.
    theirs = trl.one_pair_a_batch(trl.orpo, SHORT_PROMPTS, weight=weight)
    compare(value_gradient(objectives.orpo, SHORT_PROMPTS, weight=weight), theirs)


def test_the_odds_ratio_on_unlikely_and_nearly_certain_responses(trl, compare):
    means = -np.geomspace(1e-3, 30, 12, dtype=np.float32)
    means = np.random.default_rng(5).permutation(means).reshape(6, 2)

    def loss(means):
        return losses.orpo(means[:, 0], means[:, 1], weight=0.3).mean()

    compare(value_and_gradient(loss, means), trl.odds_ratio(means, weight=0.3))
