"""The device mesh: three axes, always the same, so that a script for one device is a script for a pod."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar, TypeVarTuple

import jax
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh

from rlhf_jax.fields import check_fields

AXES = ("data", "fsdp", "tensor")

Args = TypeVarTuple("Args")
R = TypeVar("R")


class MeshError(ValueError):
    """A mesh that cannot be: the text names no such axes, or the sizes do not fit the devices."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How many devices lie along each axis of the mesh.

    Args:
        data: copies of the model, each on its own share of the batch; -1 takes all the devices that are left.
        fsdp: devices that share one copy of the parameters (split along the embedding) and split the batch as well.
        tensor: devices that share the heads, the MLP and the vocabulary.

    Example:
        >>> MeshConfig(fsdp=2).sizes(8)
        (4, 2, 1)
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        try:
            check_fields(self)
        except ValueError as error:
            raise MeshError(f"mesh: {error}") from error

    @classmethod
    def parse(cls, text: str) -> MeshConfig:
        """Read the sizes from one text, as ``--mesh`` gives it.

        Args:
            text: ``AXIS=SIZE`` with commas between; an axis that is left out has its default, so that ``data`` takes
                what the others leave.

        Returns:
            The config; whether it fits the devices is seen once their number is known.

        Raises:
            MeshError: an axis is unknown or comes twice, or a size is no number that an axis can have.

        Example:
            >>> MeshConfig.parse("data=2,fsdp=2,tensor=2")
            MeshConfig(data=2, fsdp=2, tensor=2)
            >>> MeshConfig.parse("tensor=4").sizes(8)
            (2, 1, 4)
            >>> MeshConfig.parse("sequence=2")
            Traceback (most recent call last):
            ...
            rlhf_jax.parallel.mesh.MeshError: mesh sequence=2: no axis is called 'sequence'; they are data, fsdp, tensor
        """
        given: dict[str, int] = {}
        for part in text.split(","):
            name, equals, size = (word.strip() for word in part.partition("="))
            if not equals:
                raise MeshError(f"mesh {text}: expected AXIS=SIZE with commas between, found {part!r}")
            if name not in AXES:
                raise MeshError(f"mesh {text}: no axis is called {name!r}; they are {', '.join(AXES)}")
            if name in given:
                raise MeshError(f"mesh {text}: {name} is given twice")
            if size != "-1" and (not size.isdecimal() or int(size) < 1):
                wanted = "a whole number from 1, or -1 for what is left"
                raise MeshError(f"mesh {text}: {name} takes {wanted}; found {size!r}")
            given[name] = int(size)
        return cls(**given)

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """Compute the size of each axis on so many devices.

        Args:
            devices: number of devices that the mesh must use up.

        Returns:
            Sizes of data, fsdp and tensor; their product is ``devices``.

        Raises:
            MeshError: a size is not a positive number (or -1, once), or the sizes do not multiply to ``devices``.

        Example:
            >>> MeshConfig(data=2, fsdp=-1, tensor=2).sizes(8)
            (2, 2, 2)
            >>> MeshConfig(fsdp=3).sizes(8)
            Traceback (most recent call last):
            ...
            rlhf_jax.parallel.mesh.MeshError: mesh data=-1, fsdp=3, tensor=1 does not fit 8 devices: ...
        """
        given = {name: getattr(self, name) for name in AXES}
        said = ", ".join(f"{name}={size}" for name, size in given.items())
        free = [name for name, size in given.items() if size == -1]
        if len(free) > 1 or any(size < 1 for size in given.values() if size != -1):
            raise MeshError(f"mesh {said}: every size must be at least 1, and at most one may be -1 (all that is left)")
        fixed = math.prod(size for size in given.values() if size != -1)
        if devices % fixed or (not free and devices != fixed):
            why = f"{fixed} does not divide {devices}" if free else f"the sizes multiply to {fixed}"
            raise MeshError(
                f"mesh {said} does not fit {devices} devices: {why}; "
                "change a size, or leave data=-1 to take what is left"
            )
        if free:
            given[free[0]] = devices // fixed
        return given["data"], given["fsdp"], given["tensor"]


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make the mesh ``data x fsdp x tensor`` over the devices.

    Args:
        config: sizes of the axes.
        devices: which devices; all of them when not given.

    Returns:
        A mesh whose axes are of type Auto: the compiler places what lies between the given shardings.

    Raises:
        MeshError: the sizes do not multiply to the number of devices.

    Example:
        >>> import jax
        >>> make_mesh(MeshConfig(), jax.devices()[:1]).shape_tuple
        (('data', 1), ('fsdp', 1), ('tensor', 1))
    """
    chosen = tuple(jax.devices() if devices is None else devices)
    sizes = config.sizes(len(chosen))
    # Auto is written out because jax.make_mesh makes Explicit axes since 0.9, under which gathers from a
    # vocabulary-sharded embedding raise.
    kinds = (AxisType.Auto,) * len(AXES)
    slices = len({_slice(device) for device in chosen})
    if slices > 1:
        return Mesh(across_slices(sizes, chosen, slices), AXES, axis_types=kinds)
    return jax.make_mesh(sizes, AXES, axis_types=kinds, devices=chosen)


def across_slices(sizes: tuple[int, int, int], devices: Sequence[jax.Device], slices: int) -> np.ndarray:
    """Arrange the devices of several slices so that only ``data`` goes from one slice to another.

    Between slices there is the network of the data centre, which is slower than the links inside by an order of
    magnitude or two. Along ``data`` gradients cross it once a step; weights and activations never do.

    Args:
        sizes: devices along data, fsdp and tensor.
        devices: all of them, each with its ``slice_index``.
        slices: how many there are.

    Returns:
        An array [data, fsdp, tensor] of devices.

    Raises:
        MeshError: ``data`` is no multiple of the number of slices.
    """
    data, fsdp, tensor = sizes
    if data % slices:
        raise MeshError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {slices} slices: their copies of the model "
            f"lie along data, so data must be a multiple of {slices}"
        )
    inside, between = (data // slices, fsdp, tensor), (slices, 1, 1)
    return create_hybrid_device_mesh(inside, between, devices, allow_split_physical_axes=True)


def _slice(device: jax.Device) -> int:
    """Number a device's slice; those of one slice, and GPUs and CPUs, have no such number."""
    return device.slice_index if hasattr(device, "slice_index") and device.platform == "tpu" else 0


def described_mesh(config: MeshConfig, devices: int, like: jax.Device | None = None) -> AbstractMesh:
    """Describe the mesh over so many devices, which need not be there: arrays can be laid out on it by their shapes.

    Args:
        config: sizes of the axes.
        devices: how many there are.
        like: a device of the same kind; this machine's first by default.

    Raises:
        MeshError: the sizes do not multiply to the number of devices.

    Example:
        >>> described_mesh(MeshConfig(fsdp=16), 256).shape["data"]
        16
    """
    one = make_mesh(MeshConfig(), (jax.devices() if like is None else [like])[:1])
    kinds = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(
        config.sizes(devices), AXES, axis_types=kinds, abstract_device=one.abstract_mesh.abstract_device
    )


def platform(mesh: Mesh | AbstractMesh) -> str:
    """Name what a mesh's devices are: cpu, gpu or tpu.

    Example:
        >>> platform(described_mesh(MeshConfig(), 256)) == jax.default_backend()
        True
    """
    device = mesh.abstract_mesh.abstract_device
    return jax.default_backend() if device is None else str(device.platform)


def traced_on(mesh: Mesh, function: Callable[[*Args], R]) -> Callable[[*Args], R]:
    """Let a function know the mesh while it is traced: ``jax.jit(traced_on(mesh, function))``.

    Models size what they hold at once by a device's share of the batch, and read the mesh where they do. Nothing is
    done when the compiled program runs.

    Args:
        mesh: the device mesh that the program is for.
        function: what is to be compiled, called by position.

    Returns:
        The function, traced with ``jax.sharding.get_abstract_mesh()`` giving the mesh.

    Example:
        >>> import jax
        >>> mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        >>> traced_on(mesh, lambda: jax.sharding.get_abstract_mesh().shape["data"])()
        1
    """

    @functools.wraps(function)
    def on_mesh(*args: *Args) -> R:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return on_mesh
