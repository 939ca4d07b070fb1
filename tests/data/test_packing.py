import numpy as np
import pytest

from rlhf_jax.data import Example, pack, pad, plan


def random_examples(generator, n, responses, longest):
    examples = []
    for _ in range(n):
        sizes = generator.integers(2, longest + 1, responses)
        tokens = tuple(generator.integers(3, 99, size).astype(np.int32) for size in sizes)
        starts = tuple(int(generator.integers(1, size)) for size in sizes)
        votes = np.triu(np.ones((responses, responses), np.float32), 1)
        examples.append(Example(tokens, starts, votes if responses > 1 else None))
    return examples


@pytest.mark.parametrize("responses", [1, 2, 4])
def test_plan_uses_every_group_once_in_order_and_every_batch_packs(responses):
    generator = np.random.default_rng(responses)
    examples = random_examples(generator, 300, responses, 20)
    lengths = np.array([[len(t) for t in e.tokens] for e in examples])
    order = generator.permutation(300)
    batches = plan(lengths, order, rows=6, row_length=32, max_groups=9)
    np.testing.assert_array_equal(np.concatenate(batches), order)
    assert max(map(len, batches)) <= 9
    for batch in batches:
        chosen = [examples[i] for i in batch]
        packed = pack(chosen, rows=6, row_length=32, groups=9, responses=responses, length=20, pad_id=0)
        check_packing(packed, chosen)


def check_packing(batch, examples):
    """Every token of every sequence is at the place that the index says, alone in its segment."""
    packing = batch.packing
    flat = {name: getattr(packing, name).reshape(-1) for name in ("tokens", "segment_ids", "positions")}
    rows = np.repeat(np.arange(packing.tokens.shape[0]), packing.tokens.shape[1])
    segments = set()
    for b, example in enumerate(examples):
        for k, (sequence, start) in enumerate(zip(example.tokens, example.starts, strict=True)):
            places = packing.places[b, k, : len(sequence)]
            np.testing.assert_array_equal(flat["tokens"][places], sequence)
            np.testing.assert_array_equal(flat["positions"][places], np.arange(len(sequence)))
            (segment,) = set(zip(rows[places].tolist(), flat["segment_ids"][places].tolist(), strict=True))
            segments.add(segment)
            assert segment[1] > 0
            assert batch.mask[b, k].sum() == len(sequence) - start
            assert (batch.segment_ids[b, k] > 0).sum() == len(sequence)
            np.testing.assert_array_equal(batch.tokens[b, k, : len(sequence)], sequence)
    n_sequences = sum(len(e.tokens) for e in examples)
    n_tokens = sum(len(t) for e in examples for t in e.tokens)
    assert len(segments) == n_sequences
    assert (packing.segment_ids > 0).sum() == n_tokens
    assert not batch.mask[len(examples) :].any()
    assert not batch.segment_ids[len(examples) :].any()


def test_a_packing_worked_by_hand():
    a, b, c = (np.arange(10, 10 + n, dtype=np.int32) for n in (3, 5, 2))
    batch = pack([Example((a,), (1,)), Example((b,), (2,)), Example((c,), (1,))],
                 rows=2, row_length=6, groups=4, responses=1, length=5, pad_id=0)  # fmt: skip
    # the longest first, each into the first row with room: b, then a (b leaves 1 place), then c beside a
    np.testing.assert_array_equal(batch.packing.tokens, [[10, 11, 12, 13, 14, 0], [10, 11, 12, 10, 11, 0]])
    np.testing.assert_array_equal(batch.packing.positions, [[0, 1, 2, 3, 4, 0], [0, 1, 2, 0, 1, 0]])
    np.testing.assert_array_equal(batch.packing.places[:3, 0], [[6, 7, 8, 0, 0], [0, 1, 2, 3, 4], [9, 10, 0, 0, 0]])
    assert len(set(batch.packing.segment_ids[1, :5].tolist())) == 2
    assert (batch.packing.segment_ids[:, 5] == 0).all()
    assert not batch.mask[3].any()


def test_padding_on_the_left_holds_the_same_sequences():
    generator = np.random.default_rng(0)
    examples = random_examples(generator, 5, 2, 9)
    right = pad(examples, length=12, pad_id=7)
    left = pad(examples, length=12, pad_id=7, side="left")
    assert right.packing is None
    for field in ("tokens", "mask", "positions"):
        for b in range(5):
            for k in range(2):
                there, here = right.segment_ids[b, k] > 0, left.segment_ids[b, k] > 0
                np.testing.assert_array_equal(getattr(right, field)[b, k][there], getattr(left, field)[b, k][here])
    assert (left.segment_ids[..., -1] == 1).all()
    assert (right.tokens[right.segment_ids == 0] == 7).all()
    assert (left.tokens[left.segment_ids == 0] == 7).all()
    np.testing.assert_array_equal(right.votes, left.votes)
    assert {right.tokens.dtype, right.segment_ids.dtype, right.positions.dtype} == {np.dtype(np.int32)}
    assert (right.mask.dtype, right.votes.dtype) == (np.dtype(bool), np.dtype(np.float32))


def test_groups_that_are_not_filled_are_empty():
    example = Example((np.array([1, 5, 2], np.int32),) * 2, (1, 1), np.array([[0, 1], [0, 0]], np.float32))
    batch = pad([example], length=4, pad_id=0, groups=3)
    assert batch.tokens.shape == (3, 2, 4)
    assert batch.mask[0].all(-1).tolist() == [False, False]
    assert not batch.mask[1:].any()
    np.testing.assert_array_equal(batch.votes[1:], np.zeros((2, 2, 2)))
    empty = pack([], rows=2, row_length=4, groups=3, responses=2, length=4, pad_id=0)
    assert not empty.mask.any()
    assert not empty.packing.segment_ids.any()


@pytest.mark.parametrize("layout", ["pad", "pack"])
def test_ratings_and_labels_stay_with_their_groups(layout):
    tokens = (np.array([1, 5, 2], np.int32), np.array([1, 6, 7, 2], np.int32))
    rated = Example(tokens, (1, 1), ratings=np.array([3.5, -1.25], np.float32))
    labelled = Example(tokens, (1, 1), labels=np.array([1, 0], np.float32))
    both = Example(tokens, (1, 1), ratings=np.array([0.5, 0.25], np.float32), labels=np.array([0, 1], np.float32))

    def batch(examples):
        size = {"groups": 4, "responses": 2, "length": 4, "pad_id": 0}
        return pad(examples, **size) if layout == "pad" else pack(examples, rows=3, row_length=8, **size)

    mixed = batch([rated, labelled, both])
    np.testing.assert_array_equal(mixed.rating, [[3.5, -1.25], [0, 0], [0.5, 0.25], [0, 0]])
    np.testing.assert_array_equal(mixed.label, [[0, 0], [1, 0], [0, 1], [0, 0]])
    assert (mixed.rating.dtype, mixed.label.dtype) == (np.dtype(np.float32), np.dtype(np.float32))
    assert mixed.votes is None
    # What nobody said of any group is not there, so that an objective that needs it says so.
    assert batch([rated]).label is None
    assert batch([labelled]).rating is None
    bare = batch([Example(tokens, (1, 1))])
    assert (bare.rating, bare.label, bare.votes) == (None, None, None)


def test_ratings_of_another_number_of_responses_are_refused():
    tokens = (np.array([1, 5, 2], np.int32),) * 2
    with pytest.raises(ValueError, match="shape"):
        pad([Example(tokens, (1, 1), ratings=np.zeros(3, np.float32))], length=4, pad_id=0)


def test_what_does_not_fit_is_refused():
    long = Example((np.zeros(9, np.int32),), (1,))
    with pytest.raises(ValueError, match=r"group 1 with lengths \[9\] does not fit in 2 rows of 8 tokens"):
        plan(np.array([[3], [9]]), np.arange(2), rows=2, row_length=8, max_groups=4)
    with pytest.raises(ValueError, match="example 0, sequence 0 has 9 tokens, expected at most 8"):
        pad([long], length=8, pad_id=0)
    with pytest.raises(ValueError, match="2 examples do not fit in 1 groups"):
        pad([long, long], length=9, pad_id=0, groups=1)
    with pytest.raises(ValueError, match="do not fit in 1 rows of 12"):
        pack([long, long], rows=1, row_length=12, groups=2, responses=1, length=9, pad_id=0)
    with pytest.raises(ValueError, match="max_groups=0"):
        plan(np.array([[3]]), np.arange(1), rows=2, row_length=8, max_groups=0)
    with pytest.raises(ValueError, match="side='middle'"):
        pad([long], length=9, pad_id=0, side="middle")


def test_no_epoch_is_no_batches():
    assert plan(np.zeros((0, 1), int), np.arange(0), rows=1, row_length=8, max_groups=4) == []


@pytest.mark.parametrize("layout", ["pad", "left", "pack"])
def test_a_mask_of_its_own_says_which_tokens_are_targets(layout):
    chat = Example((np.arange(1, 7, dtype=np.int32),), (1,), masks=(np.array([0, 1, 1, 0, 1, 0], bool),))
    other = Example((np.array([7, 8, 9], np.int32),), (2,))
    if layout == "pack":
        batch = pack([chat, other], rows=1, row_length=9, groups=2, responses=1, length=7, pad_id=0)
    else:
        batch = pad([chat, other], length=7, pad_id=0, side="left" if layout == "left" else "right")
    assert batch.tokens[0, 0][batch.mask[0, 0]].tolist() == [2, 3, 5]
    assert batch.tokens[1, 0][batch.mask[1, 0]].tolist() == [9]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_mask_of_another_length_is_refused(size):
    example = Example((np.array([7, 8, 9], np.int32),), (2,), masks=(np.ones(size, bool),))
    with pytest.raises(ValueError, match=rf"example 0, sequence 0 has 3 tokens and a mask of shape \({size},\)"):
        pad([example], length=4, pad_id=0)
