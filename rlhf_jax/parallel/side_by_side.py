"""Two meshes beside each other: training takes the first devices of a machine, sampling the last."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from rlhf_jax.parallel.mesh import AXES, MeshConfig, MeshError, make_mesh


def side_by_side(
    training: MeshConfig, sampling: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> tuple[Mesh, Mesh]:
    """Cut the devices into a mesh that trains and one that samples, which together use all of them.

    At most one of the two may leave an axis open (-1): the other says how many devices it takes, and the open one has
    the rest.

    Args:
        training: sizes of the mesh of the first devices.
        sampling: sizes of the mesh of the last ones.
        devices: which devices; all of them when not given.

    Returns:
        The mesh that trains and the one that samples; they have no device in common.

    Raises:
        MeshError: both leave an axis open, or the sizes do not use the devices up.

    Example:
        >>> side_by_side(MeshConfig(), MeshConfig(), jax.devices()[:1])
        Traceback (most recent call last):
        ...
        rlhf_jax.parallel.mesh.MeshError: mesh and rollout_mesh both take what the other leaves: give every axis of ...
    """
    chosen = tuple(jax.devices() if devices is None else devices)
    counts = [asked_devices(config) for config in (training, sampling)]
    if counts == [0, 0]:
        raise MeshError(
            "mesh and rollout_mesh both take what the other leaves: give every axis of one of them a size, such as "
            "--rollout-mesh data=4"
        )
    apart = counts[1] or len(chosen) - counts[0]
    if not 0 < apart < len(chosen) or (counts[0] and counts[0] + apart != len(chosen)):
        found = " and ".join(str(count) if count else "the rest" for count in counts)
        raise MeshError(
            f"mesh and rollout_mesh ask for {found} of {len(chosen)} devices: they have none in common and use all of "
            "them together, at least one each; change a size, or leave data=-1 in one of them to take what is left"
        )
    at = len(chosen) - apart
    return make_mesh(training, chosen[:at]), make_mesh(sampling, chosen[at:])


def asked_devices(config: MeshConfig) -> int:
    """Count the devices that the sizes ask for; 0 where an axis is open.

    Example:
        >>> asked_devices(MeshConfig(data=2, tensor=2)), asked_devices(MeshConfig(tensor=2))
        (4, 0)
    """
    sizes = [getattr(config, axis) for axis in AXES]
    return 0 if -1 in sizes else math.prod(sizes)
