"""A stage that writes to an object store and is killed while it sends something.

python store_task.py TABLES URL FOLDER: killed at the second object of a folder that begins with FOLDER
"""

import os
import signal
import sys

import jax
import tiny_task

from rlhf_jax import parallel, stages
from rlhf_jax.runs.store import Objects

if __name__ == "__main__":
    tables, url, folder = sys.argv[1:]
    put, begun = Objects.put, []

    def dies(self, file, name):
        if name.startswith(folder):
            if begun:
                os.kill(os.getpid(), signal.SIGKILL)
            begun.append(name)
        put(self, file, name)

    Objects.put = dies
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1])
    stages.sft(tiny_task.sft_config(tables, url), mesh=mesh)
