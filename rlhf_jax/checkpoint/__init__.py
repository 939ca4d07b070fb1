"""Checkpoints that can be trusted: atomic, verified leaf by leaf, and bound to the config that made them."""

from rlhf_jax.checkpoint.leaves import tree_sha256
from rlhf_jax.checkpoint.params import load_metadata, load_params, params_digest, save_params
from rlhf_jax.checkpoint.steps import Checkpoints, Restored, differences
from rlhf_jax.checkpoint.stored import StoredLeaf, stored_params
from rlhf_jax.files import CheckpointError

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Restored",
    "StoredLeaf",
    "differences",
    "load_metadata",
    "load_params",
    "params_digest",
    "save_params",
    "stored_params",
    "tree_sha256",
]
