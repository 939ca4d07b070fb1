import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from rlhf_jax.parallel import (
    MeshConfig,
    batch_shardings,
    make_mesh,
    param_shardings,
    put,
    replicated,
)
from rlhf_jax.training import OptimizerConfig, by_role, init, make_optimizer, per_member

L, D, H, F, V, R = 2, 8, 12, 16, 32, 4
MODEL = {
    "embedding": (V, D),
    "blocks": {
        "attention": {
            "query": {"kernel": (L, D, H), "bias": (L, H), "lora_a": (L, D, R), "lora_b": (L, R, H)},
            "key": {"kernel": (L, D, H)},
            "value": {"kernel": (L, D, H)},
            "out": {"kernel": (L, H, D), "kernel_scale": (L, D), "lora_a": (L, H, R), "lora_b": (L, R, D)},
        },
        "mlp": {"gate": {"kernel": (L, D, F)}, "up": {"kernel": (L, D, F)}, "down": {"kernel": (L, F, D)}},
        "attention_norm": {"scale": (L, D), "bias": (L, D)},
        "mlp_norm": {"scale": (L, D)},
    },
    "position_embedding": (H, D),
    "final_norm": {"scale": (D,)},
    "unembedding": (D, V),
    "head": {"kernel": (D, 1)},
}


def make_params(role="policy"):
    return {role: jax.tree.map(jnp.zeros, MODEL, is_leaf=lambda x: isinstance(x, tuple))}


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


def test_every_parameter_has_its_place(mesh):
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): sharding.spec
        for path, sharding in jax.tree_util.tree_flatten_with_path(param_shardings(make_params(), mesh))[0]
    }
    column, row = P(None, "fsdp", "tensor"), P(None, "tensor", "fsdp")
    assert found == {
        "policy/embedding": P("tensor", "fsdp"),
        "policy/unembedding": P("fsdp", "tensor"),
        **{f"policy/blocks/attention/{name}/kernel": column for name in ("query", "key", "value")},
        "policy/blocks/attention/query/bias": P(),
        "policy/blocks/attention/query/lora_a": P(None, "fsdp", None),
        "policy/blocks/attention/query/lora_b": P(None, None, "tensor"),
        "policy/blocks/attention/out/kernel": row,
        "policy/blocks/attention/out/kernel_scale": P(),
        "policy/blocks/attention/out/lora_a": P(None, "tensor", None),
        "policy/blocks/attention/out/lora_b": P(None, None, "fsdp"),
        "policy/blocks/mlp/gate/kernel": column,
        "policy/blocks/mlp/up/kernel": column,
        "policy/blocks/mlp/down/kernel": row,
        "policy/blocks/attention_norm/scale": P(),
        "policy/blocks/attention_norm/bias": P(),
        "policy/blocks/mlp_norm/scale": P(),
        "policy/final_norm/scale": P(),
        "policy/position_embedding": P(None, "fsdp"),
        "policy/head/kernel": P("fsdp", None),
    }


def test_members_of_an_ensemble_are_stacked_on_an_axis_of_their_own(mesh):
    """Each member lies as it would alone; the axis that counts them is whole."""
    alone, stacked = make_params("reward"), jax.tree.map(lambda x: jnp.stack([x] * 3), make_params("reward"))
    one, three = param_shardings(alone, mesh), param_shardings(stacked, mesh, leading=1)
    jax.tree.map(lambda a, b: np.testing.assert_equal(b.spec, P(None, *a.spec)), one, three)
    optimizer = per_member(make_optimizer(OptimizerConfig(learning_rate=1e-3), 10))
    state, places = init(
        lambda p: p, optimizer, stacked, shardings=lambda shapes: param_shardings(shapes, mesh, leading=1)
    )
    assert jax.tree.map(lambda x: x.sharding, state) == places
    up = [
        leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
        if jax.tree_util.keystr(path, simple=True, separator="/").endswith("mlp/up/kernel")
    ]
    assert len(up) == 3  # the parameter and both moments
    assert {leaf.sharding.spec for leaf in up} == {P(None, None, "fsdp", "tensor")}
    assert places.step.spec == P()  # a scalar has no axis of members


def test_optimiser_moments_lie_where_their_parameters_lie(mesh):
    config = OptimizerConfig(learning_rate=1e-3, weight_decay=0.1)
    optimizer = by_role({"policy": make_optimizer(config, 10), "critic": make_optimizer(config, 10)})
    state, shardings = init(
        lambda: {**make_params("policy"), **make_params("critic")},
        optimizer,
        shardings=lambda shapes: param_shardings(shapes, mesh),
    )
    seen = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.opt_state)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("mlp/up/kernel"):
            seen += 1
            assert leaf.sharding.spec == P(None, "fsdp", "tensor"), name
            assert leaf.addressable_shards[0].data.shape == (L, D // 2, F // 2)
    assert seen == 4  # two moments, two roles
    assert jax.tree.map(lambda x: x.sharding, state) == shardings


def test_a_dimension_that_does_not_divide_stays_whole():
    mesh = make_mesh(MeshConfig(data=1, fsdp=8, tensor=1))
    shapes = {"embedding": jax.ShapeDtypeStruct((5, 16), jnp.float32), "head": {"kernel": jnp.zeros((12, 1))}}
    found = param_shardings(shapes, mesh)
    assert found["embedding"].spec == P("tensor", "fsdp")
    assert found["head"]["kernel"].spec == P(None, None)


def test_unknown_parameters_are_named(mesh):
    with pytest.raises(ValueError, match=r"no partition rule matches policy/router of shape \(4, 4\)"):
        param_shardings({"policy": {"router": jnp.zeros((4, 4))}}, mesh)
    with pytest.raises(ValueError, match=r"names 2 dimensions, but embedding has shape \(4,\)"):
        param_shardings({"embedding": jnp.zeros(4)}, mesh)


def test_batches_split_over_data_and_fsdp(mesh):
    batch = {"tokens": np.arange(32).reshape(4, 2, 4), "odd": np.zeros((3, 4)), "count": np.float32(1)}
    shardings = batch_shardings(batch, mesh)
    assert shardings["tokens"].spec == P(("data", "fsdp"))
    assert shardings["odd"].spec == shardings["count"].spec == P()
    placed = put(batch, shardings)
    assert placed["tokens"].addressable_shards[0].data.shape == (1, 2, 4)
    np.testing.assert_array_equal(placed["tokens"], batch["tokens"])

    micro = batch_shardings({"tokens": np.zeros((3, 4, 2, 4))}, mesh, batch_axis=1)["tokens"]
    assert micro.spec == P(None, ("data", "fsdp"))


def test_put_takes_one_sharding_for_all(mesh):
    placed = put({"a": np.ones(3), "b": {"c": np.ones((2, 2))}}, replicated(mesh))
    assert all(x.is_fully_replicated for x in jax.tree.leaves(placed))
    assert placed["a"].sharding.device_set == set(jax.devices())


def test_sharded_sum_is_the_sum():
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    total = jax.jit(lambda x: optax.global_norm(x))(put(x, batch_shardings(x, mesh)))
    np.testing.assert_allclose(total, np.linalg.norm(x), rtol=1e-6)
