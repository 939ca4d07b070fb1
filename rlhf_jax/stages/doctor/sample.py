"""A sample that is known: a small model writes the same tokens on every device of every kind, or something is wrong.

Weights are sines, so that nothing but arithmetic makes them; products are exact float32 everywhere; and no token is a
close call, which a test holds: with every weight off by 0.3% the tokens are the same.
"""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax import models, parallel, processes, rollout
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.doctor.finding import Finding
from rlhf_jax.types import Params

CONFIG = models.ModelConfig(
    vocab_size=64, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=16, d_ff=64, attention="xla"
)
PROMPT = [5, 17, 42, 9, 33]
LENGTH = 12
KNOWN_TOKENS = (33, 32, 30, 16, 55, 42, 17, 17, 43, 56, 56, 5)
KNOWN_LOGPROBS = (
    *(-2.4215, -2.8911, -4.4907, -3.3114, -2.4337, -2.4449),
    *(-2.8402, -2.4165, -2.4198, -2.4295, -2.4393, -2.8056),
)
TOLERANCE = 1e-3  # float32 rounds to a hundredth of it; products in bfloat16 or TF32 would be beyond it


def weights() -> Params:
    """Make the weights: sines of their indices, in float64 and then rounded, so that they are the same anywhere."""
    shapes = jax.eval_shape(models.build(CONFIG).init, jax.random.key(0))
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    made = []
    for number, (path, leaf) in enumerate(leaves):
        wave = np.sin(np.arange(leaf.size, dtype=np.float64) * (1.618 + number)).reshape(leaf.shape)
        is_norm = "norm" in jax.tree_util.keystr(path)
        made.append((1 + wave / 4 if is_norm else wave / 3).astype(np.float32))
    return jax.tree.unflatten(structure, made)


def draw(params: Params) -> tuple[np.ndarray, np.ndarray]:
    """Sample the known prompt's response once on every device.

    Args:
        params: the policy's.

    Returns:
        Tokens int32 and log-probabilities float32, [devices, length].
    """
    mesh = parallel.make_mesh(parallel.MeshConfig())
    rows = NamedSharding(mesh, PartitionSpec(parallel.BATCH))
    whole = NamedSharding(mesh, PartitionSpec())
    engine = rollout.Engine(models.build(CONFIG), SamplingConfig(max_new_tokens=LENGTH), pad_id=0, eos_id=1)
    with jax.default_matmul_precision("highest"):
        found = engine(
            processes.put(params, whole),
            [PROMPT] * jax.device_count(),
            key=jax.random.key(7, impl="threefry2x32"),
            prompt_ids=np.zeros(jax.device_count(), np.int32),
            occurrence=np.zeros(jax.device_count(), np.int32),  # the same tokens on every device
            sharding=rows,
        )
    tokens, logprobs = processes.fetch((found.tokens, found.logprobs))
    return tokens[:, 0, -LENGTH:], logprobs[:, 0, -LENGTH:]


def known_sample() -> Finding:
    """Compare what every device samples with what is known."""
    tokens, logprobs = draw(weights())
    off = np.abs(logprobs - np.asarray(KNOWN_LOGPROBS)).max(-1)
    wrong = (tokens != np.asarray(KNOWN_TOKENS)).any(-1) | ~(off < TOLERANCE)
    if wrong.any():
        bad = int(np.flatnonzero(wrong)[0])
        device = parallel.make_mesh(parallel.MeshConfig()).devices.flat[bad]
        return Finding(
            "known sample",
            False,
            f"{int(wrong.sum())} of {len(wrong)} devices differ, first {device} of process {device.process_index}: "
            f"tokens {tokens[bad].tolist()}, log-probabilities off by {off[bad]:.2g}",
            "If all differ, jax or jaxlib computes something else than it did: install versions that README names. If "
            "some do, those devices are broken",
        )
    return Finding(
        "known sample", True, f"{LENGTH} tokens on {len(wrong)} devices, log-probabilities within {off.max():.1g}"
    )
