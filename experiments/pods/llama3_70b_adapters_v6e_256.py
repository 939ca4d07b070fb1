"""PPO of Llama-3-70B with adapters on a v6e-256: 256 chips of 32 GiB.

Command:  python experiments/pods/llama3_70b_adapters_v6e_256.py --compile    (libtpu; without it: trains)
Hardware: none. Compiled on two CPU cores for v6e:16x16, all layers, and read; nothing was run
Result:   fits: 13.64 of 31.25 GiB a chip; 4.51 are models and optimisers

Mesh data x fsdp x tensor: 1 x 256 x 1; one bfloat16 trunk for all four models; 512 prompts, 2 minibatches.
Prompts and responses of 512 tokens, one pass. All figures are a chip's: memory with the models that wait beside a
program, the least seconds that its limits ask for and which one it is, and what it sends, as times: GiB. Compiled in
1099 s on a busy machine, 2026-11-27, jax 0.10.2, libtpu 0.0.42.1.

    program            GiB    compiled  least                  gather           reduce       all to all
    lay out            5.31   23 s      0.001 s, memory
    prefill            8.27   256 s     0.353 s, interconnect  401: 126         25: 4.98     1: 0.0156
    decode 32 tokens   6.96   118 s     1.03 s, interconnect                    12,904: 384
    log-probabilities  7.37   250 s     0.702 s, interconnect  808: 251         165: 10.5    2: 0.0623
    reference          6.85   135 s     0.354 s, interconnect  408: 126         84: 5.26     1: 0.0311
    score              6.14   41 s      0.348 s, interconnect  400: 125         84: 5.26     1: 0.0311
    prepare            4.52   38 s
    update             13.64  238 s     2.97 s, interconnect   3,540: 1.04e+03  986: 65.6    4: 0.0623
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_70B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v6e-256", LLAMA3_70B, MeshConfig(data=1, fsdp=256), prompts=512, minibatches=2, rank=16, rate=1e-5)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
