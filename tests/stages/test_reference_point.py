"""KTO's reference point: which prompts meet which responses, and that the estimate is the one of the paper."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import objectives, testing
from rlhf_jax.data import Example, pack
from rlhf_jax.stages.preference import with_reference
from rlhf_jax.stages.reference_point import mismatched, reference_point

ROWS, LENGTH, PAD = 4, 16, 0
SHAPE = {"rows": ROWS, "row_length": LENGTH, "pad_id": PAD}


def sequence(prompt, response):
    return np.array([*prompt, *response], np.int32)


def packed(groups, *, places=None, rows=ROWS, row_length=LENGTH, length=12):
    """Groups of (prompt, response) pairs, one a response, as a packed batch."""
    examples = [Example(tuple(sequence(p, r) for p, r in group), tuple(len(p) for p, _ in group)) for group in groups]
    shape = {"rows": rows, "row_length": row_length, "length": length, "pad_id": PAD}
    return pack(examples, groups=places or len(examples), responses=len(groups[0]), **shape)


# Prompts of three lengths; no token comes twice, so that a token says where it is from.
GROUPS = [
    [([1], [10, 11, 12]), ([1], [13])],
    [([2, 3], [14, 15]), ([2, 3], [16, 17, 18, 19])],
    [([4, 5, 6], [20]), ([4, 5, 6], [21, 22])],
]


def read(batch):
    """What a batch holds: of every response its prompt's tokens and its targets."""
    found = []
    for b, k in np.ndindex(batch.tokens.shape[:2]):
        real, mask = np.asarray(batch.segment_ids[b, k]) > 0, np.asarray(batch.mask[b, k])
        tokens = np.asarray(batch.tokens[b, k])
        found.append((tokens[real & ~mask].tolist(), tokens[mask].tolist()))
    return found


def test_every_prompt_meets_the_response_of_the_next_group():
    other = mismatched(packed(GROUPS), **SHAPE)
    want = [(GROUPS[b][k][0], GROUPS[(b + 1) % 3][k][1]) for b in range(3) for k in range(2)]
    assert read(other) == want
    # The forward pass sees each join alone: in its segment, from position 0.
    flat = {name: np.asarray(getattr(other.packing, name)).reshape(-1) for name in ("tokens", "positions")}
    for (b, k), (prompt, response) in zip(np.ndindex(3, 2), want, strict=True):
        places = other.packing.places[b, k, : len(prompt) + len(response)]
        assert flat["tokens"][places].tolist() == prompt + response
        assert flat["positions"][places].tolist() == list(range(len(places)))


def test_shapes_are_the_same_for_every_batch():
    """One compiled program serves batches that hold much and batches that hold little."""
    shapes = {
        tuple(x.shape for x in jax.tree.leaves(mismatched(packed(groups, places=5), **SHAPE)))
        for groups in (GROUPS, GROUPS[:2], GROUPS[:1], [GROUPS[0]] * 5)
    }
    assert len(shapes) == 1
    other = mismatched(packed(GROUPS, places=5), **SHAPE)
    assert other.tokens.shape == (5, 2, LENGTH)
    assert other.packing.tokens.shape == (ROWS, LENGTH)


def test_filler_groups_and_empty_responses_meet_nobody():
    other = mismatched(packed(GROUPS, places=6), **SHAPE)
    assert read(other)[:6] == read(mismatched(packed(GROUPS), **SHAPE))
    assert not other.mask[3:].any()
    empty = [GROUPS[0], [([2, 3], []), ([2, 3], [16])], GROUPS[2]]
    assert read(mismatched(packed(empty), **SHAPE))[:4] == [
        (GROUPS[0][k][0], GROUPS[2][k][1]) if b == 0 else (GROUPS[2][k][0], GROUPS[0][k][1])
        for b in range(2)
        for k in range(2)
    ]


def test_a_join_that_is_too_long_is_cut():
    groups = [[([1] * 6, [10, 11])], [([2], [20, 21, 22, 23, 24])], [([3] * 7, [30])]]
    other = mismatched(packed(groups, row_length=8, length=8, rows=3), rows=3, row_length=8, pad_id=PAD)
    assert read(other) == [([1] * 6, [20, 21]), ([2], [30]), ([3] * 7, [10])]
    assert other.tokens.shape == (3, 1, 8)


def test_a_group_that_is_alone_meets_nobody():
    """Its own response is the one it must not meet: the estimate is then 0, not how far its own pair has moved."""
    other = mismatched(packed(GROUPS[:1], places=2), **SHAPE)
    assert not other.mask.any()
    assert not other.packing.segment_ids.any()


def test_groups_that_do_not_fit_are_left_out():
    """Five rows of eights and twos become joins of five tokens, of which a row takes one."""
    groups = [[([1], [10])], [([2] * 4, [20] * 4)]] * 4
    assert len(groups) == 8
    other = mismatched(packed(groups, rows=5, row_length=8), rows=5, row_length=8, pad_id=PAD)
    assert other.packing.tokens.shape == (5, 8)
    want = [([1], [20] * 4) if b % 2 == 0 else ([2] * 4, [10]) for b in range(8)]
    assert read(other) == [*want[:5], *[([], [])] * 3]


@pytest.fixture
def setting(quick_models):
    """A policy, a policy that has moved away from it, and a batch of random tokens."""
    roles, params = testing.tiny_models()
    rng = np.random.default_rng(0)
    start = {"policy": params["policy"]}
    moved = {"policy": jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), start["policy"])}

    def some(low, high):
        return rng.integers(3, testing.VOCAB, size=rng.integers(low, high)).tolist()

    groups = []
    for _ in range(4):
        prompt = some(1, 4)
        groups.append([(prompt, some(1, 7)) for _ in range(2)])
    batch = packed(groups, places=6)
    return roles["policy"], start, moved, groups, batch, mismatched(batch, **SHAPE)


def unpacked(model, params, tokens, first):
    """Log-probability of ``tokens[first:]``, one sequence alone, nats."""
    sequence = jnp.asarray(tokens, jnp.int32)[None]
    hidden = model.apply(params, sequence, jnp.arange(len(tokens))[None], jnp.ones_like(sequence))
    logits = np.asarray(model.logits(params, hidden)[0], np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(logprobs[t - 1, tokens[t]] for t in range(first, len(tokens)))


def by_hand(setting, new, old):
    """``mean log pi(y') - log pi_ref(y')`` over mismatched pairs, before it is held above 0."""
    model, _, _, groups, _, _ = setting
    moved = []
    for b, k in np.ndindex(len(groups), 2):
        prompt, response = groups[b][k][0], groups[(b + 1) % len(groups)][k][1]
        each = [unpacked(model, p["policy"], prompt + response, len(prompt)) for p in (new, old)]
        moved.append(each[0] - each[1])
    return np.mean(moved)


def test_the_estimate_is_the_mean_over_mismatched_pairs_and_never_below_zero(setting):
    model, start, moved, _, _, other = setting
    point = jax.jit(functools.partial(reference_point, model))
    want = by_hand(setting, moved, start)
    assert abs(want) > 0.05
    there, back = float(point(moved, start, other)), float(point(start, moved, other))
    assert there == pytest.approx(max(want, 0.0), abs=1e-5)
    assert back == pytest.approx(max(-want, 0.0), abs=1e-5)
    assert min(there, back) == 0.0 < max(there, back)
    assert float(point(start, start, other)) == 0.0


def test_no_gradient_flows_through_the_reference_point(setting):
    model, start, moved, _, batch, other = setting
    new, old = (moved, start) if by_hand(setting, moved, start) > 0 else (start, moved)
    gradient = jax.grad(lambda p: reference_point(model, p, old, other))(new)
    assert all(not np.asarray(g).any() for g in jax.tree.leaves(gradient))

    # Nor in the loss: KTO's gradient is that of the same loss with the point as a number.
    batch = batch._replace(label=np.tile(np.array([1.0, 0.0], np.float32), (6, 1)))
    point = float(reference_point(model, new, old, other))
    assert point > 0.01

    def number(outputs, batch):
        return objectives.kto(outputs, batch._replace(kl=jnp.full(batch.tokens.shape[:2], point)))

    def loss(objective, p):
        return with_reference(objective, model)(p, ((batch, other), old), jax.random.key(0))[0]

    through, fixed = (jax.jit(jax.grad(functools.partial(loss, f)))(new) for f in (objectives.kto, number))
    for a, b in zip(jax.tree.leaves(through), jax.tree.leaves(fixed), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert any(np.abs(np.asarray(g)).max() > 1e-3 for g in jax.tree.leaves(through))


def test_a_batch_of_nothing_has_a_reference_point_of_zero(setting):
    model, start, moved, _, batch, _ = setting
    empty = mismatched(batch._replace(mask=np.zeros_like(batch.mask)), **SHAPE)
    assert float(reference_point(model, moved, start, empty)) == 0.0
