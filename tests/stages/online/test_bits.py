"""Which log-probabilities are the same bits on a CPU in float32, and which are only close: docs/parity.md."""

import numpy as np
import pytest

from benchmarks import sampler_gap
from benchmarks.sampler_gap import Sizes, gap, make_setting
from rlhf_jax.models import ModelConfig
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.stages.blocks import pack_rows

CONFIG = ModelConfig(vocab_size=96, d_model=64, n_layers=1, n_heads=4, n_kv_heads=2, head_dim=16, d_ff=128)
SIZES = Sizes(rows=16, prompt=8, new=8)


@pytest.fixture(scope="module")
def setting():
    return make_setting(CONFIG, SIZES)


@pytest.fixture(scope="module")
def found(setting):
    return sampler_gap.passes(setting)


def test_the_share_of_bits_that_differ_by_hand():
    a = np.array([[1.0, 2.0], [3.0, 9.0]])
    assert gap(a, a) == (0.0, 0.0, 0.0)
    other = np.array([[1.0, 2.5], [3.0, 10.0]])
    assert gap(a, other) == (0.5, 0.375, 1.0)
    assert gap(a, other, [[True, True], [False, False]]) == (0.5, 0.25, 0.5)


@pytest.mark.parametrize("what", ["under a gradient", "half of the batch", "other order of rows"])
def test_the_trainers_pass_gives_the_same_bits(found, what):
    """In a small shape; in a larger one norms are summed in another order (docs/parity.md)."""
    assert found[what] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("what", ["padding on the left", "padding on the right"])
def test_more_padding_leaves_rounding(found, what):
    """Attention adds up as many columns as a row has, and in which order is the compiler's."""
    assert found[what][2] < 1e-5


@pytest.mark.parametrize("slots", [0, 4])
def test_the_sampler_is_the_trainer_up_to_rounding(setting, slots):
    made = make_setting(CONFIG, SIZES, slots=slots) if slots else setting
    batch = as_batch(made.sampled)
    share, mean, largest = gap(made.sampled.logprobs, made.passed(batch), batch.mask)
    assert share > 0  # not the same bits: if this fails, the documentation promises too little
    assert mean < 2e-6
    assert largest < 2e-5


def test_packed_rows_are_padded_rows_up_to_rounding_and_their_own_bits_under_a_gradient(setting):
    batch = as_batch(setting.sampled)
    lengths = np.asarray(batch.segment_ids > 0).sum(-1).reshape(-1, 1)
    starts, row, at = np.zeros_like(lengths), 0, 0
    for i, (length,) in enumerate(lengths):
        row, at = (row + 1, 0) if at + length > 32 else (row, at)
        starts[i], at = row * 32 + at, at + length
    packed = batch._replace(packing=pack_rows(batch, starts, rows=row + 1, row_length=32))
    assert gap(setting.passed(packed), setting.passed(batch), batch.mask)[2] < 2e-5
    assert gap(setting.under_gradient(packed), setting.passed(packed), batch.mask) == (0.0, 0.0, 0.0)


def test_operators_are_compared_on_the_same_input():
    found = sampler_gap.operators(CONFIG, SIZES)
    assert set(found) == {
        "norm",
        "product, width to MLP",
        "product, MLP to width",
        "attention over the cache",
        "log Z in blocks",
    }
    assert all(largest < 1e-4 for _, _, largest in found.values())
    assert found["attention over the cache"][0] > 0
