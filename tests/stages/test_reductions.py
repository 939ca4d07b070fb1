"""A batch cut into micro-batches of unequal length, on eight devices, gives the gradient of the whole on one."""

import functools

import jax
import numpy as np
import optax
import pytest

from rlhf_jax import losses, parallel, testing, training
from rlhf_jax.stages import make_loss_fn
from rlhf_jax.types import Loss

REDUCTIONS = {
    "token_mean": losses.token_mean,
    "sequence_mean": losses.sequence_mean,
    "sequence_sum": losses.sequence_sum,
    "constant": losses.constant(96),
}
GROUPS, COUNT = 32, 4


@pytest.fixture(scope="module")
def setting():
    roles, params = testing.tiny_models()
    # Half of those weights: at their full size the model itself magnifies float32's rounding to just above 1e-6.
    return {"policy": roles["policy"]}, {"policy": jax.tree.map(lambda x: np.asarray(x) / 2, params["policy"])}


@pytest.fixture(scope="module")
def batch():
    batch = jax.device_get(testing.tiny_batch(groups=GROUPS))
    # Some groups are filler, and not evenly: a denominator of one part must not stand for another's.
    empty = np.isin(np.arange(GROUPS), (3, 9, 10, 11, 12))[:, None, None]
    return batch._replace(mask=batch.mask & ~empty)


def weighted(outputs, batch, *, reduction):
    """Every token at its own rate, so that no symmetry hides a wrong denominator."""
    return Loss(batch.advantages * outputs.logprobs, batch.mask, reduction)


def gradient(setting, batch, reduction, mesh, count):
    """The gradient and the loss that one compiled step has; the optimiser keeps it and moves nothing."""
    roles, params = setting
    optimizer = optax.chain(optax.trace(decay=0.0), optax.scale(0.0))
    state, places = training.init(
        lambda p: p, optimizer, params, shardings=lambda shapes: parallel.param_shardings(shapes, mesh)
    )
    if count > 1:
        batch = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    spread = parallel.batch_shardings(batch, mesh, batch_axis=1 if count > 1 else 0)
    assert spread.tokens.is_fully_replicated == (mesh.shape["data"] * mesh.shape["fsdp"] == 1)
    loss_fn = make_loss_fn(functools.partial(weighted, reduction=reduction), roles)
    step = training.jit_step(training.make_train_step(loss_fn, optimizer, accumulate=count), places, spread, mesh)
    state, metrics = step(state, batch, jax.random.key(0))
    return jax.device_get(state.opt_state[0].trace), training.fetch(metrics)["loss"]


def test_the_micro_batches_are_of_unequal_length(batch):
    counted = np.asarray(batch.mask).reshape(COUNT, -1)
    assert len(set(counted.sum(-1).tolist())) == COUNT
    sequences = np.asarray(batch.mask).any(-1).reshape(COUNT, -1).sum(-1)
    assert len(set(sequences.tolist())) > 1


@pytest.mark.parametrize("name", REDUCTIONS)
def test_micro_batches_on_eight_devices_give_the_gradient_of_one_batch_on_one(setting, batch, name):
    alone = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1])
    eight = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=2, tensor=2))
    want, loss = gradient(setting, batch, REDUCTIONS[name], alone, 1)
    found, same = gradient(setting, batch, REDUCTIONS[name], eight, COUNT)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(want))
    off = max(float(np.abs(g - h).max()) for g, h in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True))
    assert off < 1e-6 * largest
    assert same == pytest.approx(loss, rel=1e-6)
