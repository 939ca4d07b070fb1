"""Where arrays live: the device mesh, and rules from a parameter's path to its place on the mesh."""

from rlhf_jax.parallel.mesh import AXES, MeshConfig, MeshError, make_mesh, traced_on
from rlhf_jax.parallel.offload import bring, park, parked
from rlhf_jax.parallel.partition import (
    PARAM_RULES,
    Rules,
    batch_shardings,
    param_shardings,
    path_name,
    put,
    replicated,
)
from rlhf_jax.parallel.shapes import are_shapes, device_bytes, made_of, shaped

__all__ = [
    "AXES",
    "PARAM_RULES",
    "MeshConfig",
    "MeshError",
    "Rules",
    "are_shapes",
    "batch_shardings",
    "bring",
    "device_bytes",
    "made_of",
    "make_mesh",
    "param_shardings",
    "park",
    "parked",
    "path_name",
    "put",
    "replicated",
    "shaped",
    "traced_on",
]
