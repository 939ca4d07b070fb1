"""``arrays_of``: the list of a stage's arrays."""

from __future__ import annotations

from typing import Any

from jax.sharding import AbstractMesh, Mesh

from rlhf_jax import parallel
from rlhf_jax.models import ModelConfig
from rlhf_jax.stages.ahead.online import online_work
from rlhf_jax.stages.config import PackedConfig
from rlhf_jax.stages.inspect.arrays import Arrays
from rlhf_jax.stages.inspect.lister import Lister
from rlhf_jax.stages.inspect.online import list_online
from rlhf_jax.stages.inspect.packed import list_packed
from rlhf_jax.stages.online.config import OnlineConfig


def arrays_of(
    stage: str, config: PackedConfig | OnlineConfig, *, mesh: Mesh | AbstractMesh, sizes: ModelConfig | None = None
) -> Arrays:
    """List what a stage holds on its devices: models, optimiser, and the arrays of a step or an iteration.

    Parameters, optimiser and batches lie as ``parallel`` places them, the cache and logits as the model asks for.
    Activations and gradients are the compiler's and are left out, and so is pretraining text beside PPO.

    Args:
        stage: ``sft``, ``reward``, ``preference``, ``ppo`` or ``group``.
        config: the stage's; batches are full, and responses as long as they may be.
        mesh: devices, of this machine or of a topology, or a description of them (``parallel.described_mesh``).
        sizes: those of the models; by default the quickstart's, and for SFT ``config.model``.

    Returns:
        The arrays, in groups.
    """
    devices: Any = mesh  # a description is enough for shapes
    lister = Lister(devices)
    if isinstance(config, PackedConfig):
        list_packed(config, sizes, lister)
    else:
        list_online(online_work(config, sizes or ModelConfig(), devices), lister)
    return Arrays(stage=stage, mesh=dict(mesh.shape), platform=parallel.platform(mesh), arrays=tuple(lister.arrays))
