"""The splash kernel, interpreted on the CPU: numbers and gradients of the plain form, on one device and on a mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import models, parallel
from rlhf_jax.models import attention as module
from rlhf_jax.models import splash
from rlhf_jax.models.ambient import on_shares, shares_known
from rlhf_jax.models.attention import attention
from rlhf_jax.models.splash import splash_attention

LENGTH = 200  # filled up to 256
STRUCTURES = {
    "all": {"window": 0, "cap": 0.0},
    "window": {"window": 70, "cap": 0.0},
    "softcap": {"window": 0, "cap": 2.0},
}
interpreted = functools.partial(splash_attention, interpret=True)


def inputs(dtype=jnp.float32, heads=4, kept=2, rows=3):
    """Rows that are packed, padded on the right and padded on the left."""
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (rows, LENGTH, n, 8), dtype) for key, n in zip(keys, (heads, kept, kept), strict=True)
    )
    column = np.arange(LENGTH)
    packed = np.repeat([1, 2, 3, 0], [100, 50, 40, 10])
    segments = np.stack([packed, column < 160, column >= 130])[np.arange(rows) % 3]
    return q, k, v, jnp.asarray(segments, jnp.int32)


def outcome(attend, q, k, v, segments, **structure):
    """What attention gives at real tokens, its gradients, and whether all of it is finite."""
    real = (segments > 0)[..., None, None]

    def value(q, k, v):
        out = attend(q, k, v, segments, scale=0.3, **structure)
        kept = jnp.where(real, out, 0)
        return jnp.sum(kept * jnp.cos(jnp.arange(out.size).reshape(out.shape))).astype(jnp.float32), (kept, out)

    gradients, (kept, out) = jax.jit(jax.grad(value, (0, 1, 2), has_aux=True))(q, k, v)
    assert np.isfinite(np.asarray(out, np.float32)).all()
    return [np.asarray(x, np.float32) for x in (kept, *gradients)]


@pytest.mark.parametrize("how", STRUCTURES)
@pytest.mark.parametrize("heads", [(4, 2), (2, 1)], ids=["grouped", "multi-query"])
def test_the_kernel_equals_the_plain_form_with_its_gradient(how, heads):
    q, k, v, segments = inputs(jnp.float32, *heads)
    want = outcome(attention, q, k, v, segments, **STRUCTURES[how])
    for x, y in zip(outcome(interpreted, q, k, v, segments, **STRUCTURES[how]), want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_rows_of_whole_blocks_are_not_filled_up():
    """Two blocks of 128 tokens, of which the window leaves a part of each to see."""
    q, k, v, segments = (jnp.concatenate([x, x[:, :56]], axis=1) for x in inputs(rows=1))
    want = outcome(attention, q, k, v, jnp.ones_like(segments), window=140)
    for x, y in zip(outcome(interpreted, q, k, v, jnp.ones_like(segments), window=140, cap=0.0), want, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_bfloat16_is_as_near_as_its_rounding():
    q, k, v, segments = inputs(jnp.bfloat16)
    want = outcome(attention, q, k, v, segments, **STRUCTURES["window"])
    for x, y in zip(outcome(interpreted, q, k, v, segments, **STRUCTURES["window"]), want, strict=True):
        np.testing.assert_allclose(x, y, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("rows", "kept", "sizes"),
    [(4, 2, {"data": 2, "fsdp": 2, "tensor": 2}), (3, 1, {"data": 2, "fsdp": 1, "tensor": 4})],
    ids=["rows and heads shared", "neither divides"],
)
def test_on_a_mesh_every_device_has_its_rows_and_heads(rows, kept, sizes):
    mesh = parallel.make_mesh(parallel.MeshConfig(**sizes), jax.devices()[:8])
    q, k, v, segments = inputs(rows=rows, kept=kept)
    met = []

    def attend(q, k, v, segments, **structure):
        def work(*share):
            met.append(share[1].shape)
            return interpreted(*share, **structure)

        return on_shares(work, q, k, v, segments)

    whole = outcome(attention, q, k, v, segments, **STRUCTURES["all"])
    placed = parallel.put((q, k, v, segments), parallel.replicated(mesh))
    shared = parallel.traced_on(mesh, lambda *x: outcome(attend, *x, **STRUCTURES["all"]))(*placed)
    for x, y in zip(shared, whole, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    divided = rows == 4
    assert {shape[0] for shape in met} == {1 if divided else 3}
    assert {shape[2] for shape in met} == {1}


def test_who_shares_the_work_is_known_under_a_mesh_and_inside_shard_map():
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:8])
    found = []

    def look(x):
        found.append(shares_known())
        return x

    def inside(x):
        spec = jax.sharding.PartitionSpec("data")
        return jax.shard_map(look, mesh=mesh, in_specs=spec, out_specs=spec)(x)

    for f in (look, parallel.traced_on(mesh, look), inside):
        jax.eval_shape(f, jnp.zeros(8))
    assert found == [False, True, True]


def test_inside_shard_map_a_device_does_the_share_that_it_is_given():
    mesh = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=1, tensor=1), jax.devices()[:2])
    q, k, v, segments = inputs(rows=2)
    met, spec = [], jax.sharding.PartitionSpec("data")

    def work(q, *others):
        met.append(q.shape[0])
        return q

    given = jax.shard_map(lambda *x: on_shares(work, *x), mesh=mesh, in_specs=(spec,) * 4, out_specs=spec)
    np.testing.assert_array_equal(given(q, k, v, segments), q)
    assert met == [1]


def test_a_model_on_a_tpu_takes_the_kernel_where_rows_fit_it(monkeypatch):
    """The platform is a pretence; the kernel is interpreted. Rows of 100 tokens stay with the plain form."""
    sizes = {"vocab_size": 32, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "d_ff": 16}
    config = models.ModelConfig(**sizes, n_layers=2, sliding_window=70, local_layers=(True, False))
    model, called = models.build(config), []
    params = jax.tree.map(lambda x: x * 5.0, model.init(jax.random.key(0)))
    tokens = jax.random.randint(jax.random.key(1), (2, 128), 0, 32)
    segments = jnp.asarray(np.repeat([[1, 2, 0], [1, 1, 1]], [60, 60, 8], axis=1), jnp.int32)

    def run(model, length):
        positions = jnp.broadcast_to(jnp.arange(length), (2, length))
        hidden = model.apply(params, tokens[:, :length], positions, segments[:, :length])
        return jnp.where((segments[:, :length] > 0)[..., None], hidden, 0)

    want = run(model, 128)
    monkeypatch.setattr(module, "platform", lambda: "tpu")
    monkeypatch.setattr(module, "shares_known", lambda: True)

    def spied(*arrays, **structure):
        called.append(structure["window"])
        return interpreted(*arrays, **structure)

    monkeypatch.setattr(splash, "splash_attention", spied)
    np.testing.assert_allclose(run(model, 128), want, rtol=1e-4, atol=1e-4)
    assert called == [70, 0]
    run(model, 100)
    assert called == [70, 0]
    run(models.build(dataclasses.replace(config, attention="splash")), 100)
    assert called == [70, 0, 70, 0]
