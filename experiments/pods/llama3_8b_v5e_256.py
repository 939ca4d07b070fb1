"""PPO of all weights of Llama-3-8B on a v5e-256: 256 chips of 16 GiB.

Command:  python experiments/pods/llama3_8b_v5e_256.py --compile    (libtpu; without it: trains)
Hardware: none. Compiled on two CPU cores for v5e:16x16, all layers, and read; nothing was run
Result:   fits: 11.31 of 15.75 GiB a chip; 3.75 are models and optimisers

Mesh data x fsdp x tensor: 4 x 64 x 1; four models in float32, two with Adam; 512 prompts, 2 minibatches.
Prompts and responses of 512 tokens, one pass. All figures are a chip's: memory with the models that wait beside a
program, the least seconds that its limits ask for and which one it is, and what it sends, as times: GiB. Compiled in
468 s on a busy machine, 2026-11-27, jax 0.10.2, libtpu 0.0.42.1.

    program            GiB    compiled  least                   gather        reduce       scatter    all to all
    lay out            3.98   4 s       0.000922 s, memory
    prefill            6.84   147 s     0.0748 s, interconnect  227: 13.9                             1: 0.00769
    decode 32 tokens   4.60   50 s      0.116 s, interconnect   1,024: 0.984  4,200: 20.6
    log-probabilities  5.08   59 s      0.301 s, compute        458: 26.9     3: 0.00781              2: 0.0308
    reference          5.08   44 s      0.153 s, compute        234: 13.9                             1: 0.0154
    score              4.35   36 s      0.148 s, compute        226: 12.9                             1: 0.0154
    prepare            3.75   41 s
    update             11.31  89 s      0.926 s, interconnect   2,200: 112    348: 9.67    896: 51.2  8: 0.0615
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_8B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5e-256", LLAMA3_8B, MeshConfig(data=4, fsdp=64), prompts=512, minibatches=2)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
