"""A small stage with everything a real one has; the tests of the loop run it, also as a process to be killed.

python small_run.py FOLDER SECONDS_A_STEP
"""

import functools
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from rlhf_jax.checkpoint import Checkpoints, tree_sha256
from rlhf_jax.parallel import MeshConfig, batch_shardings, make_mesh, param_shardings
from rlhf_jax.training import (
    Interrupted,
    MetricsWriter,
    OptimizerConfig,
    fit,
    init,
    jit_step,
    make_optimizer,
    make_train_step,
)
from rlhf_jax.types import Aux

TOTAL = 24


def loss_fn(params, batch, key):
    noise = 0.01 * jax.random.normal(key, batch["y"].shape)
    error = jnp.tanh(batch["x"] @ params["policy"]["w1"]) @ params["policy"]["w2"] - batch["y"] + noise
    return jnp.sum(jnp.square(error)), Aux(jnp.float32(error.size), {})


def make_batch(step):
    rng = np.random.default_rng([7, step])
    x = rng.normal(size=(16, 8)).astype(np.float32)
    return {"x": x, "y": np.sin(x.sum(axis=1))}


def make_params(key):
    w1, w2 = jax.random.split(key)
    return {"policy": {"w1": 0.3 * jax.random.normal(w1, (8, 32)), "w2": 0.3 * jax.random.normal(w2, (32,))}}


@functools.cache
def build(devices):
    """The first state, the step and the evaluation: compiled once, however many runs a test makes."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])
    optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-2), TOTAL)
    rules = ((".*", PartitionSpec()),)
    state, shardings = init(
        make_params, optimizer, jax.random.key(0), shardings=lambda shapes: param_shardings(shapes, mesh, rules)
    )
    step = jit_step(make_train_step(loss_fn, optimizer), shardings, batch_shardings(make_batch(0), mesh), mesh)
    return state, step, jax.jit(lambda state: loss_fn(state.params, make_batch(10**6), jax.random.key(9))[0])


def small_run(folder, *, devices=1, total=TOTAL, before_update=lambda step: None, **changes):
    """Runs or continues the stage; keyword arguments of ``fit`` may be changed."""
    first, step, held_out = build(devices)
    host = {"sum": 0.0}

    def update(state, i):
        before_update(i)
        host["sum"] += 1 / (i + 1)
        return step(state, make_batch(i), jax.random.fold_in(jax.random.key(1), i))

    with MetricsWriter(folder, "small") as writer:
        arguments = {
            "evaluate": lambda state: {"held_out": (held_out(state), jnp.float32(16))},
            "eval_every": 3,
            "best": "held_out",
            "checkpoint_every": 4,
            "update": update,
            "checkpoints": Checkpoints(Path(folder) / "checkpoints" / "small", fingerprint={"seed": 0}),
        }
        result = fit(
            stage="small",
            state=jax.tree.map(jnp.copy, first),
            total=total,
            writer=writer,
            host=host,
            **{**arguments, **changes},
        )
    return result, host


def outcome(folder, result, host):
    """Everything that must not depend on how often the run was stopped."""
    return {
        "state": tree_sha256(result.state),
        "best": tree_sha256(result.best_params),
        "best_step": result.best_step,
        "best_value": result.best_value,
        "host": host,
        "metrics": (Path(folder) / "metrics.jsonl").read_text(),
        "history": result.history,
    }


if __name__ == "__main__":
    folder, seconds = sys.argv[1], float(sys.argv[2])
    try:
        result, host = small_run(folder, before_update=lambda step: time.sleep(seconds))
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    (Path(folder) / "outcome.json").write_text(json.dumps(outcome(folder, result, host)))
