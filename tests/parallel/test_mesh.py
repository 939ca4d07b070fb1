import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from rlhf_jax.parallel import MeshConfig, MeshError, make_mesh
from rlhf_jax.parallel.mesh import across_slices


def test_default_puts_all_devices_on_data():
    mesh = make_mesh(MeshConfig())
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3


def test_devices_can_be_chosen():
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[2:6])
    assert sorted(device.id for device in np.ravel(mesh.devices)) == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeshConfig(data=3), "data=3, fsdp=1, tensor=1 does not fit 8 devices: the sizes multiply to 3"),
        (MeshConfig(fsdp=3), "3 does not divide 8"),
        (MeshConfig(data=-1, tensor=-1), "at most one may be -1"),
        (MeshConfig(tensor=0), "every size must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_named(config, words):
    with pytest.raises(MeshError, match=words):
        make_mesh(config)


@pytest.mark.parametrize(
    ("text", "config", "on_eight"),
    [
        ("data=2,fsdp=2,tensor=2", MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 2)),
        ("tensor=4", MeshConfig(tensor=4), (2, 1, 4)),
        ("fsdp=2, data=4", MeshConfig(data=4, fsdp=2), (4, 2, 1)),
        ("data=1,fsdp=-1", MeshConfig(data=1, fsdp=-1), (1, 8, 1)),
    ],
    ids=["all three", "the rest is data", "any order", "the rest is fsdp"],
)
def test_one_text_names_the_axes(text, config, on_eight):
    assert MeshConfig.parse(text) == config
    assert MeshConfig.parse(text).sizes(8) == on_eight


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sequence=2", "no axis is called 'sequence'; they are data, fsdp, tensor"),
        ("data=2,data=4", "data is given twice"),
        ("fsdp=two", "fsdp takes a whole number from 1, or -1 for what is left; found 'two'"),
        ("fsdp=0", "found '0'"),
        ("fsdp=-2", "found '-2'"),
        ("fsdp=", "found ''"),
        ("2,2,2", "expected AXIS=SIZE with commas between, found '2'"),
        ("data=2,", "found ''"),
    ],
)
def test_a_text_that_names_no_mesh_says_why(text, words):
    with pytest.raises(MeshError, match=f"^mesh {text}: .*{words}"):
        MeshConfig.parse(text)


class FakeDevice:
    """A device of one of several slices, which need not be there; chips of TPUs have coordinates besides."""

    platform, device_kind = "cpu", "cpu"

    def __init__(self, number, slice_index):
        self.id, self.slice_index, self.process_index = number, slice_index, number // 4

    def __repr__(self):
        return f"{self.slice_index}:{self.id}"


@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(2, 4, 1), (4, 2, 1), (2, 2, 2), (8, 1, 1)])
def test_the_network_between_slices_carries_data_alone(data, fsdp, tensor):
    devices = [FakeDevice(i, i // 4) for i in range(8)]
    found = across_slices((data, fsdp, tensor), devices, 2)
    assert found.shape == (data, fsdp, tensor)
    assert len({device.id for device in found.flat}) == 8
    for row in found.reshape(data, -1):  # what shares one copy of the weights is one slice's
        assert len({device.slice_index for device in row}) == 1
    assert {device.slice_index for device in found[: data // 2].flat} == {0}


def test_a_mesh_that_would_cut_a_copy_between_slices_is_refused():
    with pytest.raises(MeshError, match=r"data=1, fsdp=8, tensor=1 does not fit 2 slices.*multiple of 2"):
        across_slices((1, 8, 1), [FakeDevice(i, i // 4) for i in range(8)], 2)
