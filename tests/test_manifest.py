"""A manifest may be anybody's, with the hash to match: what it says is checked before it is used."""

import hashlib
import json
import warnings

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from rlhf_jax.checkpoint import CheckpointError, Checkpoints, load_metadata, load_params, save_params
from rlhf_jax.checkpoint.manifest import fault

LEAF = {"dtype": "float32", "shape": [2], "sha256": "0" * 64}


def cut(*bounds, sha256="0" * 64):
    pieces = [{"at": [list(x)], "sha256": sha256} for x in bounds]
    return {"leaves": {"a": {"dtype": "float32", "shape": [4], "pieces": pieces}}}


def test_pieces_that_make_the_whole_are_no_fault():
    assert fault(cut([0, 2], [2, 4])) == ""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "uint32", "bool", "float8_e4m3fn", "key<fry>"])
@pytest.mark.parametrize("shape", [[], [2, 3], [0, 5]])
def test_what_is_saved_is_no_fault(dtype, shape):
    assert fault({"leaves": {"a/b": {**LEAF, "dtype": dtype, "shape": shape}}, "metadata": {}}) == ""


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (None, "it lists no leaves"),
        ([], "it lists no leaves"),
        ({}, "it lists no leaves"),
        ({"leaves": [LEAF]}, "it lists no leaves"),
        ({"leaves": {"a": None}}, "leaf 'a' should have dtype, shape and sha256 or pieces, found None"),
        ({"leaves": {"a": {"dtype": "float32", "shape": [2]}}}, "leaf 'a' should have"),
        ({"leaves": {"a": {**LEAF, "more": 1}}}, "leaf 'a' should have"),
        ({"leaves": {"a": {**LEAF, "dtype": "object"}}}, "leaf 'a' has the dtype 'object'"),
        ({"leaves": {"a": {**LEAF, "dtype": "O"}}}, "leaf 'a' has the dtype 'O'"),
        ({"leaves": {"a": {**LEAF, "dtype": "V99999999999"}}}, "leaf 'a' has the dtype"),
        ({"leaves": {"a": {**LEAF, "dtype": "f4,f4"}}}, "leaf 'a' has the dtype"),
        ({"leaves": {"a": {**LEAF, "dtype": "<f4"}}}, "leaf 'a' has the dtype"),
        ({"leaves": {"a": {**LEAF, "dtype": "U5"}}}, "leaf 'a' has the dtype"),
        ({"leaves": {"a": {**LEAF, "dtype": 3}}}, "leaf 'a' has the dtype 3"),
        ({"leaves": {"a": {**LEAF, "shape": 2}}}, "leaf 'a' has the shape 2"),
        ({"leaves": {"a": {**LEAF, "shape": [2.0]}}}, "leaf 'a' has the shape [2.0]"),
        ({"leaves": {"a": {**LEAF, "shape": [True]}}}, "leaf 'a' has the shape [True]"),
        ({"leaves": {"a": {**LEAF, "shape": [-1]}}}, "leaf 'a' has the shape [-1]"),
        ({"leaves": {"a": {**LEAF, "shape": [0, 2**63]}}}, "leaf 'a' has the shape [0, "),
        ({"leaves": {"a": {**LEAF, "shape": [1] * 40}}}, "leaf 'a' has the shape [1, 1, "),
        ({"leaves": {"a": {**LEAF, "sha256": "0" * 63}}}, "leaf 'a' has the SHA-256"),
        ({"leaves": {"a": {**LEAF, "sha256": None}}}, "leaf 'a' has the SHA-256 None"),
        (cut(), "leaf 'a' is cut into [], which do not make [4]"),
        (cut([0, 2]), "leaf 'a' is cut into"),
        (cut([0, 2], [0, 2]), "leaf 'a' is cut into"),
        (cut([0, 2], [2, 5]), "leaf 'a' is cut into"),
        (cut([0, 2], [2, True]), "leaf 'a' is cut into"),
        (cut([0, 2], [2, 4], sha256="0"), "leaf 'a' has the SHA-256 '0'"),
    ],
)
def test_every_field_is_looked_at(manifest, says):
    assert fault(manifest).startswith(says)


def sealed(folder, change):
    """Write the folder anew with another manifest, and the hash of that."""
    kept = ocp.load_checkpointables(folder, {"arrays": None, "manifest": None})
    manifest = json.loads(np.asarray(kept["manifest"]["json"]).tobytes())["manifest"]
    change(manifest)
    sha256 = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    text = np.frombuffer(json.dumps({"sha256": sha256, "manifest": manifest}).encode(), np.uint8)
    arrays = {name: np.asarray(x) for name, x in kept["arrays"].items()}
    ocp.save_checkpointables(folder, {"arrays": arrays, "manifest": {"json": text}}, overwrite=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.pop("leaves"), "the manifest is none of ours: it lists no leaves"),
        (lambda m: m["leaves"]["a"].update(shape=[-2]), "the manifest is none of ours: leaf 'a' has the shape"),
        (lambda m: m["leaves"].update({"a/b": m["leaves"]["a"]}), "leaf 'a/b' stands below another leaf"),
        (lambda m: m["leaves"].update(b=m["leaves"]["a"]), "cannot be read"),
        (lambda m: m["leaves"].update(b={**LEAF, "shape": [0]}), "sha256 of leaf 'b' is"),
        (lambda m: m.pop("metadata"), "field 'metadata' of the manifest should be an object, found None"),
        (lambda m: m.update(metadata=[1]), r"field 'metadata' of the manifest should be an object, found \[1\]"),
    ],
)
def test_parameters_with_such_a_manifest_are_refused(change, says, tmp_path):
    save_params(tmp_path / "params", {"a": np.ones(2, np.float32)}, {"seed": 0})
    sealed(tmp_path / "params", change)
    with pytest.raises(CheckpointError, match=says):
        load_params(tmp_path / "params")
    if "metadata" in says:
        with pytest.raises(CheckpointError, match=says):
            load_metadata(tmp_path / "params")


def test_a_leaf_below_another_is_no_tree(tmp_path):
    """Saved, a leaf is in no other; a name that says so would be written into an array."""
    empty = hashlib.sha256(b"").hexdigest()
    save_params(tmp_path / "params", {"a": np.ones(2, np.float32)}, {})
    below = {"a/b": {**LEAF, "shape": [0], "sha256": empty}}
    sealed(tmp_path / "params", lambda m: m["leaves"].update(below))
    with pytest.raises(CheckpointError, match="leaf 'a/b' stands below another leaf"):
        load_params(tmp_path / "params")


@pytest.mark.parametrize("field", ["fingerprint", "host"])
def test_a_step_without_a_part_of_its_manifest_is_passed_over(field, tmp_path):
    checkpoints = Checkpoints(tmp_path, fingerprint={"seed": 0})
    state = {"x": np.ones(2, np.float32)}
    for step in (1, 2):
        checkpoints.save(step, state, {"best": 0.5})
    checkpoints.wait()
    sealed(tmp_path / "2", lambda m: m.update({field: 3}))
    with pytest.warns(UserWarning, match=f"field '{field}' of the manifest should be an object, found 3"):
        found = checkpoints.restore(state)
    assert found.step == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sealed(tmp_path / "1", lambda m: m.pop(field))
        with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
            checkpoints.restore(state)
