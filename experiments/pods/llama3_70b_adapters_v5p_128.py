"""PPO of Llama-3-70B with adapters on a v5p-128: 64 chips of 95 GiB.

Command:  python experiments/pods/llama3_70b_adapters_v5p_128.py --compile    (libtpu; without it: trains)
Hardware: none. Compiled on two CPU cores for v5p:4x4x4, all layers, and read; nothing was run
Result:   fits: 28.92 of 95.74 GiB a chip; 12.34 are models and optimisers

Mesh data x fsdp x tensor: 4 x 16 x 1; one bfloat16 trunk for all four models; 256 prompts, 4 minibatches.
Prompts and responses of 512 tokens, one pass. All figures are a chip's: memory with the models that wait beside a
program, the least seconds that its limits ask for and which one it is, and what it sends, as times: GiB. Compiled in
597 s on a busy machine, 2026-11-27, jax 0.10.2, libtpu 0.0.42.1.

    program            GiB    compiled  least              gather            reduce        scatter    all to all
    lay out            22.75  17 s      0.00658 s, memory
    prefill            24.16  135 s     0.616 s, compute   563: 127                                   1: 0.0293
    decode 32 tokens   22.90  122 s     0.114 s, memory    2,560: 2.34       10,344: 40.5
    log-probabilities  22.86  47 s      2.48 s, compute    2,251: 253                                 2: 0.117
    reference          14.75  43 s      1.25 s, compute    1,130: 128                                 1: 0.0586
    score              13.67  41 s      1.24 s, compute    1,123: 126                                 1: 0.0586
    prepare            12.34  41 s
    update             28.92  151 s     5 s, compute       21,804: 2.12e+03  1,322: 4.09   640: 1.03  8: 0.117
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_70B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5p-128", LLAMA3_70B, MeshConfig(data=4, fsdp=16), prompts=256, minibatches=4, rank=16, rate=1e-5)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
