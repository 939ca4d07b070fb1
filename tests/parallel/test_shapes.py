"""Shapes in the place of weights: what is made of them, and how many bytes lie on a device."""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import parallel


def test_shapes_are_made_of_shapes_and_arrays_of_arrays():
    def with_head(tree):
        return {**tree, "head": jnp.zeros((tree["kernel"].shape[0], 1))}

    arrays = {"kernel": jnp.ones((4, 3))}
    assert not parallel.are_shapes(parallel.made_of(with_head, arrays))
    made = parallel.made_of(with_head, jax.eval_shape(lambda: arrays))
    assert parallel.are_shapes(made)
    assert {name: x.shape for name, x in made.items()} == {"kernel": (4, 3), "head": (4, 1)}


def test_what_is_passed_on_keeps_its_place():
    mesh = parallel.make_mesh(parallel.MeshConfig(fsdp=4, tensor=2))
    shape = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    placed = parallel.shaped({"embedding": shape}, parallel.param_shardings({"embedding": shape}, mesh))
    made = parallel.made_of(lambda tree: {**tree, "other": tree["embedding"][:1]}, placed)
    assert made["embedding"].sharding == placed["embedding"].sharding
    assert made["other"].sharding is None


def test_bytes_of_a_device_are_those_of_its_shards():
    mesh = parallel.make_mesh(parallel.MeshConfig(fsdp=4, tensor=2))
    tree = {"embedding": np.ones((8, 16), np.float32), "scale": np.ones(16, np.float32), "odd": np.ones(3, np.int8)}
    rules = (*parallel.PARAM_RULES, (r"odd$", jax.sharding.PartitionSpec()))
    arrays = parallel.put(tree, parallel.param_shardings(tree, mesh, rules))
    on_one = 8 * 16 * 4 // 8 + 16 * 4 + 3
    assert parallel.device_bytes(arrays) == on_one
    assert parallel.device_bytes(parallel.shaped(arrays, jax.tree.map(lambda x: x.sharding, arrays))) == on_one
    held = sum(shard.data.nbytes for x in arrays.values() for shard in x.addressable_shards[:1])
    assert held == on_one
