"""What an update needs beside its arguments when its batch is cut into parts. One JSON line a figure.

    python benchmarks/micro_batches.py [--rows 64] [--length 128]

Supervised fine-tuning of the quickstart's model on packed rows. *Temporary* is what XLA asks for; nothing is run.
"""

from __future__ import annotations

import argparse
import json

import jax
import numpy as np

from rlhf_jax import models, objectives, training
from rlhf_jax.data import Example
from rlhf_jax.data.batches import PackedEpochs, micro_batched
from rlhf_jax.stages.objective_loss import make_loss_fn

VOCAB = 4096


def temporary(rows: int, length: int, parts: int) -> int:
    """Bytes beside arguments and results of one compiled update."""
    model = models.build(models.ModelConfig(vocab_size=VOCAB))
    rule = training.make_optimizer(training.OptimizerConfig(learning_rate=1e-3), 10)
    full = [Example((np.ones(length, np.int32),), (1,))] * rows
    batches = PackedEpochs(lambda _: full, epochs=1, rows=rows // parts, row_length=length, pad_id=0)
    state = jax.eval_shape(lambda key: training.init_state({"policy": model.init(key)}, rule), jax.random.key(0))
    step = training.make_train_step(make_loss_fn(objectives.sft, {"policy": model}), rule, accumulate=parts)
    compiled = (
        jax.jit(step, donate_argnums=0).lower(state, micro_batched(batches, parts)[0], jax.random.key(0)).compile()
    )
    return int(compiled.memory_analysis().temp_size_in_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64, help="packed rows of a batch, a multiple of 8")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    options = parser.parse_args()
    for parts in (1, 2, 4, 8):
        found = temporary(options.rows, options.length, parts)
        line = {"benchmark": "micro_batches", "figure": "temporary", "value": found, "unit": "bytes", "parts": parts}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
