"""Where arrays live: the device mesh, and rules from a parameter's path to its place on the mesh."""

from rlhf_jax.parallel.distributed import DistributedError, initialize
from rlhf_jax.parallel.mesh import AXES, MeshConfig, MeshError, described_mesh, make_mesh, platform, traced_on
from rlhf_jax.parallel.offload import bring, park, parked
from rlhf_jax.parallel.partition import (
    BATCH,
    PARAM_RULES,
    Rules,
    axis_size,
    batch_shardings,
    fitting,
    param_shardings,
    path_name,
    put,
    replicated,
    rule_spec,
)
from rlhf_jax.parallel.shapes import are_shapes, device_bytes, made_of, shaped
from rlhf_jax.parallel.side_by_side import asked_devices, side_by_side
from rlhf_jax.processes import BarrierError, barrier

__all__ = [
    "AXES",
    "BATCH",
    "PARAM_RULES",
    "BarrierError",
    "DistributedError",
    "MeshConfig",
    "MeshError",
    "Rules",
    "are_shapes",
    "asked_devices",
    "axis_size",
    "barrier",
    "batch_shardings",
    "bring",
    "described_mesh",
    "device_bytes",
    "fitting",
    "initialize",
    "made_of",
    "make_mesh",
    "param_shardings",
    "park",
    "parked",
    "path_name",
    "platform",
    "put",
    "replicated",
    "rule_spec",
    "shaped",
    "side_by_side",
    "traced_on",
]
