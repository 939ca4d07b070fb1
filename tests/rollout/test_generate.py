"""The engine: what it samples is the policy's, is named by its prompt alone, ends at EOS and is never re-encoded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_model import chain
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax import models, parallel, testing
from rlhf_jax.rollout import Engine, SamplingConfig
from rlhf_jax.stages import forward
from rlhf_jax.types import Model, SequenceBatch

PAD, EOS = testing.PAD, testing.EOS
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(3, testing.VOCAB, size=n) for n in (3, 1, 8, 5, 2, 7, 4, 6)]
NEW, WINDOW = 12, 5  # the last window is shorter than the others
KEY = jax.random.key(11)


class Setting(NamedTuple):
    model: Model
    params: dict
    engine: Engine


@pytest.fixture(scope="module")
def setting():
    roles, params = testing.tiny_models()
    engine = Engine(roles["policy"], SamplingConfig(max_new_tokens=NEW, window=WINDOW), pad_id=PAD, eos_id=EOS)
    return Setting(roles["policy"], params["policy"], engine)


@pytest.fixture(scope="module")
def sampled(setting):
    return jax.device_get(setting.engine(setting.params, PROMPTS, key=KEY, step=3, samples=2))


def responses(rollout):
    """Token ids of each response, [B][K] lists."""
    tokens, mask = np.asarray(rollout.tokens), np.asarray(rollout.mask)
    return [[t[m].tolist() for t, m in zip(ts, ms, strict=True)] for ts, ms in zip(tokens, mask, strict=True)]


def test_a_rollout_is_a_prompt_on_the_left_and_a_response_on_the_right(sampled):
    width = 8
    assert sampled.tokens.shape == (8, 2, width + NEW)
    tokens, mask, segments = sampled.tokens, sampled.mask, sampled.segment_ids
    for b, prompt in enumerate(PROMPTS):
        for k in range(2):
            n = len(prompt)
            np.testing.assert_array_equal(tokens[b, k, width - n : width], prompt)  # ids as given, never re-encoded
            length = mask[b, k].sum()
            assert 1 <= length <= NEW
            np.testing.assert_array_equal(np.flatnonzero(mask[b, k]), width + np.arange(length))
            real = np.flatnonzero(segments[b, k])
            np.testing.assert_array_equal(real, np.arange(width - n, width + length))
            np.testing.assert_array_equal(sampled.positions[b, k][real], np.arange(n + length))
            assert sampled.finished[b, k] == (tokens[b, k, width + length - 1] == EOS)
            assert EOS not in tokens[b, k, width : width + length - 1]
            assert sampled.finished[b, k] or length == NEW
    assert (sampled.logprobs[~mask] == 0).all()
    assert (sampled.logprobs[mask] < 0).all()
    assert (tokens[segments == 0] == PAD).all()


def test_the_samplers_log_probabilities_are_the_trainers(setting, sampled):
    batch = SequenceBatch(sampled.tokens, sampled.mask, sampled.segment_ids, sampled.positions)
    run = jax.jit(lambda p, b: forward({"policy": setting.model}, {"policy": p}, b).logprobs)
    trained = np.asarray(run(setting.params, batch))
    np.testing.assert_allclose(trained[sampled.mask], sampled.logprobs[sampled.mask], atol=2e-5)
    assert sampled.logprobs[sampled.mask].std() > 0.1


@pytest.mark.parametrize(("kept", "trained"), [(None, 0.6), (1.0, 1.0)], ids=["by default", "temperature 1"])
def test_at_a_temperature_they_are_the_trainers_at_the_same_one(setting, kept, trained):
    config = SamplingConfig(max_new_tokens=NEW, window=WINDOW, temperature=0.6)
    engine = Engine(setting.model, config, pad_id=PAD, eos_id=EOS, logprob_temperature=kept)
    sampled = engine(setting.params, PROMPTS, key=KEY, step=3, samples=2)
    batch = SequenceBatch(sampled.tokens, sampled.mask, sampled.segment_ids, sampled.positions)
    run = jax.jit(lambda p, b: forward({"policy": setting.model}, {"policy": p}, b, temperature=trained).logprobs)
    gap = np.abs(np.asarray(run(setting.params, batch)) - np.asarray(sampled.logprobs))[np.asarray(sampled.mask)]
    assert gap.max() < 5e-5


def test_log_probabilities_at_temperature_0_are_refused(setting):
    with pytest.raises(ValueError, match=r"logprob_temperature must be above 0, .*found 0"):
        Engine(setting.model, setting.engine.config, pad_id=PAD, eos_id=EOS, logprob_temperature=0.0)


def test_k_samples_of_a_prompt_differ_and_share_one_prefill(setting, sampled):
    assert all(a != b for a, b in responses(sampled))
    rows = []

    def prefill(params, tokens, *rest):
        rows.append(tokens.shape[0])
        return setting.model.prefill(params, tokens, *rest)

    engine = Engine(setting.model._replace(prefill=prefill), setting.engine.config, pad_id=PAD, eos_id=EOS)
    again = engine(setting.params, PROMPTS[:2], key=KEY, step=3, samples=2)
    assert rows == [2]
    assert responses(again) == responses(sampled)[:2]


def test_a_prompt_gets_the_same_samples_in_any_company(setting, sampled):
    """Alone or among others, in another order, padded to another width, with more samples beside it."""
    want = responses(sampled)
    ids = np.array([6, 2, 1])
    some = setting.engine(
        setting.params, [PROMPTS[i] for i in ids], key=KEY, step=3, prompt_ids=ids, samples=3, bucket=16
    )
    assert some.tokens.shape[-1] == 16 + NEW
    got = responses(some)
    assert [r[:2] for r in got] == [want[i] for i in ids]
    at = np.asarray(sampled.logprobs)[ids]
    shorter = np.asarray(some.logprobs)[:, :2, 8:]
    np.testing.assert_allclose(shorter, at, atol=2e-5)


def test_a_prompt_gets_the_same_samples_on_any_mesh(setting, sampled):
    mesh = parallel.make_mesh(parallel.MeshConfig())
    assert mesh.size == 8
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    params = parallel.put(setting.params, jax.tree.map(lambda _: parallel.replicated(mesh), setting.params))
    spread = setting.engine(params, PROMPTS, key=KEY, step=3, samples=2, sharding=rows)
    assert len(spread.tokens.sharding.device_set) == 8
    np.testing.assert_array_equal(spread.tokens, sampled.tokens)
    np.testing.assert_array_equal(spread.finished, sampled.finished)
    np.testing.assert_allclose(spread.logprobs, sampled.logprobs, atol=2e-5)


@pytest.mark.parametrize("slots", [0, 8])
def test_a_model_knows_the_mesh_that_rows_lie_on_when_it_is_traced(slots):
    """Kernels are divided among devices by the model, so it has to know them; without a sharding there is no mesh."""
    model, met = chain([0, 2, 3, 1, 0, 0, 0, 0]), []

    def spied(function):
        def call(*arguments):
            met.append(jax.sharding.get_abstract_mesh().shape.get("data", 0))
            return function(*arguments)

        return call

    model = model._replace(prefill=spied(model.prefill), decode=spied(model.decode))
    engine = Engine(model, SamplingConfig(max_new_tokens=4, window=4, slots=slots), pad_id=PAD, eos_id=EOS)
    mesh = parallel.make_mesh(parallel.MeshConfig())
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    engine({}, [[1]] * 8, key=KEY, sharding=rows)
    assert set(met) == {mesh.shape["data"]}
    met.clear()
    engine({}, [[1]] * 8, key=KEY)
    assert set(met) == {0}


def test_another_step_key_or_name_is_another_sample(setting, sampled):
    call = {"key": KEY, "step": 3, "samples": 2}
    first = responses(sampled)
    for change in ({"step": 4}, {"key": jax.random.key(12)}, {"prompt_ids": np.arange(100, 108)}):
        other = responses(setting.engine(setting.params, PROMPTS, **{**call, **change}))
        assert sum(a == b for a, b in zip(first, other, strict=True)) == 0, change


def test_greedy_follows_the_likeliest_token_of_the_full_forward(setting):
    engine = Engine(setting.model, SamplingConfig(max_new_tokens=6, temperature=0.0), pad_id=PAD, eos_id=-1)
    got = responses(engine(setting.params, PROMPTS[:2], key=KEY))
    config = models.ModelConfig(
        vocab_size=testing.VOCAB, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32
    )
    logits = jax.jit(models.logits, static_argnums=0)
    for prompt, response in zip(PROMPTS, got, strict=False):
        tokens = np.zeros(16, np.int32)
        tokens[: len(prompt)] = prompt
        for i in range(6):
            n = len(prompt) + i
            z = logits(config, setting.params, jnp.asarray(tokens)[None], jnp.arange(16)[None] < n)
            tokens[n] = int(jnp.argmax(z[0, n - 1]))
        assert response[0] == tokens[len(prompt) : len(prompt) + 6].tolist()


@pytest.mark.parametrize("window", [1, 3, 100])
def test_eos_ends_a_response_and_counts_as_its_last_token(window):
    """7 -> 6 -> 5 -> 4 -> 2 (EOS), and 3 -> 3 for ever."""
    model = chain([0, 1, 2, 3, 2, 4, 5, 6])
    engine = Engine(model, SamplingConfig(max_new_tokens=6, window=window), pad_id=PAD, eos_id=EOS)
    rollout = engine({}, [[7], [1, 3], [5], [4]], key=KEY, bucket=2)
    assert responses(rollout) == [[[6, 5, 4, 2]], [[3] * 6], [[4, 2]], [[2]]]
    assert rollout.finished.tolist() == [[True], [False], [True], [True]]
    np.testing.assert_allclose(rollout.logprobs, 0.0, atol=1e-6)  # certain, every one
    assert rollout.tokens[3, 0].tolist() == [PAD, 4, 2, PAD, PAD, PAD, PAD, PAD]


def test_pad_may_be_eos():
    model = chain([0, 1, 2, 3, 2, 4, 5, 6])
    engine = Engine(model, SamplingConfig(max_new_tokens=6), pad_id=EOS, eos_id=EOS)
    rollout = engine({}, [[7], [1, 3]], key=KEY, bucket=4)
    assert responses(rollout) == [[[6, 5, 4, 2]], [[3] * 6]]
    assert rollout.segment_ids[0, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 0, 0]


def test_one_token_is_a_response():
    engine = Engine(chain([0, 1, 2, 3, 2, 4, 5, 6]), SamplingConfig(max_new_tokens=1), pad_id=PAD, eos_id=EOS)
    rollout = engine({}, [[7], [4]], key=KEY, bucket=1)
    assert responses(rollout) == [[[6]], [[2]]]
    assert rollout.finished.tolist() == [[False], [True]]


def test_nothing_is_decoded_once_every_row_has_ended():
    calls = []
    model = chain([0, 1, 2, 3, 2, 4, 5, 6])

    def decode(params, tokens, *rest):
        jax.debug.callback(lambda t: calls.append(t.shape), tokens)
        return model.decode(params, tokens, *rest)

    engine = Engine(model._replace(decode=decode), SamplingConfig(max_new_tokens=40, window=4), pad_id=PAD, eos_id=EOS)
    jax.block_until_ready(engine({}, [[7], [5]], key=KEY))
    jax.effects_barrier()
    assert len(calls) == 4  # one window, in which the longest response ended


@pytest.mark.parametrize(("prompts", "windows"), [([[7], [1, 3]], 3), ([[7], [5]], 2)], ids=["to the end", "early"])
def test_the_devices_are_at_the_next_window_while_the_host_asks_about_one(prompts, windows):
    """Ten tokens are the first one and three windows; where all have ended in the first, one more was begun."""
    engine = Engine(
        chain([0, 1, 2, 3, 2, 4, 5, 6]), SamplingConfig(max_new_tokens=10, window=3), pad_id=PAD, eos_id=EOS
    )
    calls, window = [], engine.programs.window

    def counted(*inputs, **options):
        calls.append(inputs)
        return window(*inputs, **options)

    engine.programs = engine.programs._replace(window=counted)
    rollout = engine({}, prompts, key=KEY, bucket=2)
    assert len(calls) == windows
    assert responses(rollout)[0] == [[6, 5, 4, 2]]


@pytest.mark.parametrize("prompts", [[], [[5, 6], []]], ids=["no prompts", "an empty prompt"])
def test_an_empty_prompt_is_refused(setting, prompts):
    with pytest.raises(ValueError, match="at least one token"):
        setting.engine(setting.params, prompts, key=KEY)


@pytest.mark.parametrize("slots", [0, 2])
@pytest.mark.parametrize("pad", [testing.VOCAB, -100])
def test_padding_need_be_no_token(setting, pad, slots):
    """A pad token that was added behind the vocabulary has no row in the table."""
    config = SamplingConfig(max_new_tokens=4, temperature=0.0, slots=slots)
    want, got = (
        responses(Engine(setting.model, config, pad_id=own, eos_id=-1)(setting.params, PROMPTS[:3], key=KEY))
        for own in (PAD, pad)
    )
    assert got == want


@pytest.mark.parametrize("slots", [0, 2])
def test_padding_may_reach_beyond_the_positions_that_were_learned(slots):
    """Prompts with just enough room, in columns that the table of positions does not have."""
    sizes = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "d_ff": 16}
    model = models.build(models.ModelConfig(vocab_size=37, positions="learned", max_length=20, **sizes))
    prompts = [list(range(1, 18)), [3], list(range(2, 14))]
    engine = Engine(model, SamplingConfig(max_new_tokens=3, slots=slots), pad_id=0, eos_id=-1)
    params = model.init(jax.random.key(0))
    want = engine(params, prompts, key=KEY, bucket=1)
    for bucket in (8, 32):
        got = engine(params, prompts, key=KEY, bucket=bucket)
        assert responses(got) == responses(want)
        assert np.isfinite(np.asarray(got.logprobs)).all()
