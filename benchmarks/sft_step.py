"""Supervised fine-tuning: tokens a second of one update, beside torch by hand and transformers.

    python -m benchmarks.sft_step [--shape tiny] [--fast] [--no-peers] [--repeats 5]

Full sequences in a padded batch, AdamW, gradients clipped. The limit is the FLOPs of the matrix products, causal
attention halved, at the speed of this machine's own matrix product. ``1b`` runs 8 x 1024, and 16 x 1024 with
recomputation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from benchmarks import ours
from benchmarks.compare import compare_updates, peers
from benchmarks.measure import print_lines
from benchmarks.options import Options, options, parser
from benchmarks.shapes import SHAPES
from rlhf_jax.models import costs

CASES = {  # rows, length, recomputation
    "fast": ((2, 16, False),),
    "tiny": ((8, 256, False),),
    "smol": ((2, 256, False),),
    "1b": ((8, 1024, False), (16, 1024, True)),
}


def lines(asked: Options) -> Iterator[dict[str, Any]]:
    """Measure every case that was asked for."""
    for shape in asked.chosen(tuple(CASES)):
        for rows, length, remat in CASES[shape]:
            yield from _case(asked, shape, rows, length, remat)


def _case(asked: Options, shape: str, rows: int, length: int, remat: bool) -> Iterator[dict[str, Any]]:
    """Measure one case; an accelerator has room for one at a time, so nothing of it is held by the next."""
    config = dataclasses.replace(SHAPES[shape], remat="block" if remat else "none")
    tokens, batch = rows * length, ours.sequences(config, rows, 1, length)
    others = peers(
        asked,
        {"torch_steps": lambda peer: peer.sft(config, batch), "hugging_face": lambda peer: peer.sft(config, batch)},
    )
    yield from compare_updates(
        "sft_step",
        shape,
        ours.sft(config, rows, length),
        others,
        config=config,
        flops=costs.train_flops(config, tokens, length, logits=rows * (length - 1)),
        units=tokens,
        unit="tokens",
        options=asked,
        beside={"rows": rows, "length": length, "recomputed": remat},
    )


def main() -> None:
    print_lines(lines(options(parser(__doc__).parse_args())))


if __name__ == "__main__":
    main()
