"""PPO of Llama-3-8B with adapters on a v5e-16: 16 chips of 16 GiB.

Command:  python experiments/pods/llama3_8b_adapters_v5e_16.py --compile    (needs libtpu; without --compile it trains)
Hardware: none. Compiled on two CPU cores for v5e:4x4, all layers, and read; nothing was run
Result:   fits: 6.47 of 15.75 GiB a chip; 1.78 are models and optimisers

Mesh data x fsdp x tensor: 1 x 16 x 1; one trunk in bfloat16 for policy, critic, reference and reward model; 128 prompts, 4 minibatches; prompts and
responses of 512 tokens, one pass. All figures are a chip's: memory with the models that wait beside a program, the least
seconds that its limits ask for and which one it is, and what it sends to others, times: GiB. Compiled in 378 s beside
another compilation, 2026-11-27, jax 0.10.2, libtpu 0.0.42.1.

    program            GiB a chip  compiled in  least                   all-gather    collective-permute  all-reduce   all-to-all
    lay out            2.93        5 s          0.00259 s (memory)
    prefill            6.47        106 s        0.307 s (interconnect)  35: 30.3      7,392: 26.8                      1: 0.0293
    decode 32 tokens   4.07        37 s         0.11 s (interconnect)   1,024: 0.938                      4,200: 19.6
    log-probabilities  4.80        33 s         1.21 s (compute)        152: 16.5     59,136: 107                      4: 0.117
    reference          3.74        31 s         0.617 s (compute)       85: 9.17      29,568: 53.7                     2: 0.0586
    score              2.54        24 s         0.595 s (compute)                     29,568: 53.7                     2: 0.0586
    prepare            1.78        28 s
    update             6.21        115 s        2.45 s (compute)        23,244: 163   194,304: 273        294: 0.771   8: 0.117
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_8B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5e-16", LLAMA3_8B, MeshConfig(data=1, fsdp=16), prompts=128, minibatches=4, rank=16, rate=1e-5)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
