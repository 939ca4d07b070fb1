"""Arrays that wait in the host's memory; the CPU backend has memory of that kind too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import ModelConfig, build
from rlhf_jax.parallel import MeshConfig, bring, make_mesh, param_shardings, park, parked, put
from rlhf_jax.runs.loading import place

SIZES = {"vocab_size": 32, "d_model": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "head_dim": 4, "d_ff": 16}


def kinds(tree):
    return {x.sharding.memory_kind for x in jax.tree.leaves(tree)}


@pytest.fixture(params=[(1, 1, 1), (2, 2, 2)], ids=str)
def placed(request):
    data, fsdp, tensor = request.param
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor), jax.devices()[: data * fsdp * tensor])
    params = build(ModelConfig(**SIZES)).init(jax.random.key(0))
    return put(params, param_shardings(params, mesh))


def test_parked_arrays_lie_in_the_hosts_memory_and_come_back_as_they_were(placed):
    waiting = park(placed)
    assert kinds(placed) == {"device"}
    assert kinds(waiting) == {"pinned_host"}
    back = bring(waiting)
    assert jax.tree.map(lambda x: x.sharding, back) == jax.tree.map(lambda x: x.sharding, placed)
    assert jax.tree.map(lambda x: x.sharding, waiting) == parked(jax.tree.map(lambda x: x.sharding, placed))
    for x, y, z in zip(*map(jax.tree.leaves, (placed, waiting, back)), strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(x, z)


def test_what_is_on_the_device_is_not_copied(placed):
    assert all(a is b for a, b in zip(jax.tree.leaves(placed), jax.tree.leaves(bring(placed)), strict=True))


def test_a_program_brings_what_it_reads(placed):
    """Sums of parked weights, in a program that is given another tree beside them which it does not read."""

    @jax.jit
    def total(used, unused):
        used, _ = bring((used, unused))
        return sum(jnp.sum(x) for x in jax.tree.leaves(used))

    expected = float(total(placed, placed))
    assert float(total(park(placed), park(placed))) == pytest.approx(expected, rel=1e-6)


def test_a_trunk_under_adapters_stays_on_the_device():
    """The policy may stand on the very same arrays."""
    from rlhf_jax.models import LoRAConfig, add_adapters, split

    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    config = ModelConfig(**SIZES)
    whole = place(build(config).init(jax.random.key(0)), mesh)
    _, adapted = add_adapters(config, whole, LoRAConfig(rank=2), jax.random.key(1))
    own, trunk = split(place(adapted, mesh, parked=True))
    assert (kinds(own), kinds(trunk)) == ({"pinned_host"}, {"device"})
    assert kinds(place(whole, mesh, parked=True)) == {"pinned_host"}
