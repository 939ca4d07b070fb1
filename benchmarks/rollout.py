"""Sampling: new tokens a second, beside tunix's sampler and transformers' ``generate``.

    python -m benchmarks.rollout [--shape tiny smol] [--fast] [--no-peers] [--repeats 5]

Every response is written to its full length. The time is that of a whole call, prefill included. The limit is the
larger of two times: that of the FLOPs of prefill and decoding, and that of reading the weights and the live part of the
cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.compare import compare, peers
from benchmarks.measure import Work, print_lines
from benchmarks.options import Options, options, parser
from benchmarks.shapes import SHAPES
from rlhf_jax import models, rollout
from rlhf_jax.models import ModelConfig, costs

CASES = {  # prompts, tokens of a prompt, new tokens
    "fast": ((2, 8, 8),),
    "tiny": ((32, 32, 64),),
    "smol": ((8, 32, 64),),
    "1b": ((256, 128, 256), (64, 128, 256)),
}


def generate(config: ModelConfig, prompts: np.ndarray, new: int) -> Work:
    """Sample ``new`` tokens after each prompt, at temperature 1; weights are held in the compute type."""
    model = models.build(config)
    params = jax.tree.map(lambda x: x.astype(config.compute_dtype), jax.jit(model.init)(jax.random.key(0)))
    # No token ends a response.
    sampling = rollout.SamplingConfig(max_new_tokens=new)
    engine = rollout.Engine(model, sampling, pad_id=0, eos_id=config.vocab_size + 1)
    listed, steps = list(prompts), itertools.count()

    def run() -> int:
        drawn = engine(params, listed, key=jax.random.key(1), step=next(steps), bucket=prompts.shape[1])
        written = int(np.asarray(drawn.mask).sum())
        assert written == prompts.shape[0] * new, written
        return written

    return run


def lines(asked: Options) -> Iterator[dict[str, Any]]:
    """Measure every case that was asked for."""
    for shape in asked.chosen(tuple(CASES)):
        for rows, prompt, new in CASES[shape]:
            config = SHAPES[shape]
            prompts = np.random.default_rng(0).integers(1, config.vocab_size, (rows, prompt)).astype(np.int32)
            others = peers(
                asked,
                {
                    "tunix_rollout": lambda peer, c=config, p=prompts, n=new: peer.generate(c, p, n),
                    "hugging_face": lambda peer, c=config, p=prompts, n=new: peer.generate(c, p, n),
                },
            )
            flops = costs.forward_flops(config, rows * prompt, prompt, logits=rows)
            flops += costs.decode_flops(config, rows, prompt, new - 1)
            read = costs.decode_bytes(config, rows, prompt, new)
            yield from compare(
                "rollout",
                shape,
                generate(config, prompts, new),
                others,
                dtype=config.compute_dtype,
                limit=lambda machine, f=flops, b=read: machine.seconds(f, b),
                units=rows * new,
                unit="tokens",
                options=asked,
                beside={"prompts": rows, "prompt": prompt, "new": new, "flops": flops, "bytes": read},
                only_ours={},
            )


def main() -> None:
    print_lines(lines(options(parser(__doc__).parse_args())))


if __name__ == "__main__":
    main()
