"""Run as a program: how much host memory above the parameters loading and saving takes, as one line of JSON, in MiB.

``peak_memory.py FOLDER`` writes a checkpoint of some 200 MiB there, loads it, loads it onto a mesh, and saves it.
"""

import ctypes
import dataclasses
import gc
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.models import ModelConfig
from rlhf_jax.models.huggingface import load_pretrained, save_pretrained
from rlhf_jax.models.huggingface.layout import leaves

CONFIG = ModelConfig(
    vocab_size=10_240, d_model=1024, n_layers=2, n_heads=8, n_kv_heads=8, head_dim=128, d_ff=2816, tie_embeddings=False
)


def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def peak(work):
    """What ``work`` returns, and how much the resident memory rose while it ran."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before is not to be used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = status("VmRSS")
    done = work()
    return done, status("VmHWM") - before


def over_mesh(shapes):
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=auto, devices=jax.devices()[:4])

    def place(leaf):
        # Norms are small and whole everywhere; of a matrix the last two axes are cut.
        matrix = leaf.ndim > 1 and leaf.shape[-2] > CONFIG.n_layers
        cut = (*(None,) * (leaf.ndim - 2), "fsdp", "tensor") if matrix else ()
        return NamedSharding(mesh, PartitionSpec(*cut))

    return jax.tree.map(place, shapes)


def write(folder, config):
    """A checkpoint; returns how large its weights are."""
    tree, size = {}, 0
    for i, leaf in enumerate(leaves(config)):
        node = tree
        for key in leaf.path[:-1]:
            node = node.setdefault(key, {})
        node[leaf.path[-1]] = np.full(leaf.shape, i, np.float32)
        size += node[leaf.path[-1]].nbytes
    save_pretrained(folder, config, tree)
    return size / 2**20


def main(folder):
    base, again, small = f"{folder}/base", f"{folder}/again", f"{folder}/small"
    total = write(base, CONFIG)
    write(small, dataclasses.replace(CONFIG, vocab_size=4096, d_model=512, d_ff=512))
    for shardings in (None, over_mesh):  # so that the compiler's own memory is no part of what follows
        save_pretrained(small, *load_pretrained(small, shardings=shardings))

    found = {"params": total, "largest": 4 * CONFIG.vocab_size * CONFIG.d_model / 2**20}
    (_, params), rise = peak(lambda: load_pretrained(base))
    found["load"] = rise - total
    found["save"] = peak(lambda: save_pretrained(again, CONFIG, params))[1]
    del params
    (_, params), rise = peak(lambda: load_pretrained(base, shardings=over_mesh))
    found["load on a mesh"] = rise - total
    found["save from a mesh"] = peak(lambda: save_pretrained(again, CONFIG, params))[1]
    del params
    (_, params), rise = peak(lambda: load_pretrained(base, dtype="bfloat16"))
    found["load in bfloat16"] = rise - total / 2
    print(json.dumps({name: round(float(size)) for name, size in found.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
