"""DPO: pairs a second of one update, beside torch by hand.

    python -m benchmarks.dpo_step [--shape tiny] [--fast] [--no-peers] [--repeats 5]

Pairs of full sequences; the frozen reference is run in the same step, without a gradient, on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import ours
from benchmarks.compare import compare_updates, peers
from benchmarks.measure import print_lines
from benchmarks.options import Options, options, parser
from benchmarks.shapes import SHAPES
from rlhf_jax.models import costs

CASES = {"fast": (2, 16), "tiny": (8, 256), "smol": (1, 256), "1b": (4, 1024)}  # pairs, length


def lines(asked: Options) -> Iterator[dict[str, Any]]:
    """Measure every case that was asked for."""
    for shape in asked.chosen(tuple(CASES)):
        pairs, length = CASES[shape]
        config = SHAPES[shape]
        step = ours.dpo(config, pairs, length)
        batch = ours.sequences(config, pairs, 2, length)
        others = peers(asked, {"torch_steps": lambda peer, c=config, b=batch: peer.dpo(c, b)})
        tokens, targets = 2 * pairs * length, 2 * pairs * (length - 1)
        flops = costs.train_flops(config, tokens, length, logits=targets)
        flops += costs.forward_flops(config, tokens, length, logits=targets)
        yield from compare_updates(
            "dpo_step",
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
