"""Adapters and 8-bit trunks by numbers worked by hand, and what they must leave as it is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rlhf_jax import models
from rlhf_jax.models import LoRAConfig, ModelConfig
from rlhf_jax.models.layers import Linear

SIZES = {"vocab_size": 24, "d_model": 16, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 4, "d_ff": 24}
CONFIG = ModelConfig(**SIZES)
LORA = LoRAConfig(rank=3, alpha=6.0)
LAYER_NORM = {"norm": "layer", "qkv_bias": True, "out_bias": True, "mlp_bias": True, "gated_mlp": False}
GEMMA = {"norm_offset": 1.0, "norm_after": True, "embedding_scale": 4.0, "activation": "gelu_tanh"}
VARIANTS = {
    "llama": CONFIG,
    "untied": ModelConfig(**SIZES, tie_embeddings=False),
    "mistral": ModelConfig(**SIZES, sliding_window=3),
    "qwen2": ModelConfig(**SIZES, qkv_bias=True),
    "qwen3": ModelConfig(**SIZES, qk_norm="head"),
    "olmo2": ModelConfig(**SIZES, norm_before=False, norm_after=True, qk_norm="all"),
    "gemma2": ModelConfig(
        **SIZES, **GEMMA, attention_softcap=5.0, logit_softcap=5.0, sliding_window=3, local_layers=(True, False)
    ),
    "gemma3": ModelConfig(**SIZES, **GEMMA, qk_norm="head", sliding_window=3, local_rope_theta=100.0),
    "gpt2": ModelConfig(**{**SIZES, "n_kv_heads": 4}, **LAYER_NORM, positions="learned", max_length=16),
    "neox": ModelConfig(**{**SIZES, "n_kv_heads": 4}, **LAYER_NORM, parallel_residual=True, rope_fraction=0.5),
    "reward": ModelConfig(**SIZES, scalar_head=True),
    "remat": ModelConfig(**SIZES, remat="block"),
}
TOKENS = jnp.asarray(np.random.default_rng(0).integers(3, 24, (2, 9)))
MASK = jnp.ones((2, 9), bool)
logits = jax.jit(models.logits, static_argnums=0)


def random_like(tree, seed, size):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * size, jnp.float32), tree)


def trunk_of(config):
    """Random weights, large enough that everything matters."""
    shapes = jax.eval_shape(models.build(config).init, jax.random.key(0))
    return random_like(shapes, 0, 0.3)


def adapted(config, lora=LORA):
    """A model with adapters that are not zero: its trunk, its config, its parameters."""
    params = trunk_of(config)
    adapted_config, fresh = models.add_adapters(config, params, lora, jax.random.key(1))
    own, trunk = models.split(fresh)
    return params, adapted_config, models.join(random_like(own, 1, 0.3), trunk)


def paths(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }


def off(found, expected):
    """The largest difference as a share of the range."""
    return float(jnp.abs(found - expected).max() / jnp.ptp(expected))


def one_matrix(**changes):
    """A matrix of two inputs and three outputs with an adapter of rank 1: W, b, A and B are numbers one can see."""
    config = dataclasses.replace(CONFIG, lora=LoRAConfig(rank=1, alpha=3.0, **changes))
    linear = Linear(config, "blocks/mlp/up", (2, 3), bias=True, scale=1.0, rngs=nnx.Rngs(0))
    linear.kernel = nnx.Param(jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]]))
    linear.bias = nnx.Param(jnp.array([10.0, 20.0, 30.0]))
    linear.lora_a = nnx.Param(jnp.array([[1.0], [-1.0]]))
    linear.lora_b = nnx.Param(jnp.array([[2.0, 0.0, 1.0]]))
    return linear


def test_a_matrix_with_an_adapter_by_hand():
    """x = (1, 2): xW = (1, 2, 0), xA = -1, xAB = (-2, 0, -1), times alpha / r = 3, plus b."""
    got = one_matrix()(jnp.array([[1.0, 2.0]]))
    np.testing.assert_array_equal(got, [[1 - 6 + 10, 2 + 20, 0 - 3 + 30]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_fresh_adapters_change_no_bit_and_share_the_trunk(variant):
    config = VARIANTS[variant]
    params = trunk_of(config)
    adapted_config, fresh = models.add_adapters(config, params, LORA, jax.random.key(1))
    np.testing.assert_array_equal(logits(adapted_config, fresh, TOKENS, MASK), logits(config, params, TOKENS, MASK))
    matrices = {p.removesuffix("/kernel") for p in paths(params["blocks"]) if p.endswith("kernel")}
    assert paths(fresh["blocks"]) - paths(params["blocks"]) == {
        f"{m}/{x}" for m in matrices for x in ("lora_a", "lora_b")
    }
    _, trunk = models.split(fresh)
    flat = dict(jax.tree_util.tree_leaves_with_path(params))
    shared = jax.tree_util.tree_leaves_with_path(trunk)
    assert len(shared) == len(flat) - (1 if config.scalar_head else 0)  # a head is trained
    assert all(x is flat[path] for path, x in shared)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_adapted_model_is_its_merged_one_and_without_its_adapters_the_trunk(variant):
    config = VARIANTS[variant]
    params, adapted_config, with_adapters = adapted(config)
    plain, changed = logits(config, params, TOKENS, MASK), logits(adapted_config, with_adapters, TOKENS, MASK)
    assert off(changed, plain) > 0.05
    merged_config, merged = models.merge(adapted_config, with_adapters)
    assert merged_config == config
    assert paths(merged) == paths(params)
    assert off(logits(merged_config, merged, TOKENS, MASK), changed) < 1e-5
    without = models.adapter_off(with_adapters)
    np.testing.assert_array_equal(logits(adapted_config, without, TOKENS, MASK), plain)
    assert without["embedding"] is params["embedding"]


@pytest.mark.parametrize("variant", ["llama", "gpt2", "reward"])
def test_adapters_on_folded_adapters_are_one_pair_on_the_trunk(variant):
    """The second pair, on other matrices and of another scale, and where both are the sum of both."""
    lower_params, lower_config, lower = adapted(VARIANTS[variant], dataclasses.replace(LORA, targets="query$|up$"))
    config, fresh = models.add_adapters(
        *models.merge(lower_config, lower), LoRAConfig(rank=2, alpha=5.0, targets="up$|out$"), jax.random.key(2)
    )
    own, trunk = models.split(fresh)
    upper = models.join(random_like(own, 3, 0.3), trunk)
    both_config, both = models.concatenate_adapters(config, upper, lower_config, lower)
    chosen = [path for path in paths(both) if path.endswith("lora_a")]
    assert {path.split("/")[-2] for path in chosen} == {"query", "up", "out"}
    assert (both_config.lora.rank, both_config.lora.alpha) == (5, 5.0)
    assert both["embedding"] is lower_params["embedding"]
    want = logits(config, upper, TOKENS, MASK)
    assert off(want, logits(lower_config, lower, TOKENS, MASK)) > 0.05
    assert off(logits(both_config, both, TOKENS, MASK), want) < 1e-5
    if "head" in upper:
        assert both["head"] is upper["head"]


def test_adapters_of_every_layer_are_its_own():
    _, config, params = adapted(CONFIG)
    merged = models.merge(config, params)[1]
    for layer in range(2):
        x = jax.tree.map(lambda x: np.asarray(x[layer], np.float64), params["blocks"]["mlp"]["down"])  # noqa: B023
        expected = x["kernel"] + 6.0 / 3 * x["lora_a"] @ x["lora_b"]
        np.testing.assert_allclose(merged["blocks"]["mlp"]["down"]["kernel"][layer], expected, atol=1e-5)


def test_unmerging_gives_the_trunk_and_the_adapters_back():
    params, config, with_adapters = adapted(CONFIG)
    merged_config, merged = models.merge(config, with_adapters)
    own, _ = models.split(with_adapters)
    again_config, again = models.unmerge(merged_config, merged, LORA, own)
    assert again_config == config
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), again, with_adapters)
    assert all(x is y for x, y in zip(jax.tree.leaves(models.split(again)[0]), jax.tree.leaves(own), strict=True))
    assert again["embedding"] is params["embedding"]
    assert off(logits(again_config, again, TOKENS, MASK), logits(config, with_adapters, TOKENS, MASK)) < 1e-5


def test_merging_and_unmerging_keep_the_trunk_s_type():
    _, config, params = adapted(CONFIG)
    own, trunk = models.split(params)
    half = models.join(own, jax.tree.map(lambda x: x.astype(jnp.bfloat16), trunk))
    merged_config, merged = models.merge(config, half)
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype(jnp.bfloat16)}
    again = models.split(models.unmerge(merged_config, merged, LORA, own)[1])[1]
    assert {x.dtype for x in jax.tree.leaves(again)} == {jnp.dtype(jnp.bfloat16)}


def test_split_and_join_hand_over_the_very_same_arrays():
    _, _, params = adapted(VARIANTS["reward"])
    own, trunk = models.split(params)
    assert {path.split("/")[-1] for path in paths(own) if not path.startswith("head")} == {"lora_a", "lora_b"}
    assert "head/kernel" in paths(own)
    assert not paths(own) & paths(trunk)
    again = models.join(own, trunk)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert all(x is y for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True))
    whole = trunk_of(CONFIG)
    assert models.split(whole) == (whole, {})  # without adapters everything is trained
    assert models.join(whole, {}) is not None
    assert not models.has_adapters(whole)
    assert models.has_adapters(params)


def test_gradients_reach_every_adapter_and_nothing_else():
    _, config, params = adapted(CONFIG)
    own, trunk = models.split(params)

    def loss(own):
        return jnp.mean(models.logits(config, models.join(own, trunk), TOKENS, MASK) ** 2)

    gradient = jax.jit(jax.grad(loss))(own)
    assert paths(gradient) == paths(own)
    assert all(float(jnp.abs(g[layer]).max()) > 0 for g in jax.tree.leaves(gradient) for layer in range(2))
    # At the start B is zero, so that A has no gradient and B has one (Hu et al. 2021).
    fresh, _ = models.split(models.add_adapters(CONFIG, trunk, LORA, jax.random.key(1))[1])
    at_start = jax.jit(jax.grad(loss))(fresh)
    for path, g in jax.tree_util.tree_leaves_with_path(at_start):
        assert (float(jnp.abs(g).max()) > 0) == (path[-1].key == "lora_b"), path


def test_a_gradient_is_the_slope_along_a_direction():
    _, config, params = adapted(CONFIG)
    own, trunk = models.split(params)
    direction = random_like(own, 7, 1.0)

    @jax.jit
    def loss(own):
        return jnp.mean(models.logits(config, models.join(own, trunk), TOKENS, MASK) ** 2)

    dots = jax.tree.map(lambda g, d: jnp.sum(g * d), jax.grad(loss)(own), direction)
    step = 1e-3
    ahead, behind = (loss(jax.tree.map(lambda x, d: x + s * d, own, direction)) for s in (step, -step))  # noqa: B023
    assert float(sum(jax.tree.leaves(dots))) == pytest.approx(float((ahead - behind) / (2 * step)), rel=2e-2)


# ---- which matrices -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "chosen"),
    [
        (r"query$", {"attention/query"}),
        (r"attention/(query|value)$", {"attention/query", "attention/value"}),
        (r"^blocks/mlp/", {"mlp/gate", "mlp/up", "mlp/down"}),
        (r"up", {"mlp/up"}),
    ],
)
def test_targets_choose_matrices_by_their_paths(targets, chosen):
    config, params = models.add_adapters(
        CONFIG, trunk_of(CONFIG), dataclasses.replace(LORA, targets=targets), jax.random.key(0)
    )
    own = models.split(params)[0]["blocks"]
    assert {path.rsplit("/", 1)[0] for path in paths(own)} == chosen
    # What the config would make is what it has.
    made = jax.eval_shape(models.build(config).init, jax.random.key(0))
    assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda x: x.shape, params)


def test_a_model_that_is_made_with_adapters_starts_like_one_that_got_them():
    config = dataclasses.replace(CONFIG, lora=LORA)
    params = models.build(config).init(jax.random.key(0))
    up = params["blocks"]["mlp"]["up"]
    np.testing.assert_array_equal(up["lora_b"], jnp.zeros((2, 3, 24)))
    added = models.add_adapters(CONFIG, trunk_of(CONFIG), dataclasses.replace(LORA, rank=64), jax.random.key(0))[1]
    for a in (up["lora_a"], added["blocks"]["mlp"]["up"]["lora_a"]):
        assert float(jnp.std(a)) == pytest.approx(16**-0.5, rel=0.2)  # variance 1 / inputs
    layers = added["blocks"]["mlp"]["up"]["lora_a"]
    assert not np.array_equal(layers[0], layers[1])
    assert not np.array_equal(layers, added["blocks"]["mlp"]["gate"]["lora_a"])


def test_adapters_that_cannot_be_are_refused():
    params = trunk_of(CONFIG)
    key = jax.random.key(0)
    with pytest.raises(
        ValueError, match=r"'c_attn' matches none of the matrices: .*blocks/attention/query.*blocks/mlp/up"
    ):
        models.add_adapters(CONFIG, params, dataclasses.replace(LORA, targets="c_attn"), key)
    with pytest.raises(ValueError, match=r"lora.rank is 0"):
        models.add_adapters(CONFIG, params, LoRAConfig(), key)
    config, with_adapters = models.add_adapters(CONFIG, params, LORA, key)
    with pytest.raises(ValueError, match="has adapters already"):
        models.add_adapters(config, with_adapters, LORA, key)
    with pytest.raises(ValueError, match="before it gets adapters"):
        models.quantise(config, with_adapters)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": -1}, "lora.rank must be 0"),
        ({"alpha": 0.0}, "lora.alpha must be positive"),
        ({"dropout": 1.0}, r"lora.dropout must lie in \[0, 1\)"),
        ({"targets": "("}, "lora.targets '\\(' is not a regular expression"),
    ],
)
def test_a_lora_config_that_cannot_be_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(LORA, **changes)


def test_a_config_with_adapters_survives_json():
    config = dataclasses.replace(CONFIG, lora=dataclasses.replace(LORA, dropout=0.1), int8=True)
    assert ModelConfig.from_json(dataclasses.asdict(config)) == config


# ---- dropout --------------------------------------------------------------------------------------------------------


def test_dropout_of_one_matrix_by_hand_and_on_average():
    """Each input of (1, 2) is dropped or doubled: xA is 0, 2, -4 or -2, as often each, and -1 on average."""
    linear = one_matrix(dropout=0.5)
    x = jnp.array([[1.0, 2.0]])
    plain = np.array([11.0, 22.0, 30.0])
    each = np.asarray(jax.vmap(lambda key: linear(x, key)[0])(jax.random.split(jax.random.key(0), 4000)))
    np.testing.assert_array_equal(each[:, 1], 22.0)  # B is zero there
    low = (each[:, 0] - plain[0]) / (2.0 * 3.0)
    np.testing.assert_array_equal(np.unique(low.round(5)), [-4, -2, 0, 2])
    np.testing.assert_allclose((each - plain)[:, 2], 3.0 * low, atol=1e-4)  # one mask for all outputs
    assert low.mean() == pytest.approx(-1.0, abs=4 * low.std() / 4000**0.5)
    np.testing.assert_array_equal(linear(x)[0], [5.0, 22.0, 27.0])  # without a key there is none


@functools.partial(jax.jit, static_argnums=0)
def hidden(config, params, key=None):
    positions = jnp.broadcast_to(jnp.arange(9), TOKENS.shape)
    return models.build(config).apply(params, TOKENS, positions, MASK.astype(jnp.int32), key)


@pytest.mark.parametrize("variant", ["remat", "neox"])
def test_dropout_follows_its_key_and_needs_one(variant):
    config = VARIANTS[variant]
    _, adapted_config, params = adapted(config, dataclasses.replace(LORA, dropout=0.5))
    one, again, other = (hidden(adapted_config, params, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert off(one, other) > 0.01
    undropped = dataclasses.replace(adapted_config, lora=LORA)
    np.testing.assert_array_equal(hidden(adapted_config, params), hidden(undropped, params))
    np.testing.assert_array_equal(hidden(undropped, params, jax.random.key(1)), hidden(undropped, params))


def test_matrices_and_layers_drop_inputs_of_their_own():
    """Query, key and value read the same; with one mask for all of them they would be dropped together."""
    config = dataclasses.replace(CONFIG, lora=dataclasses.replace(LORA, dropout=0.5))
    key, x = jax.random.key(0), jnp.ones((1, 64))
    masks = []
    for name in ("query", "key", "value"):
        linear = Linear(config, f"blocks/attention/{name}", (64, 1), bias=False, scale=0.0, rngs=nnx.Rngs(0))
        linear.lora_b = nnx.Param(jnp.ones((3, 1)))
        masks.append(float(linear(x, key)[0, 0]))
        linear.path = "blocks/attention/query"
        masks.append(float(linear(x, key)[0, 0]))
    own, as_query = masks[::2], masks[1::2]
    assert len(set(own)) == 3
    assert len(set(as_query)) == 1


# ---- eight bits -----------------------------------------------------------------------------------------------------


def with_kernel(kernel):
    """A model's parameters with these numbers, [1, in, out], as its only matrix."""
    return {"blocks": {"mlp": {"up": {"kernel": jnp.asarray(kernel, jnp.float32)}}}}


def test_rounding_to_eight_bits_by_hand():
    """A scale for each output, max / 127: 1.27 -> 0.01, 254 -> 2; a column of zeros stays zero."""
    config, params = models.quantise(
        CONFIG, with_kernel([[[1.27, 1.0, 0.0], [-0.504, -254.0, 0.0], [0.012, 2.9, 0.0]]])
    )
    up = params["blocks"]["mlp"]["up"]
    assert config.int8
    assert up["kernel"].dtype == jnp.int8
    np.testing.assert_allclose(up["kernel_scale"][0, :2], [0.01, 2.0], rtol=1e-6)
    # 1.0 / 2 and 2.9 / 2 are rounded to the nearest whole number, halves to the even one.
    np.testing.assert_array_equal(up["kernel"][0], [[127, 0, 0], [-50, -127, 0], [1, 1, 0]])
    merged_config, merged = models.merge(config, params)
    assert not merged_config.int8
    got = merged["blocks"]["mlp"]["up"]
    assert set(got) == {"kernel"}
    assert got["kernel"].dtype == jnp.float32
    np.testing.assert_allclose(got["kernel"][0], [[1.27, 0, 0], [-0.5, -254, 0], [0.01, 2, 0]], rtol=1e-6)


def test_no_entry_is_off_by_more_than_half_a_step():
    params = trunk_of(CONFIG)
    _, small = models.quantise(CONFIG, params)
    off_by_most = 0.0
    for part in ("attention", "mlp"):
        for name, leaves in small["blocks"][part].items():
            scale = leaves["kernel_scale"][:, None, :]
            error = jnp.abs(params["blocks"][part][name]["kernel"] - leaves["kernel"] * scale) / scale
            assert float(error.max()) <= 0.5 + 1e-4
            assert int(jnp.abs(leaves["kernel"]).max()) == 127
            off_by_most = max(off_by_most, float(error.max()))
    assert off_by_most > 0.45
    untouched = ("embedding", "final_norm")
    assert all(small[name] is params[name] for name in untouched)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_an_eight_bit_trunk_are_close_and_those_of_its_rounded_weights(variant):
    config = VARIANTS[variant]
    params = trunk_of(config)
    small_config, small = models.quantise(config, params)
    found = logits(small_config, small, TOKENS, MASK)
    error = off(found, logits(config, params, TOKENS, MASK))
    print(f"{variant}: off by {error:.2%} of the range")
    assert 1e-4 < error < 0.05
    assert off(found, logits(*models.merge(small_config, small), TOKENS, MASK)) < 1e-5


def test_adapters_on_an_eight_bit_trunk_learn_and_merge():
    small_config, small = models.quantise(CONFIG, trunk_of(CONFIG))
    config, params = models.add_adapters(small_config, small, LORA, jax.random.key(1))
    assert config.int8
    own, trunk = models.split(params)
    assert "kernel_scale" in {path.split("/")[-1] for path in paths(trunk)}

    @jax.jit
    @jax.value_and_grad
    def loss(own):
        z = models.logits(config, models.join(own, trunk), TOKENS[:, :-1], MASK[:, :-1])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), TOKENS[:, 1:, None], axis=-1))

    rule = optax.adam(0.1)
    state, losses = rule.init(own), []
    for _ in range(30):
        value, gradient = loss(own)
        losses.append(float(value))
        change, state = rule.update(gradient, state)
        own = optax.apply_updates(own, change)
    assert losses[-1] < losses[0] - 0.5
    params = models.join(own, trunk)
    merged_config, merged = models.merge(config, params)
    assert merged_config == CONFIG
    assert {x.dtype for x in jax.tree.leaves(merged)} == {jnp.dtype("float32")}
    assert off(logits(merged_config, merged, TOKENS, MASK), logits(config, params, TOKENS, MASK)) < 1e-5


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("variant", ["llama", "gpt2", "qwen2"])
def test_bfloat16_streams_stay_bfloat16_beside_float32_biases_scales_and_adapters(variant, int8):
    config = dataclasses.replace(VARIANTS[variant], compute_dtype="bfloat16")
    params = trunk_of(config)
    expected = logits(dataclasses.replace(config, compute_dtype="float32"), params, TOKENS, MASK)
    if int8:
        config, params = models.quantise(config, params)
    config, params = models.add_adapters(config, params, LORA, jax.random.key(1))
    assert hidden(config, params).dtype == jnp.bfloat16
    assert off(logits(config, params, TOKENS, MASK), expected) < 0.1


@pytest.mark.parametrize("changes", [{"compute_dtype": "float32"}, {"compute_dtype": "bfloat16"}], ids=str)
def test_the_backward_pass_holds_no_matrix_in_another_type(changes):
    """A frozen matrix is turned into the stream's type layer by layer, forward and backward, and never kept so."""
    wide = ModelConfig(**{**SIZES, "n_layers": 8, "d_ff": 4096}, **changes)
    config, params = models.quantise(wide, trunk_of(wide))
    config, params = models.add_adapters(config, params, LoRAConfig(rank=1), jax.random.key(1))
    own, trunk = models.split(params)

    def loss(own, trunk):
        return jnp.mean(models.logits(config, models.join(own, trunk), TOKENS[:1, :2], MASK[:1, :2]) ** 2)

    temporary = jax.jit(jax.grad(loss)).lower(own, trunk).compile().memory_analysis().temp_size_in_bytes
    matrices = sum(x.size for x in jax.tree.leaves(trunk["blocks"]) if x.dtype == jnp.int8)
    assert temporary < 3 * matrices  # bytes; all of them in 32 bits would take 4 each


# ---- ensembles ------------------------------------------------------------------------------------------------------


def test_members_are_mapped_over_and_their_trunk_is_not():
    config, params = models.add_adapters(VARIANTS["reward"], trunk_of(VARIANTS["reward"]), LORA, jax.random.key(1))
    own, trunk = models.split(params)
    drawn = [random_like(own, seed, 0.3) for seed in range(3)]
    stacked = models.join(jax.tree.map(lambda *x: jnp.stack(x), *drawn), trunk)
    assert models.members(stacked) == 3
    axes = models.member_axes(stacked)
    assert axes["blocks"]["mlp"]["up"] == {"kernel": None, "lora_a": 0, "lora_b": 0}
    assert axes["head"] == {"kernel": 0}
    each = jax.vmap(lambda p: models.logits(config, p, TOKENS, MASK), (axes,))(stacked)
    for seed in range(3):
        alone = logits(config, models.join(drawn[seed], trunk), TOKENS, MASK)
        np.testing.assert_allclose(each[seed], alone, atol=1e-5 * float(jnp.ptp(alone)))


def test_a_head_on_an_adapted_model_shares_its_trunk_and_copies_its_adapters():
    params, _, with_adapters = adapted(CONFIG)
    on_top = models.with_scalar_head(with_adapters, CONFIG)
    own, trunk = models.split(on_top)
    assert all(x is y for x, y in zip(jax.tree.leaves(trunk), jax.tree.leaves(params), strict=True))
    up, before = on_top["blocks"]["mlp"]["up"], with_adapters["blocks"]["mlp"]["up"]
    assert up["lora_a"] is not before["lora_a"]  # it will be donated
    np.testing.assert_array_equal(up["lora_a"], before["lora_a"])
    np.testing.assert_array_equal(own["head"]["kernel"], jnp.zeros((16, 1)))
