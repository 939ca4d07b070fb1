import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from rlhf_jax.parallel import MeshConfig, make_mesh


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
    with pytest.raises(ValueError, match=words):
        make_mesh(config)
