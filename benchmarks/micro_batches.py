"""What an update needs beside its arguments when its batch is cut into parts. One JSON line a figure.

    python -m benchmarks.micro_batches [--rows 64] [--length 128] [--fast]

Supervised fine-tuning of the quickstart's model on packed rows. *Temporary* is what XLA asks for; nothing is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.measure import line, print_lines
from benchmarks.options import Options, options, parser
from benchmarks.shapes import SHAPES
from rlhf_jax import models, objectives, training
from rlhf_jax.data import Example
from rlhf_jax.data.batches import PackedEpochs, micro_batched
from rlhf_jax.models import ModelConfig
from rlhf_jax.stages import make_loss_fn

QUICKSTART = ModelConfig(vocab_size=4096)


def temporary(config: ModelConfig, rows: int, length: int, parts: int) -> int:
    """Count the bytes beside arguments and results of one compiled update."""
    model = models.build(config)
    rule = training.make_optimizer(training.OptimizerConfig(learning_rate=1e-3), 10)
    full = [Example((np.ones(length, np.int32),), (1,))] * rows
    batches = PackedEpochs(lambda _: full, epochs=1, rows=rows // parts, row_length=length, pad_id=0)
    state = jax.eval_shape(lambda key: training.init_state({"policy": model.init(key)}, rule), jax.random.key(0))
    step = training.make_train_step(make_loss_fn(objectives.sft, {"policy": model}), rule, accumulate=parts)
    compiled = (
        jax.jit(step, donate_argnums=0).lower(state, micro_batched(batches, parts)[0], jax.random.key(0)).compile()
    )
    return int(compiled.memory_analysis().temp_size_in_bytes)


def lines(asked: Options, rows: int = 64, length: int = 128) -> Iterator[dict[str, Any]]:
    """Measure 1, 2, 4 and 8 parts."""
    config, counts = (SHAPES["fast"], (1, 4)) if asked.fast else (QUICKSTART, (1, 2, 4, 8))
    rows, length = (8, 16) if asked.fast else (rows, length)
    for parts in counts:
        found = temporary(config, rows, length, parts)
        beside = {"rows": rows, "length": length, "device": jax.devices()[0].device_kind}
        yield line("micro_batches", f"temporary, parts {parts}", found, "bytes", shape="quickstart", beside=beside)


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--rows", type=int, default=64, help="packed rows of a batch, a multiple of 8")
    asked.add_argument("--length", type=int, default=128, help="tokens of a row")
    given = asked.parse_args()
    print_lines(lines(options(given), given.rows, given.length))


if __name__ == "__main__":
    main()
