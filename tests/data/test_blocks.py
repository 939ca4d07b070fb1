"""Blocks of one shape for sequences of any lengths: everything has a place, alone, and little of a block is empty."""

import numpy as np
import pytest

from rlhf_jax.data.blocks import BlockShape, block_shape, lay_out


def check(lengths, shape, plan):
    """Every group lies whole in one block, each of its sequences in one row, and no place is taken twice."""
    there = plan.groups[plan.groups >= 0]
    assert sorted(there.tolist()) == list(range(len(lengths)))
    assert [bool((own >= 0).any()) for own in plan.groups] == [i < plan.used for i in range(shape.blocks)]
    for groups, starts in zip(plan.groups, plan.starts, strict=True):
        taken = np.zeros(shape.size, int)
        for group, own in zip(groups, starts, strict=True):
            for length, start in zip(lengths[group] if group >= 0 else (), own, strict=False):
                assert length == 0 or start // shape.row_length == (start + length - 1) // shape.row_length
                taken[start : start + length] += 1
        assert taken.max(initial=0) <= 1


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_lengths_there_are_blocks_enough(seed):
    rng = np.random.default_rng(seed)
    groups, responses, length = (int(rng.integers(1, n)) for n in (20, 6, 40))
    devices, parts = (int(rng.choice([1, 2, 8])) for _ in range(2))
    tokens, row_tokens = (int(rng.integers(1, 400)) for _ in range(2))
    shape = block_shape(groups, responses, length, tokens=tokens, row_tokens=row_tokens, devices=devices, parts=parts)
    assert shape.rows % devices == 0
    size = (groups, responses)
    for lengths in (rng.integers(0, length + 1, size), np.full(size, length), np.full(size, length // 2 + 1)):
        check(lengths, shape, lay_out(lengths, shape))


def test_a_plan_worked_by_hand():
    """Rows of 10: the longest group first, a group is never parted, and what is left over is filled."""
    lengths = np.array([[3, 3], [6, 7], [4, 2], [9, 9]])
    shape = BlockShape(blocks=3, rows=2, row_length=10, groups=4)
    plan = lay_out(lengths, shape)
    assert plan.groups.tolist() == [[3, -1, -1, -1], [1, 0, -1, -1], [2, -1, -1, -1]]
    assert plan.starts[0, 0].tolist() == [0, 10]
    assert plan.starts[1, :2].tolist() == [[10, 0], [7, 16]]  # the 7 first, then the 6; a 3 beside each
    assert plan.used == 3
    with pytest.raises(ValueError, match=r"a group of \[4, 2\] tokens does not fit"):
        lay_out(lengths, shape._replace(blocks=2))


def test_where_all_have_their_longest_no_place_is_empty():
    shape = block_shape(8, 1, 96, tokens=384, row_tokens=192)
    plan = lay_out(np.full((8, 1), 96), shape)
    assert plan.used * shape.size == 8 * 96


@pytest.mark.parametrize("responses", [1, 2])
def test_little_of_ragged_responses_is_padding(responses):
    """64 responses of 4 to 64 tokens, many times; padded to the longest, half of it would be empty."""
    shape = block_shape(64 // responses, responses, 64, tokens=384, row_tokens=256)
    tokens = places = 0
    for seed in range(20):
        lengths = np.random.default_rng(seed).integers(4, 65, (64 // responses, responses))
        tokens, places = tokens + lengths.sum(), places + lay_out(lengths, shape).used * shape.size
    assert 1 - tokens / places < 0.1
    assert 1 - tokens / (20 * 64 * 64) > 0.4


def test_a_part_bounds_a_block():
    whole, parts = (block_shape(16, 2, 32, tokens=10**6, row_tokens=32, parts=n) for n in (1, 4))
    assert (whole.size, whole.blocks) == (16 * 2 * 32, 1)
    assert (parts.size, parts.blocks) == (4 * 2 * 32, 4)
