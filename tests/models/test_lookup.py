"""Looking up an embedding that devices share: the same rows and the same gradient as on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import parallel
from rlhf_jax.models.lookup import look_up
from rlhf_jax.parallel import compiled

TABLE = jax.random.normal(jax.random.key(0), (40, 16))
IDS = jax.random.randint(jax.random.key(1), (8, 6), 0, 40)
WEIGHT = jnp.linspace(0.5, 1.5, 8 * 6 * 16).reshape(8, 6, 16)


def loss(table, ids):
    found = look_up(table, ids, "float32")
    return jnp.sum(WEIGHT * found), found


def on(sizes, ids=IDS):
    mesh = parallel.make_mesh(parallel.MeshConfig(**dict(zip(parallel.AXES, sizes, strict=True))))
    params = {"embedding": TABLE}
    places = parallel.param_shardings(params, mesh)["embedding"], parallel.batch_shardings(ids, mesh)
    program = jax.jit(parallel.traced_on(mesh, jax.grad(loss, has_aux=True)), in_shardings=places)
    inputs = parallel.put((TABLE, ids), places)
    return program.lower(*inputs).compile(), inputs


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)], ids=str)
def test_rows_and_gradient_are_those_of_one_device(sizes):
    program, inputs = on(sizes)
    gradient, rows = program(*inputs)
    np.testing.assert_array_equal(rows, TABLE[IDS])
    want = np.zeros(TABLE.shape, np.float32)
    np.add.at(want, np.asarray(IDS), np.asarray(WEIGHT))
    np.testing.assert_allclose(gradient, want, rtol=1e-6)


def test_devices_that_share_the_width_exchange_parts_for_rows():
    program, _ = on((1, 8, 1))
    found = compiled.read(program.as_text())
    mine = IDS.size * TABLE.shape[1] // 8
    assert {one.kind for one in found.collectives if one.bytes >= 4 * mine} == {"all-to-all"}
    assert all(array.size < TABLE.size for one in found.collectives for array in one.arrays)  # the table stays


def test_rows_that_the_devices_cannot_share_are_looked_up_on_all_of_them():
    mesh = parallel.make_mesh(parallel.MeshConfig(fsdp=8))
    found = jax.jit(parallel.traced_on(mesh, lambda table, ids: look_up(table, ids, "float32")))(TABLE, IDS[:3])
    np.testing.assert_array_equal(found, TABLE[IDS[:3]])
