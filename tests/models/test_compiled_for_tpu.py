"""Attention and a step of training, compiled ahead of time for TPUs: no TPU is needed, and nothing is run."""

import importlib.util
import os
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax import models, parallel
from rlhf_jax.models.ambient import platform, shares_known
from rlhf_jax.models.attention import attention
from rlhf_jax.stages.profile.models import chosen_kernels

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[tpu]'"
)
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1"}
# What libtpu would ask a TPU's host for, and what keeps it from waiting for another process.
SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@pytest.fixture(params=TOPOLOGIES)
def mesh(request, monkeypatch):
    """Four chips that are not there: two shares of rows, two of heads."""
    from jax.experimental import topologies

    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, os.environ.get(name, value))
    chips = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[request.param]).devices
    return parallel.make_mesh(parallel.MeshConfig(data=1, fsdp=2, tensor=2), chips)


def kernels(mesh, function, *arguments):
    """Compile for the mesh, and say which of splash's kernels the program calls."""
    text = jax.jit(parallel.traced_on(mesh, function)).lower(*arguments).compile().as_text()
    calls = [line for line in text.splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    return {name for line in calls for name in re.findall(r"splash_mha_(fwd|dq|dkv)", line)}


@pytest.mark.parametrize("head_dim", [64, 128])
def test_attention_and_its_gradient_are_splash(mesh, head_dim):
    def shaped(heads):
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
        return jax.ShapeDtypeStruct((4, 512, heads, head_dim), jnp.bfloat16, sharding=rows)

    segments = jax.ShapeDtypeStruct((4, 512), jnp.int32, sharding=NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))

    def gradient(*arrays):
        def loss(q, k, v):
            return jnp.sum(attention(q, k, v, arrays[3], scale=0.1, window=200).astype(jnp.float32) ** 2)

        return jax.grad(loss, (0, 1, 2))(*arrays[:3])

    assert kernels(mesh, gradient, shaped(8), shaped(2), shaped(2), segments) == {"fwd", "dq", "dkv"}


@pytest.mark.parametrize("kind", ["auto", "xla"])
def test_a_step_of_training_holds_the_kernels_forward_and_backward(mesh, kind):
    sizes = {"vocab_size": 512, "d_model": 128, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 64}
    model = models.build(models.ModelConfig(**sizes, d_ff=256, compute_dtype="bfloat16", attention=kind))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    where = parallel.param_shardings(shapes, mesh)
    params = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    tokens = jax.ShapeDtypeStruct((4, 256), jnp.int32, sharding=rows)

    def step(params, tokens, segments):
        def loss(params):
            positions = jnp.broadcast_to(jnp.arange(256), (4, 256))
            hidden = model.apply(params, tokens, positions, segments)
            logprobs, _ = model.token_stats(params, hidden[:, :-1], tokens[:, 1:], mask=segments[:, 1:] > 0)
            return -jnp.mean(logprobs)

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda x, g: x - 0.1 * g, params, gradient)

    assert kernels(mesh, step, params, tokens, tokens) == ({"fwd", "dq", "dkv"} if kind == "auto" else set())


def test_the_platform_is_the_topologys(mesh):
    found = []
    parallel.traced_on(mesh, lambda: found.append((platform(), shares_known())))()
    assert found == [("tpu", True)]


def test_a_profile_names_the_kernels_of_the_devices_that_it_is_for(mesh):
    found = chosen_kernels(models.ModelConfig(head_dim=64), 1024, mesh, decodes=True)
    assert found == {"attention": "splash", "compute_dtype": "float32", "decoding": "xla"}
