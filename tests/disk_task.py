"""A run of checkpoints whose disk is full from the third save on: files may grow to so many bytes and no further.

python disk_task.py FOLDER
"""

import resource
import signal
import sys

import jax.numpy as jnp
import numpy as np

from rlhf_jax.checkpoint import CheckpointError, Checkpoints

LARGE = {"x": jnp.asarray(np.random.default_rng(0).normal(size=2**18), jnp.float32)}

if __name__ == "__main__":
    store = Checkpoints(sys.argv[1], fingerprint={})
    for step in (1, 2):
        store.save(step, LARGE, {})
    store.wait()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails in place of the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    try:
        store.save(3, LARGE, {})
        store.wait()
    except CheckpointError as error:
        print(error)
    print("left", store.steps(), float(store.restore(LARGE).tree["x"][7]) == float(LARGE["x"][7]))
