"""Analytic costs against numbers worked by hand, and against the products in the program itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from rlhf_jax import models
from rlhf_jax.models import costs

SIZES = {"vocab_size": 40, "d_model": 12, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "head_dim": 6, "d_ff": 20}


def products(jaxpr):
    """FLOPs of all matrix products in a program; a loop's body counts as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * int(np.prod([shape[axis] for axis in contracted]))
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jaxprs_in_params(equation.params):
            total += times * products(inner)
    return total


def program(config, batch, length, *, train=False):
    model = models.build(config)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens = jnp.zeros((batch, length), jnp.int32)
    positions, segments = jnp.broadcast_to(jnp.arange(length), tokens.shape), jnp.ones_like(tokens)

    def total(params):
        return jnp.sum(model.logits(params, model.apply(params, tokens, positions, segments)))

    return products(jax.make_jaxpr(jax.grad(total) if train else total)(params).jaxpr)


FAMILIES = {
    "llama": {},
    "untied": {"tie_embeddings": False},
    "plain MLP": {"gated_mlp": False, "positions": "learned", "max_length": 16, "norm": "layer"},
    "one head of keys": {"n_kv_heads": 1},
}


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize(("train", "times"), [(False, 1), (True, 3)], ids=["forward", "training"])
def test_they_are_the_products_of_the_program(changes, train, times):
    """A plain program computes all scores, so the half that causal attention could save is added to the count."""
    config = models.ModelConfig(**{**SIZES, **changes})
    batch, length = 5, 8
    count = (costs.train_flops if train else costs.forward_flops)(config, batch * length, length)
    whole = count + times * costs.attention_flops(config, batch * length, length)
    assert program(config, batch, length, train=train) == whole


def test_a_model_of_a_billion_parameters():
    """The shape of Llama-3.2-1B: 973 million parameters in the blocks, 263 million in the tied head."""
    sizes = {"vocab_size": 128_256, "d_model": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "head_dim": 64}
    config = models.ModelConfig(**sizes, d_ff=8192, compute_dtype="bfloat16")
    assert costs.matrix_parameters(config) == 973_078_528
    assert costs.head_parameters(config) == 262_668_288
    # Eight sequences of 1024 tokens: 6 FLOPs a parameter and token, and 3 * 4 * 16 * 2048 * 512 for attention.
    assert costs.train_flops(config, 8 * 1024, 1024) == 8 * 1024 * (6 * 1_235_746_816 + 201_326_592)
    # One step of 256 rows at column 255.5: 2.47 GB of weights, and 32 kB of keys and values for every column.
    step = costs.decode_bytes(config, 256, 255, 1)
    assert step == 2 * 1_235_746_816 + 256 * 255.5 * 32_768


def test_adapters_leave_out_the_gradient_of_the_trunk():
    lora = models.LoRAConfig(rank=2)
    plain, adapted = models.ModelConfig(**SIZES), models.ModelConfig(**SIZES, lora=lora)
    trunk, head = costs.matrix_parameters(plain), costs.head_parameters(plain)
    own = costs.adapter_parameters(adapted)
    # Queries and out 12 + 24, keys and values 12 + 12, three of the MLP 12 + 20; rank 2 and three layers.
    assert own == 2 * 3 * (2 * 36 + 2 * 24 + 3 * 32)
    attention = costs.attention_flops(plain, 16, 8)
    assert costs.train_flops(adapted, 16, 8) == 16 * (4 * (trunk + head) + 6 * own) + 3 * attention


def test_only_what_is_read_is_counted():
    config = models.ModelConfig(**SIZES)
    prompt_only = costs.forward_flops(config, 80, 8, logits=10)
    assert costs.forward_flops(config, 80, 8) - prompt_only == 2 * 70 * costs.head_parameters(config)
    reward = models.ModelConfig(**SIZES, scalar_head=True)
    assert costs.forward_flops(reward, 80, 8) == costs.forward_flops(config, 80, 8, logits=0)


def test_a_window_bounds_what_a_token_sees():
    """Of 8 tokens in a row with a window of 4, the first four see 0.5 to 3.5, as everywhere, and the others 4."""
    seen = [min(t + 0.5, 4) for t in range(8)]
    config = models.ModelConfig(**SIZES, sliding_window=4)
    assert costs.attention_flops(config, 8, 8) == 3 * 4 * 4 * 6 * sum(seen)
    mixed = models.ModelConfig(**SIZES, sliding_window=4, local_layers=(True, False, True))
    everything = costs.attention_flops(models.ModelConfig(**SIZES), 8, 8)
    assert costs.attention_flops(mixed, 8, 8) == (2 * costs.attention_flops(config, 8, 8) + everything) / 3


@pytest.mark.parametrize("prompt", [2, 6])
def test_the_cache_is_read_as_far_as_a_window_reaches(prompt):
    config = models.ModelConfig(**SIZES, sliding_window=4)
    columns = sum(min(prompt + t + 0.5, 4) for t in range(5))
    weights = 5 * 4 * (costs.matrix_parameters(config) + costs.head_parameters(config))
    assert costs.decode_bytes(config, 7, prompt, 5) == weights + 7 * columns * 3 * 2 * 2 * 6 * 4
    body = costs.matrix_parameters(config) + costs.head_parameters(config)
    assert costs.decode_flops(config, 7, prompt, 5) == 7 * (2 * body * 5 + 3 * 4 * 4 * 6 * columns)


def test_8_bits_are_read_as_8_bits():
    config = models.ModelConfig(**SIZES)
    assert costs.decode_bytes(config, 3, 4, 5, weight_size=1, cache_size=1) == costs.decode_bytes(config, 3, 4, 5) / 4
