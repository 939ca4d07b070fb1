"""PPO of all weights of Llama-3-8B on a v5e-256: 256 chips of 16 GiB.

TODO
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_8B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5e-256", LLAMA3_8B, MeshConfig(data=4, fsdp=64), prompts=512, minibatches=2)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
