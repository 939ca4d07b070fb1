"""PPO of all weights of Llama-3-8B on a v5p-64: 32 chips of 95 GiB.

Command:  python experiments/pods/llama3_8b_v5p_64.py --compile    (libtpu; without it: trains)
Hardware: none. Compiled on two CPU cores for v5p:2x4x4, all layers, and read; nothing was run
Result:   fits: 13.79 of 95.74 GiB a chip; 7.49 are models and optimisers

Mesh data x fsdp x tensor: 1 x 32 x 1; four models in float32, two with Adam; 256 prompts, 4 minibatches.
Prompts and responses of 512 tokens, one pass. All figures are a chip's: memory with the models that wait beside a
program, the least seconds that its limits ask for and which one it is, and what it sends, as times: GiB. Compiled in
425 s on a busy machine, 2026-11-27, jax 0.10.2, libtpu 0.0.42.1.

    program            GiB    compiled  least                  gather       permute       reduce       all to all
    lay out            8.07   1 s       0.000545 s, memory
    prefill            11.12  108 s     0.126 s, compute       3: 0.949     7,392: 13.4                1: 0.0303
    decode 32 tokens   9.30   48 s      0.076 s, interconnect  1,024: 1.94                4,200: 40.5
    log-probabilities  9.71   38 s      0.517 s, compute       24: 1.9      29,568: 53.6               4: 0.121
    reference          9.33   19 s      0.263 s, compute       21: 1.9      14,784: 26.8               2: 0.0605
    score              8.44   30 s      0.254 s, compute                    14,784: 26.8               2: 0.0605
    prepare            7.49   31 s
    update             13.79  151 s     1.55 s, compute        1,612: 77.4  126,720: 243  422: 15.2    16: 0.242
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_8B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5p-64", LLAMA3_8B, MeshConfig(data=1, fsdp=32), prompts=256, minibatches=4)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
