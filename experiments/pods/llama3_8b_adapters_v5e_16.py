"""PPO of Llama-3-8B with adapters on a v5e-16: 16 chips of 16 GiB.

Command:  python experiments/pods/llama3_8b_adapters_v5e_16.py --compile    (libtpu; without it: trains)
Hardware: none. Compiled on two CPU cores for v5e:4x4, all layers, and read; nothing was run
Result:   fits: 6.47 of 15.75 GiB a chip; 1.78 are models and optimisers

Mesh data x fsdp x tensor: 1 x 16 x 1; one bfloat16 trunk for all four models; 128 prompts, 4 minibatches.
Prompts and responses of 512 tokens, one pass. All figures are a chip's: memory with the models that wait beside a
program, the least seconds that its limits ask for and which one it is, and what it sends, as times: GiB. Compiled in
378 s on a busy machine, 2026-11-27, jax 0.10.2, libtpu 0.0.42.1.

    program            GiB   compiled  least                 gather        permute       reduce       all to all
    lay out            2.93  5 s       0.00259 s, memory
    prefill            6.47  106 s     0.295 s, compute      3: 0.918      3,808: 13.8                1: 0.0293
    decode 32 tokens   4.07  37 s      0.11 s, interconnect  1,024: 0.938                4,200: 19.6
    log-probabilities  4.80  33 s      1.21 s, compute       24: 1.84      30,464: 55.4               4: 0.117
    reference          3.74  31 s      0.617 s, compute      21: 1.84      15,232: 27.7               2: 0.0586
    score              2.54  24 s      0.595 s, compute                    15,232: 27.7               2: 0.0586
    prepare            1.78  28 s
    update             6.21  115 s     2.45 s, compute       4,684: 86.4   100,096: 141  294: 0.771   8: 0.117
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_8B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5e-16", LLAMA3_8B, MeshConfig(data=1, fsdp=16), prompts=128, minibatches=4, rank=16, rate=1e-5)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
