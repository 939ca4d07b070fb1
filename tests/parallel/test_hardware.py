"""Hardware by name: the figures of each, and what is said where there is no such name."""

import jax
import pytest

from rlhf_jax import parallel
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.parallel.hardware import hardware, planned_mesh
from rlhf_jax.parallel.topologies import topology


@pytest.mark.parametrize(
    ("name", "devices", "memory", "links", "flops"),
    [
        ("h100x8", 8, 80e9, 450e9, 989e12),
        ("h100x1", 1, 80e9, 450e9, 989e12),
        ("h200x8", 8, 141e9, 450e9, 989e12),
        ("a100x4", 4, 80e9, 300e9, 312e12),
        ("v5e-256", 256, int(15.75 * 2**30), 200e9, 197e12),
        ("v6e-256", 256, int(31.25 * 2**30), 400e9, 918e12),
        ("v5p-128", 64, int(95.74 * 2**30), 600e9, 459e12),  # named by its cores, two a chip
        ("v5e:4x4", 16, int(15.75 * 2**30), 200e9, 197e12),
    ],
)
def test_a_name_gives_what_data_sheets_say(name, devices, memory, links, flops):
    found = hardware(name)
    assert (found.name, found.devices, found.memory, found.links) == (name, devices, memory, links)
    assert found.limits.flops == flops
    assert found.platform == ("gpu" if "x" in name and ":" not in name else "tpu")


@pytest.mark.parametrize("name", ["v5e-256", "v6e-16", "v5p-128", "v6e:4x8"])
def test_a_slice_has_the_same_name_for_plans_and_for_the_compiler(name):
    """``rlhf aot --topology`` and ``rlhf plan --hardware`` mean the same chips."""
    assert hardware(name).topology == topology(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("h100", "h100x8"),
        ("b200x8", "h100x8, h200x8"),
        ("", "v5e-256"),
        ("v7-8", "v5e-256, v6e-256, v5p-128"),
        ("h100x16", "1 to 8 GPUs"),
        ("h100x0", "1 to 8 GPUs"),
        ("v5e-100", "a power of two"),
        ("v5p:4x4", "3 dimensions"),
    ],
)
def test_an_unknown_name_is_answered_with_those_there_are(name, says):
    with pytest.raises(ValueError, match=says):
        hardware(name)


def test_the_mesh_of_devices_that_are_not_there():
    """Shapes on it are divided as arrays would be, and it says what its devices are."""
    mesh = planned_mesh(MeshConfig(data=2, fsdp=16, tensor=2), hardware("v5p-128"))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 16, "tensor": 2}
    assert parallel.platform(mesh) == "tpu"
    table = {"embedding": jax.ShapeDtypeStruct((64, 32), "float32")}
    placed = parallel.shaped(table, parallel.param_shardings(table, mesh))
    assert parallel.device_bytes(placed) == 64 * 32 * 4 / (16 * 2)
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        planned_mesh(MeshConfig(fsdp=3), hardware("h100x8"))
