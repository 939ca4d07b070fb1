"""PPO of Llama-3-70B with adapters on a v5p-128: 64 chips of 95 GiB.

TODO
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_70B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5p-128", LLAMA3_70B, MeshConfig(data=4, fsdp=16), prompts=256, minibatches=4, rank=16, rate=1e-5)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
