"""A tree of arrays that is saved or restored by some processes and read again by others.

python checkpoint_task.py save|restore FOLDER DATA,FSDP [URL]: with a URL, what is saved is sent there
"""

import sys
from pathlib import Path

import jax
import numpy as np

from rlhf_jax import checkpoint, parallel, processes
from rlhf_jax.runs.store import Mirror, Objects
from rlhf_jax.runs.store.checkpoints import StoredCheckpoints


def placed(mesh):
    """Arrays that are cut both ways, one way, not at all, and the numbers of random keys."""
    rng = np.random.default_rng(0)
    rows, both, whole = (jax.P(("data", "fsdp")), jax.P("data", "fsdp"), jax.P())
    tree = {
        "both": (rng.normal(size=(64, 64)).astype(np.float32), both),
        "rows": (rng.normal(size=(32, 3)).astype(np.float32), rows),
        "whole": (rng.normal(size=7).astype(np.float32), whole),
        "half": (rng.normal(size=(8, 8)).astype("bfloat16"), both),
        "step": (np.int32(12), whole),
        "empty": (np.zeros((0, 3), np.float32), whole),
        "keys": (np.arange(64, dtype=np.uint32).reshape(32, 2), rows),
    }
    found = {name: processes.put(x, jax.NamedSharding(mesh, spec)) for name, (x, spec) in tree.items()}
    return {**found, "keys": jax.random.wrap_key_data(found["keys"])}


if __name__ == "__main__":
    parallel.initialize()
    what, folder, sizes, *url = sys.argv[1:]
    data, fsdp = map(int, sizes.split(","))
    like = placed(parallel.make_mesh(parallel.MeshConfig(data=data, fsdp=fsdp)))
    store = checkpoint.Checkpoints(folder + "/checkpoints/all", fingerprint={"seed": 0})
    if url:
        store = StoredCheckpoints(store, Mirror(Path(folder).resolve(), Objects(url[0])))
    if what == "save":
        for step in (1, 2):
            store.save(step, like, {"best": 0.5})
        store.wait()
        checkpoint.save_params(folder + "/params", {"policy": {"x": like["both"], "y": like["whole"]}}, {"seed": 0})
    else:
        found = store.restore(like)
        assert found is not None
        for name, x in found.tree.items():
            assert x.sharding.is_equivalent_to(like[name].sharding, x.ndim), name
        print("step", found.step, found.host, checkpoint.tree_sha256(found.tree) == checkpoint.tree_sha256(like))
        places = jax.tree.map(lambda x: x.sharding, {"policy": {"x": like["both"], "y": like["whole"]}})
        params, _ = checkpoint.load_params(folder + "/params", places)
        wanted = {"policy": {"x": like["both"], "y": like["whole"]}}
        print("params", checkpoint.tree_sha256(params) == checkpoint.tree_sha256(wanted))
