"""PPO of Llama-3-70B with adapters on a v6e-256: 256 chips of 32 GiB.

TODO
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_70B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v6e-256", LLAMA3_70B, MeshConfig(data=1, fsdp=256), prompts=512, minibatches=2, rank=16, rate=1e-5)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
