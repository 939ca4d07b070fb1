"""Our checkpoints: every file of a folder mutated, and manifests that say anything with the hash to match."""

import hashlib
import json
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzing import NUMBERS, TEXTS, VALUES, changed, mutated, read_or_refused, share
from hypothesis import given
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

from rlhf_jax.checkpoint import CheckpointError, Checkpoints, load_metadata, load_params, params_digest, save_params

TREE = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.arange(3, dtype=np.int32)}
TREE |= {"empty": np.zeros((0, 2), np.float32)}
STATE = {**TREE, "key": jax.random.key(0)}
OTHERS = st.one_of(
    VALUES, NUMBERS, TEXTS, st.lists(NUMBERS, max_size=3), st.sampled_from(["float32", "key<fry>", "object"])
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Parameters, and the checkpoints of two steps."""
    folder = tmp_path_factory.mktemp("checkpoints")
    save_params(folder / "params", TREE, {"seed": 0})
    checkpoints = Checkpoints(folder / "steps", fingerprint={"seed": 0})
    for step in (1, 2):
        checkpoints.save(step, STATE, {"best": 0.5})
    checkpoints.wait()
    return folder


def read(folder, part):
    """Read what was changed: the parameters in each way, or the newest step that verifies."""
    if part == "params":
        for use in (load_metadata, params_digest, load_params):
            with read_or_refused(CheckpointError):
                use(folder / "params")
        return
    with warnings.catch_warnings(), read_or_refused(CheckpointError):
        warnings.simplefilter("ignore")  # a step that is passed over is said
        found = Checkpoints(folder / "steps", fingerprint={"seed": 0}).restore(STATE)
        assert found is None or isinstance(found.host, dict)


@share(70)
@given(st.data())
def test_a_file_of_the_folder_changed(saved, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("changed") / "run"
    part = data.draw(st.sampled_from(["params", "steps"]))
    shutil.copytree(saved / part, folder / part)
    file = data.draw(st.sampled_from(sorted(f for f in folder.rglob("*") if f.is_file())), label="file")
    try:
        value = json.loads(file.read_bytes())
    except ValueError:
        value = None
    match data.draw(st.sampled_from(["bytes", "json", "json", "gone", "folder", "link"])):
        case "json" if value is not None:
            file.write_text(json.dumps(data.draw(changed(value, OTHERS))))
        case "gone":
            file.unlink()
        case "folder":
            file.unlink()
            file.mkdir()
        case "link":
            file.unlink()
            file.symlink_to(file)
        case _:
            file.write_bytes(data.draw(mutated(file.read_bytes())))
    read(folder, part)
    shutil.rmtree(folder.parent)


@share(30)
@given(st.data())
def test_a_manifest_that_was_sealed_anew(saved, tmp_path_factory, data):
    """Whoever makes a folder can also make its hashes: all that the manifest says is checked before it is used."""
    folder = tmp_path_factory.mktemp("sealed") / "run"
    part = data.draw(st.sampled_from(["params", "steps/2"]))
    kept = ocp.load_checkpointables(saved / part, {"arrays": None, "manifest": None})
    record = json.loads(np.asarray(kept["manifest"]["json"]).tobytes())
    manifest = data.draw(changed(record["manifest"], OTHERS))
    if data.draw(st.integers(0, 9)):
        record = {"manifest": manifest}
        record["sha256"] = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    else:
        record = data.draw(changed(record, OTHERS))
    text = np.frombuffer(json.dumps(record).encode(), np.uint8)
    kept = {"arrays": jax.tree.map(jnp.asarray, kept["arrays"]), "manifest": {"json": text}}
    (folder / part).parent.mkdir(parents=True, exist_ok=True)
    ocp.save_checkpointables(folder / part, kept)
    read(folder, part)
    shutil.rmtree(folder.parent)
