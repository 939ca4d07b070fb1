"""Slots, refill, stop sequences and room: responses stay the same, and ragged work costs little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_model import chain
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax import losses, models, parallel, testing
from rlhf_jax.rollout import Engine, SamplingConfig, response_keys, sample_token, stop_at_tokens
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.stages import forward

PAD, EOS = testing.PAD, testing.EOS
RNG = np.random.default_rng(1)
PROMPTS = [RNG.integers(3, testing.VOCAB, size=n) for n in (3, 1, 8, 5, 2, 7, 4, 6, 30)]
NEW, KEY = 12, jax.random.key(11)
SIZES = {"vocab_size": testing.VOCAB, "d_model": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8}


def engine_of(model, *, stop=None, **config):
    return Engine(model, SamplingConfig(**config), pad_id=PAD, eos_id=EOS, stop=stop)


@pytest.fixture(scope="module")
def setting():
    roles, params = testing.tiny_models()
    return roles["policy"], params["policy"]


@pytest.fixture(scope="module")
def lock_step(setting):
    model, params = setting
    return jax.device_get(
        engine_of(model, max_new_tokens=NEW, window=5)(params, PROMPTS, key=KEY, step=3, samples=3, bucket=32)
    )


# One slot, a group over the border of a refill, and more slots than there are responses.
@pytest.mark.parametrize("slots", [1, 5, 16, 64])
def test_slots_change_no_token(setting, lock_step, slots):
    model, params = setting
    engine = engine_of(model, max_new_tokens=NEW, window=5, slots=slots)
    got = engine(engine.lay_out(params), PROMPTS, key=KEY, step=3, samples=3, bucket=32)
    for name in ("tokens", "mask", "segment_ids", "positions", "finished"):
        np.testing.assert_array_equal(getattr(got, name), getattr(lock_step, name), err_msg=name)
    np.testing.assert_allclose(got.logprobs, lock_step.logprobs, atol=2e-5)
    assert engine.cost.tokens == lock_step.mask.sum() <= engine.cost.slot_steps


def test_slots_on_a_mesh_change_no_token(setting, lock_step):
    model, params = setting
    mesh = parallel.make_mesh(parallel.MeshConfig())
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    params = parallel.put(params, jax.tree.map(lambda _: parallel.replicated(mesh), params))
    engine = engine_of(model, max_new_tokens=NEW, window=5, slots=16)
    got = engine(params, PROMPTS[:8], key=KEY, step=3, samples=3, bucket=32, sharding=rows)
    np.testing.assert_array_equal(got.tokens, lock_step.tokens[:8])
    with pytest.raises(ValueError, match="multiple of the 8 parts"):
        engine_of(model, max_new_tokens=NEW, slots=12)(params, PROMPTS[:8], key=KEY, sharding=rows)


def test_ragged_work_costs_little_more_than_its_tokens():
    """512 responses of 4 to 256 tokens, 40 on average; in 64 slots, and a row for every response."""
    lengths = np.clip(np.random.default_rng(0).exponential(39, 512).astype(int), 4, 256)
    lengths[0] = 256
    assert 36 < lengths.mean() < 44
    model = chain([0, 1, 2, *range(2, 259)])  # n + 2 is followed by n + 1, ..., 2, which is EOS
    prompts = [[n + 2] for n in lengths]
    cost = {}
    for slots in (0, 64):
        engine = engine_of(model, max_new_tokens=256, slots=slots)
        sampled = engine({}, prompts, key=KEY)
        np.testing.assert_array_equal(np.asarray(sampled.mask).sum(-1)[:, 0], lengths)
        assert engine.cost.tokens == lengths.sum()
        cost[slots] = engine.cost.slot_steps / engine.cost.tokens
    assert cost[64] <= 1.3
    assert cost[0] > 5.5


def test_a_later_call_with_other_lengths_compiles_nothing(setting):
    model, params = setting
    engine = engine_of(model, max_new_tokens=NEW, window=4, slots=16)
    engine(params, [[5, 6]] * 9, key=KEY, samples=2, bucket=32)
    sizes = [program._cache_size() for program in engine.programs]
    engine(params, PROMPTS, key=KEY, samples=2, bucket=32)
    assert [program._cache_size() for program in engine.programs] == sizes


@pytest.mark.parametrize("slots", [0, 2])
@pytest.mark.parametrize("window", [1, 3, 8])
def test_a_stop_sequence_ends_a_response_and_is_kept(window, slots):
    """7 -> 6 -> 5 -> 4 -> 2 (EOS), and 3 -> 3 for ever; a stop sequence may lie over the border of two windows."""
    model = chain([0, 1, 2, 3, 2, 4, 5, 6])
    engine = engine_of(model, max_new_tokens=6, window=window, slots=slots, stop=stop_at_tokens([(6, 5), (3, 3, 3)]))
    sampled = engine({}, [[7], [1, 3], [5], [6], [7, 6]], key=KEY, bucket=2)
    tokens, mask = np.asarray(sampled.tokens)[:, 0], np.asarray(sampled.mask)[:, 0]
    # A 6 in the prompt is no part of a stop sequence: the last two are not ended by (6, 5).
    got = [t[m].tolist() for t, m in zip(tokens, mask, strict=True)]
    assert got == [[6, 5], [3, 3, 3], [4, 2], [5, 4, 2], [5, 4, 2]]
    assert sampled.finished.all()


def test_a_prompt_without_room_is_refused():
    engine = engine_of(chain([0, 1, 2, 3])._replace(max_length=8), max_new_tokens=6)
    said = "has 3 tokens, and the model reads 8, which leaves 2 beside a response of max_new_tokens 6"
    with pytest.raises(ValueError, match=f"prompt 1 {said}"):
        engine({}, [[3, 3], [3, 3, 3]], key=KEY)
    with pytest.raises(ValueError, match=f"prompt 70 {said}"):
        engine({}, [[3, 3], [3, 3, 3]], key=KEY, prompt_ids=np.array([40, 70]))
    with pytest.raises(ValueError, match=f"prompt 0 {said}"):
        next(engine.stream({}, [3, 3, 3], key=KEY))
    assert engine({}, [[3, 3]], key=KEY).mask.sum() == 6


def test_the_room_is_the_models_own():
    assert models.build(models.ModelConfig(**SIZES, d_ff=32, max_length=64)).max_length == 64
    assert models.build(models.ModelConfig(**SIZES, d_ff=32)).max_length == 0


LLAMA = {"rope_scaling": models.RopeScaling(kind="llama3", factor=4.0, original_length=8), "tie_embeddings": False}
GEMMA = {
    "sliding_window": 4,
    "local_layers": (True, False),
    "local_rope_theta": 100.0,
    "attention_softcap": 5.0,
    "logit_softcap": 9.0,
    "norm_offset": 1.0,
    "norm_after": True,
    "qk_norm": "head",
    "query_scale": 0.4,
    "embedding_scale": 4.0,
    "activation": "gelu_tanh",
}
GPT2 = {"positions": "learned", "max_length": 64, "norm": "layer", "gated_mlp": False, "qkv_bias": True}


@pytest.mark.parametrize(
    ("change", "adapters"),
    [({}, False), (LLAMA, False), (LLAMA, True), (GEMMA, False), (GPT2, False), (GPT2, True)],
    ids=["plain", "llama", "llama, adapters", "gemma", "gpt2", "gpt2, adapters"],
)
def test_tokens_are_those_of_a_plain_loop_over_the_whole_forward_pass(change, adapters):
    config = models.ModelConfig(**SIZES, d_ff=32, **change)
    params = jax.tree.map(lambda x: x * 8.0 if x.ndim > 1 else x, models.build(config).init(jax.random.key(5)))
    if adapters:
        config, params = models.add_adapters(config, params, models.LoRAConfig(rank=3), jax.random.key(6))
        params["blocks"] = models.lora.map_matrices(
            params["blocks"], lambda _, x: {**x, "lora_b": x["lora_b"] + 0.03}, "blocks"
        )
    model = models.build(config)
    whole = jax.jit(models.logits, static_argnums=0)
    for temperature in (0.0, 1.0):
        engine = engine_of(model, max_new_tokens=6, window=4, slots=2, temperature=temperature)
        sampled = engine(params, PROMPTS[:4], key=KEY, step=1)
        out = forward({"policy": model}, {"policy": params}, as_batch(sampled))
        np.testing.assert_allclose(out.logprobs, sampled.logprobs, atol=1e-4)
        for b, prompt in enumerate(PROMPTS[:4]):
            keys = response_keys(KEY, 1, jnp.array([b]), jnp.array([0]))
            tokens, at = np.full(16, PAD, np.int32), len(prompt)
            tokens[:at] = prompt
            for i in range(6):
                z = whole(config, params, jnp.asarray(tokens)[None], jnp.arange(16)[None] < at + i)[:, at + i - 1]
                token, logprob = sample_token(keys, z, jnp.int32(i), temperature=temperature, top_k=0, top_p=1.0)
                assert int(sampled.tokens[b, 0, 8 + i]) == int(token[0])
                np.testing.assert_allclose(sampled.logprobs[b, 0, 8 + i], logprob[0], atol=1e-4)
                np.testing.assert_allclose(logprob, losses.token_logprobs(z, token), atol=1e-5)
                tokens[at + i] = int(token[0])
                if int(token[0]) == EOS:
                    break
