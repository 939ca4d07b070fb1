"""Checkpoints of several processes: each writes and reads what it holds, and another number of them reads them too."""

import importlib.util
import json
import shutil
from pathlib import Path

import checkpoint_task
import jax
import numpy as np
import pytest
import several
import store_server
from orbax.checkpoint import v1 as ocp

from rlhf_jax import checkpoint, parallel
from rlhf_jax.runs.store import Mirror, Objects

TASK = Path(__file__).parent / "checkpoint_task.py"
pytestmark = pytest.mark.timeout(600)


def save(folder, count, devices, sizes, *url):
    several.run([TASK, "save", folder, sizes, *url], count, devices=devices)


def restored(folder, count, devices, sizes):
    return several.run([TASK, "restore", folder, sizes], count, devices=devices)


def manifest(step):
    text = ocp.load_checkpointables(step, {"manifest": None})["manifest"]["json"]
    return json.loads(np.asarray(text).tobytes())["manifest"]


@pytest.fixture(scope="module")
def url():
    """A run in an object store, where one can be served."""
    if not all(importlib.util.find_spec(name) for name in ("moto", "s3fs", "flask_cors")):
        yield None
        return
    with store_server.serving():
        yield "s3://bucket/saved"


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, url):
    """Saved by two processes with four devices each, and sent to the store as well."""
    folder = tmp_path_factory.mktemp("two")
    save(folder, 2, 4, "4,2", *([url] if url else []))
    return folder


def test_eight_devices_in_two_processes_continue_on_four_in_one(by_two):
    (said,) = restored(by_two, 1, 4, "2,2")
    assert "step 2 {'best': 0.5} True" in said
    assert "params True" in said


def test_what_two_processes_sent_to_a_store_is_restored_here(by_two, url, tmp_path):
    if url is None:
        pytest.skip("no object store: pip install -e '.[test]'")
    Mirror(tmp_path, Objects(url)).bring(checkpoints=True)
    assert sorted(p.name for p in (tmp_path / "checkpoints" / "all").iterdir()) == ["1", "2"]
    like = checkpoint_task.placed(parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=2), devices=jax.devices()[:4]))
    found = checkpoint.Checkpoints(tmp_path / "checkpoints" / "all", fingerprint={"seed": 0}).restore(like)
    assert found.step == 2
    assert checkpoint.tree_sha256(found.tree) == checkpoint.tree_sha256(like)


def test_four_devices_in_one_process_continue_on_eight_in_two(tmp_path):
    save(tmp_path, 1, 4, "2,2")
    for said in restored(tmp_path, 2, 4, "4,2"):
        assert "step 2 {'best': 0.5} True" in said
        assert "params True" in said


def test_every_process_writes_what_it_holds_and_every_piece_has_its_hash(by_two):
    step = by_two / "checkpoints" / "all" / "2"
    leaves = manifest(step)["leaves"]
    assert len(leaves["both"]["pieces"]) == 8
    assert len(leaves["keys"]["pieces"]) == 8
    assert "sha256" in leaves["whole"]
    folders = (step / "arrays").glob("ocdbt.process_*")
    written = {folder.name: sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) for folder in folders}
    assert written.keys() == {"ocdbt.process_0", "ocdbt.process_1"}
    assert min(written.values()) > 0


@pytest.mark.parametrize("whose", [0, 1])
def test_a_flipped_bit_is_found_by_whoever_reads_it_and_all_take_the_step_before(tmp_path, by_two, whose):
    shutil.copytree(by_two, tmp_path, dirs_exist_ok=True)
    step = tmp_path / "checkpoints" / "all" / "2"
    (data,) = (step / "arrays" / f"ocdbt.process_{whose}" / "d").iterdir()
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 1
    data.write_bytes(content)
    for said in restored(tmp_path, 2, 4, "2,4"):
        assert "step 1 {'best': 0.5} True" in said
        assert "falling back to the step before" in said
        assert str(step) in said
