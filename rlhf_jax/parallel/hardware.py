"""Hardware by name, for plans: how many devices, what each holds, computes, reads and sends. None of it need be there.

A node of GPUs has its kind and their number, ``h100x8``; a TPU slice has the names that ``topologies`` knows.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from rlhf_jax.parallel.limits import Limits, known
from rlhf_jax.parallel.mesh import AXES, MeshConfig
from rlhf_jax.parallel.topologies import CHIPS, Topology, topology

# Devices that NVLink joins in one node. What joins several nodes differs from site to site, so they have no name here.
NODE = 8


class GPU(NamedTuple):
    """One kind of GPU in a node."""

    kind: str  # as ``jax.Device.device_kind`` begins
    memory: int  # bytes
    links: float  # bytes a second that a GPU sends over NVLink: half of the bidirectional figure


# NVIDIA data sheets, SXM: memory, NVLink 3 (A100) and NVLink 4 (H100, H200).
GPUS = {
    "a100": GPU("NVIDIA A100-SXM4-80GB", 80 * 10**9, 300e9),
    "h100": GPU("NVIDIA H100 80GB HBM3", 80 * 10**9, 450e9),
    "h200": GPU("NVIDIA H200", 141 * 10**9, 450e9),
}


class Hardware(NamedTuple):
    """Devices of one kind, joined by links."""

    name: str
    kind: str  # as ``jax.Device.device_kind`` says it
    platform: str  # gpu or tpu
    devices: int
    memory: int  # bytes of a device
    limits: Limits  # what a device can do
    links: float  # bytes a second that a device sends, over all of its links together
    topology: Topology | None  # a TPU slice's, for which programs can be compiled


def hardware(name: str) -> Hardware:
    """Find hardware by its name.

    Args:
        name: ``h100x8``, ``h200x8``, ``a100x8`` or fewer of a node's GPUs, ``h100x1``; or a TPU slice as ``topology``
            names it, ``v5e-256``, ``v5p-128``, ``v6e-256``, ``v5e:4x4``.

    Raises:
        ValueError: there is no such name; the message says which there are.

    Example:
        >>> found = hardware("h100x8")
        >>> found.devices, found.memory // 10**9, found.links / 1e9
        (8, 80, 450.0)
        >>> hardware("v5p-128").devices
        64
    """
    node = re.fullmatch(r"([a-z]+\d+)x(\d+)", name)
    if node and node.group(1) in GPUS:
        return _node(name, node.group(1), int(node.group(2)))
    if not re.match(rf"({'|'.join(CHIPS)})[:-]", name):
        raise ValueError(
            f"hardware {name!r}: expected GPUs of a node, such as {', '.join(f'{gpu}x{NODE}' for gpu in GPUS)} or "
            f"h100x1, or a TPU slice, such as v5e-256, v6e-256, v5p-128 or v5e:4x4"
        )
    found = topology(name)
    kind = found.chip.kind
    return Hardware(name, kind, "tpu", found.chips, found.chip.memory, _limits(kind), found.chip.links, found)


def _node(name: str, gpu: str, count: int) -> Hardware:
    if not 1 <= count <= NODE:
        raise ValueError(
            f"hardware {name!r}: a node has 1 to {NODE} GPUs that NVLink joins; what joins several nodes is not known "
            "here"
        )
    found = GPUS[gpu]
    return Hardware(name, found.kind, "gpu", count, found.memory, _limits(found.kind), found.links, None)


def _limits(kind: str) -> Limits:
    found = known(kind)
    if found is None:
        raise ValueError(f"{kind} is missing from parallel.limits.TABLE")
    return found


def planned_mesh(config: MeshConfig, wanted: Hardware) -> AbstractMesh:
    """Make the mesh ``data x fsdp x tensor`` of devices that need not be there, for shapes with shardings.

    Args:
        config: sizes of the axes.
        wanted: the devices.

    Returns:
        A mesh that knows its kind of device, so that what is sized by the platform is sized for that one.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.

    Example:
        >>> mesh = planned_mesh(MeshConfig(fsdp=8), hardware("h100x8"))
        >>> mesh.shape_tuple, mesh.abstract_device.platform
        ((('data', 1), ('fsdp', 8), ('tensor', 1)), 'gpu')
    """
    device = AbstractDevice(wanted.kind, None, wanted.platform)
    kinds = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(config.sizes(wanted.devices), AXES, kinds, abstract_device=device)
