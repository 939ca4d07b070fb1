"""The network against a forward pass written apart from it, and what padding, packing and caching must not change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.models.layers import rotary, rotate

SIZES = {"vocab_size": 24, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 4, "d_ff": 24}
CONFIG = models.ModelConfig(**SIZES)
MODEL = models.build(CONFIG)
logits = jax.jit(models.logits, static_argnums=0)
apply = jax.jit(MODEL.apply)
PARAMS = jax.tree.map(lambda x: x * 5.0, MODEL.init(jax.random.key(0)))  # large enough that attention is not uniform


def reference_logits(config, params, tokens):
    """One sequence without padding, in numpy and float64: written from the equations, not from the module."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    blocks, heads, groups, width = p["blocks"], config.n_heads, config.n_heads // config.n_kv_heads, config.head_dim

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.norm_eps) * scale

    def rotate(x):  # [T, heads, width]: pairs (i, i + width / 2) turn by position * theta^(-2i / width)
        angle = np.arange(len(x))[:, None] * config.rope_theta ** (-2 * np.arange(width // 2) / width)
        z = (x[..., : width // 2] + 1j * x[..., width // 2 :]) * np.exp(1j * angle)[:, None, :]
        return np.concatenate([z.real, z.imag], -1)

    x = p["embedding"][tokens]
    for layer in range(config.n_layers):
        w = {name: value["kernel"][layer] for name, value in blocks["attention"].items()}
        h = norm(x, blocks["attention_norm"]["scale"][layer])
        q, k, v = ((h @ w[n]).reshape(len(tokens), -1, width) for n in ("query", "key", "value"))
        q, k = rotate(q), rotate(k)
        mixed = []
        for head in range(heads):
            kv = head // groups
            z = q[:, head] @ k[:, kv].T / np.sqrt(width)
            z[np.triu_indices(len(tokens), 1)] = -np.inf
            weights = np.exp(z - z.max(-1, keepdims=True))
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, kv])
        x = x + np.concatenate(mixed, -1) @ w["out"]
        m = {name: value["kernel"][layer] for name, value in blocks["mlp"].items()}
        h = norm(x, blocks["mlp_norm"]["scale"][layer])
        gate = h @ m["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ m["up"])) @ m["down"]
    return norm(x, p["final_norm"]["scale"]) @ p.get("unembedding", p["embedding"].T)


def some_tokens(n, seed=0):
    return np.random.default_rng(seed).integers(3, SIZES["vocab_size"], size=n)


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_heads": 4}, {"n_kv_heads": 1}, {"tie_embeddings": False}, {"rope_theta": 100.0, "norm_eps": 1e-2}],
    ids=["grouped", "multi-head", "multi-query", "untied", "theta and eps"],
)
def test_logits_are_those_of_the_equations(changes):
    config = dataclasses.replace(CONFIG, **changes)
    model = models.build(config)
    params = jax.tree.map(lambda x: x * 5.0, model.init(jax.random.key(3)))
    # Norm scales start at one number, which would hide a scale that is not applied.
    params["final_norm"]["scale"] = jnp.linspace(0.5, 2.0, config.d_model)
    params["blocks"]["mlp_norm"]["scale"] *= jnp.linspace(0.5, 1.0, config.d_model)[None]
    tokens = some_tokens(9)
    got = logits(config, params, jnp.asarray(tokens)[None], jnp.ones((1, 9), bool))[0]
    want = reference_logits(config, params, tokens)
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(got, want, atol=2e-4, rtol=2e-4)


def test_an_untied_head_has_weights_of_its_own_and_a_tied_one_gets_both_gradients():
    untied = models.build(dataclasses.replace(CONFIG, tie_embeddings=False)).init(jax.random.key(0))
    assert untied["unembedding"].shape == (SIZES["d_model"], SIZES["vocab_size"])
    assert "unembedding" not in PARAMS
    tokens = jnp.asarray(some_tokens(5))[None]
    ones = jnp.ones_like(tokens)

    def loss(embedding_in, embedding_out):
        hidden = MODEL.apply({**PARAMS, "embedding": embedding_in}, tokens, jnp.arange(5)[None], ones)
        return MODEL.logits({**PARAMS, "embedding": embedding_out}, hidden)[0, -1, 7]

    both = jax.jit(jax.grad(lambda e: loss(e, e)))(PARAMS["embedding"])
    apart = jax.jit(jax.grad(loss, argnums=(0, 1)))(PARAMS["embedding"], PARAMS["embedding"])
    np.testing.assert_allclose(both, apart[0] + apart[1], atol=1e-5)
    assert all(np.abs(g).max() > 1e-3 for g in apart)


@pytest.mark.parametrize(("left", "right", "pad"), [(0, 5, 2), (5, 0, -100), (2, 3, SIZES["vocab_size"])])
def test_padding_on_either_side_changes_nothing_whatever_stands_there(left, right, pad):
    tokens = some_tokens(7)
    alone = logits(CONFIG, PARAMS, jnp.asarray(tokens)[None], jnp.ones((1, 7), bool))
    padded = jnp.asarray(np.pad(tokens, (left, right), constant_values=pad))[None]
    mask = jnp.asarray(np.pad(np.ones(7, bool), (left, right)))[None]
    got = logits(CONFIG, PARAMS, padded, mask)
    np.testing.assert_allclose(got[:, left : left + 7], alone, atol=2e-5)
    assert bool(jnp.all(jnp.isfinite(got)))  # at padding as well: a NaN there would poison a gradient


def test_no_token_sees_a_later_one():
    tokens = some_tokens(9)
    changed = tokens.copy()
    changed[5] = (changed[5] - 3 + 1) % (SIZES["vocab_size"] - 3) + 3
    a, b = (logits(CONFIG, PARAMS, jnp.asarray(t)[None], jnp.ones((1, 9), bool))[0] for t in (tokens, changed))
    np.testing.assert_array_equal(a[:5], b[:5])
    assert np.abs(a[5:] - b[5:]).max(axis=-1).min() > 1e-4


def test_packed_sequences_do_not_see_each_other():
    one, two = some_tokens(7, seed=1), some_tokens(7, seed=2)
    row = jnp.asarray(np.concatenate([one, two, [0, 0]]))[None]
    segments = jnp.asarray([[1] * 7 + [2] * 7 + [0, 0]])
    positions = jnp.asarray([[*range(7), *range(7), 0, 0]])
    packed = apply(PARAMS, row, positions, segments)[0]
    for tokens, start in ((one, 0), (two, 7)):
        n = len(tokens)
        alone = apply(PARAMS, jnp.asarray(tokens)[None], jnp.arange(n)[None], jnp.ones((1, n), jnp.int32))[0]
        np.testing.assert_allclose(packed[start : start + n], alone, atol=1e-5)


def test_an_odd_number_of_rotated_dimensions_turns_in_pairs_that_take_one_more_along():
    # Three of eight dimensions: pairs (0, 2) and (1, 3) turn by 2 * 100^(-2i / 3), i = 0, 1; the rest stands still.
    config = dataclasses.replace(CONFIG, head_dim=8, rope_fraction=0.4, rope_theta=100.0)
    angles = rotary(jnp.asarray([[2]]), config.rotary_width, config.rope_theta, models.RopeScaling())
    x = np.random.default_rng(0).normal(size=8)
    z = (x[:2] + 1j * x[2:4]) * np.exp(2j * np.array([1.0, 0.04641589]))
    want = [*z.real, *z.imag, *x[4:]]
    np.testing.assert_allclose(
        rotate(jnp.asarray(x, jnp.float32).reshape(1, 1, 1, 8), angles)[0, 0, 0], want, atol=1e-6
    )


def test_prefill_and_decode_give_what_the_full_forward_gives():
    """Two prompts of unlike length, right-padded to 4 columns, decoded by 4 tokens in a cache of 16 columns."""
    prompts, rest = [some_tokens(4, 1), some_tokens(2, 2)], np.stack([some_tokens(4, 3), some_tokens(4, 4)])
    tokens = jnp.asarray(np.stack([np.pad(p, (0, 4 - len(p))) for p in prompts]))
    laid = jax.jit(MODEL.lay_out)(PARAMS)
    cache = MODEL.cache(2, 16)
    assert [x.shape for x in cache.k] == [(2, SIZES["n_kv_heads"], 16, SIZES["head_dim"])] * 2
    said, filled = jax.jit(MODEL.prefill)(laid, tokens, jnp.asarray([4, 2]))
    k, v = (
        tuple(c.at[:, :, :4].set(f) for c, f in zip(*pair, strict=True))
        for pair in ((cache.k, filled.k), (cache.v, filled.v))
    )
    cache = models.Cache(k, v, filled.lengths)
    decode = jax.jit(MODEL.decode)
    steps = [said]
    for i in range(4):
        said, cache = decode(laid, jnp.asarray(rest[:, i]), cache)
        steps.append(said)
    np.testing.assert_array_equal(cache.lengths, [8, 6])
    for row, prompt in enumerate(prompts):
        whole = jnp.asarray(np.concatenate([prompt, rest[row]]))[None]
        n = whole.shape[1]
        full = MODEL.logits(PARAMS, apply(PARAMS, whole, jnp.arange(n)[None], jnp.ones((1, n), jnp.int32)))[0]
        np.testing.assert_allclose(np.stack([s[row] for s in steps]), full[len(prompt) - 1 :], atol=2e-5)


def test_a_full_row_of_a_cache_stays_as_it_is():
    laid = MODEL.lay_out(PARAMS)
    cache = MODEL.cache(2, 3)._replace(lengths=jnp.asarray([3, 1]))
    _, after = jax.jit(MODEL.decode)(laid, jnp.asarray([5, 6]), cache)
    assert all((x[0] == 0).all() and bool((x[1, :, 1] != 0).any()) for x in (*after.k, *after.v))


def test_remat_changes_no_gradient_and_holds_fewer_activations():
    tokens = jnp.asarray(some_tokens(64))[None]
    ones = jnp.ones_like(tokens)

    def gradient(remat):
        model = models.build(dataclasses.replace(CONFIG, n_layers=6, remat=remat))
        params = jax.tree.map(lambda x: x * 5.0, model.init(jax.random.key(0)))
        grad = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, tokens, jnp.arange(64)[None], ones) ** 3)))
        compiled = grad.lower(params).compile()
        return compiled(params), compiled.memory_analysis().temp_size_in_bytes

    (plain, all_layers), (products, dots), (again, one_layer) = map(gradient, ("none", "dots", "block"))
    for other in (products, again):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * float(jnp.abs(x).max())), plain, other)
    assert one_layer < dots < all_layers
    assert one_layer < 0.6 * all_layers


def test_older_configs_say_remat_by_true_and_false():
    asked = dataclasses.asdict(CONFIG)
    for old, new in ((True, "block"), (False, "none")):
        assert models.ModelConfig.from_json({**asked, "remat": old}).remat == new
    with pytest.raises(ValueError, match="remat must be none, dots or block, found 'all'"):
        dataclasses.replace(CONFIG, remat="all")


def test_bfloat16_computes_in_it_and_keeps_weights_and_logits_in_float32():
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    model = models.build(config)
    params = model.init(jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert {x.dtype for x in model.cache(1, 4).k} == {jnp.dtype("bfloat16")}
    tokens = jnp.asarray(some_tokens(6))[None]
    hidden = jax.eval_shape(model.apply, PARAMS, tokens, jnp.arange(6)[None], jnp.ones_like(tokens))
    assert hidden.dtype == jnp.bfloat16
    got = logits(config, PARAMS, tokens, jnp.ones((1, 6), bool))
    assert got.dtype == jnp.float32
    want = logits(CONFIG, PARAMS, tokens, jnp.ones((1, 6), bool))
    np.testing.assert_allclose(got, want, atol=0.05 * float(jnp.abs(want).max()))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d_model": 0}, "ModelConfig.d_model must be at least 1, found 0"),
        ({"n_layers": -1}, "n_layers"),
        ({"n_heads": 4, "n_kv_heads": 3}, "n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"head_dim": 5}, "head_dim must be even where all of it is rotated, found 5"),
        ({"rope_fraction": 1.5}, "rope_fraction must lie in"),
        ({"compute_dtype": "float16"}, "float16"),
    ],
)
def test_a_config_that_does_not_fit_together_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(CONFIG, **changes)
