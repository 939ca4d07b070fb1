"""Supervised fine-tuning against transformers' loss and TRL's SFTTrainer."""

import jax.numpy as jnp
import numpy as np
import pytest
from problem import ours, problem, value_and_gradient

from rlhf_jax import losses, objectives

BATCH = problem(5, 1, seed=1)


def test_sft_is_the_loss_of_transformers(trl, compare):
    compare(ours(objectives.sft, BATCH.logits, BATCH.batch), trl.causal_lm_loss(BATCH))


def test_sft_is_the_loss_of_trl(trl, compare):
    compare(ours(objectives.sft, BATCH.logits, BATCH.batch), trl.sft(BATCH))


def test_micro_batches_add_up_to_transformers_global_denominator(trl, compare):
    parts = [BATCH.group(b) for b in range(len(BATCH.tokens))]
    items = int(BATCH.mask.sum())
    values, gradients = zip(*(trl.causal_lm_loss(part, num_items=items) for part in parts), strict=True)
    cut = ours(objectives.sft, BATCH.logits, *(part.batch for part in parts))
    compare(cut, (sum(values), np.concatenate(gradients)))


@pytest.mark.parametrize("label_smoothing", [0.1, 0.5])
def test_label_smoothing(trl, compare, label_smoothing):
    targets, counted = jnp.asarray(BATCH.tokens[..., 1:]), BATCH.mask[..., 1:]

    def loss(logits):
        per_token = losses.cross_entropy(logits[..., :-1, :], targets, label_smoothing=label_smoothing)
        return losses.masked_mean(per_token, counted)

    compare(value_and_gradient(loss, BATCH.logits), trl.smoothed_lm_loss(BATCH, label_smoothing=label_smoothing))
