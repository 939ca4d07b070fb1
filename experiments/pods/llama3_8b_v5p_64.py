"""PPO of all weights of Llama-3-8B on a v5p-64: 32 chips of 95 GiB.

TODO
"""

from __future__ import annotations

import tyro
from pod import LLAMA3_8B, Options, Pod, main

from rlhf_jax.parallel import MeshConfig

POD = Pod("v5p-64", LLAMA3_8B, MeshConfig(data=1, fsdp=32), prompts=256, minibatches=4)

if __name__ == "__main__":
    main(POD, tyro.cli(Options, description=__doc__))
