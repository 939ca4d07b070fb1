"""What was seen on other people's data, as a table of inputs and what is right for them: what is drawn, and its end."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax import parallel, rollout, testing
from rlhf_jax.stages import EncodedPrompt, GroupConfig
from rlhf_jax.stages.online.loop import batch_of_prompts

# ---- the same prompt twice in one iteration --------------------------------------------------------------------------

KEY = jax.random.key(5)
ASKED = np.array([7, 3, 7, 7, 9, 3, 7, 1])  # ids of prompts: one comes four times, one twice
PROMPTS = {7: [4, 5, 6], 3: [8, 9], 9: [3], 1: [10, 11, 12, 13]}
FIRST = {7: 0, 3: 1, 9: 4, 1: 7}


@pytest.fixture(scope="module")
def policy():
    roles, params = testing.tiny_models()
    return roles["policy"], params["policy"]


def drawn(policy, ids, *, slots=0, **how):
    """Responses to these prompts, [B][K] lists of token ids."""
    model, params = policy
    config = rollout.SamplingConfig(max_new_tokens=8, window=4, slots=slots)
    engine = rollout.Engine(model, config, pad_id=testing.PAD, eos_id=testing.EOS)
    found = engine(params, [PROMPTS[i] for i in ids], key=KEY, step=3, prompt_ids=np.asarray(ids), samples=2, **how)
    tokens, mask = np.asarray(found.tokens), np.asarray(found.mask)
    return [[t[m].tolist() for t, m in zip(ts, ms, strict=True)] for ts, ms in zip(tokens, mask, strict=True)]


@pytest.fixture(scope="module")
def asked(policy):
    return drawn(policy, ASKED)


def test_a_prompt_that_comes_again_is_answered_again(asked):
    every = [tuple(response) for both in asked for response in both]
    assert len(set(every)) == len(every)


def test_the_first_time_it_is_answered_as_if_it_came_once(policy, asked):
    once = dict(zip(FIRST, drawn(policy, list(FIRST)), strict=True))
    assert {i: asked[at] for i, at in FIRST.items()} == once


@pytest.mark.parametrize("how", ["another order", "slots", "a mesh", "in two parts"])
def test_which_time_it_is_decides_and_nothing_else(policy, asked, how):
    if how == "another order":  # copies stay in their order among themselves
        order = np.argsort(ASKED, kind="stable")
        assert drawn(policy, ASKED[order]) == [asked[i] for i in order]
    elif how == "slots":
        assert drawn(policy, ASKED, slots=8) == asked
    elif how == "a mesh":
        mesh = parallel.make_mesh(parallel.MeshConfig())
        assert drawn(policy, ASKED, sharding=NamedSharding(mesh, PartitionSpec(("data", "fsdp")))) == asked
    else:
        times = rollout.occurrences(ASKED)
        assert times.tolist() == [0, 0, 1, 2, 0, 1, 3, 0]
        first, second = (drawn(policy, ASKED[at], occurrence=times[at]) for at in (slice(0, 3), slice(3, 8)))
        assert first + second == asked


def test_few_prompts_come_several_times_in_an_iteration():
    """Five prompts, eight an iteration: epochs end within it, and three responses are second or third ones."""
    prompts = [EncodedPrompt(str(i), np.array([3]), i) for i in range(5)]
    config = GroupConfig(prompts=8, minibatches=1, seed=1)
    for iteration in range(3):
        ids = [prompt.id for prompt in batch_of_prompts(prompts, config, iteration)]
        assert sorted(set(ids)) == [0, 1, 2, 3, 4]
        assert np.count_nonzero(rollout.occurrences(ids)) == 3
