"""A reward model: pairs a second of one update, beside TRL's RewardTrainer and torch by hand.

    python -m benchmarks.reward_step [--shape tiny] [--fast] [--no-peers] [--repeats 5]

Pairs of full sequences, hard labels, AdamW, gradients clipped. The limit counts no logits: a reward model has none.
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

CASES = {"fast": (2, 16), "tiny": (8, 256), "smol": (1, 256), "1b": (8, 1024)}  # pairs, length


def lines(asked: Options) -> Iterator[dict[str, Any]]:
    """Measure every case that was asked for."""
    for shape in asked.chosen(tuple(CASES)):
        pairs, length = CASES[shape]
        config = dataclasses.replace(SHAPES[shape], scalar_head=True)
        step = ours.reward_model(config, pairs, length)
        batch = ours.sequences(config, pairs, 2, length)
        others = peers(
            asked,
            {
                "trl_reward": lambda peer, c=config, b=batch: peer.reward_model(c, b),
                "torch_steps": lambda peer, c=config, b=batch: peer.reward_model(c, b),
            },
        )
        flops = costs.train_flops(config, 2 * pairs * length, length)
        yield from compare_updates(
            "reward_step",
            shape,
            step,
            others,
            config=config,
            flops=flops,
            units=pairs,
            unit="pairs",
            options=asked,
            beside={"pairs": pairs, "length": length},
        )


def main() -> None:
    print_lines(lines(options(parser(__doc__).parse_args())))


if __name__ == "__main__":
    main()
