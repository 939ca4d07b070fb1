"""PPO of Llama-3-8B with adapters on a v5e-16: 16 chips of 16 GiB.

TODO
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_8B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5e-16", LLAMA3_8B, MeshConfig(data=1, fsdp=16), prompts=128, minibatches=4, rank=16, rate=1e-5)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
