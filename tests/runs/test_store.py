"""Runs in an object store: S3 as moto serves it on this machine. Nothing here leaves the machine."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import store_server
import tiny_task

from rlhf_jax import checkpoint, stages
from rlhf_jax.checkpoint import Checkpoints
from rlhf_jax.cli import run as rlhf
from rlhf_jax.runs.lock import LockedError, locked
from rlhf_jax.runs.store import Mirror, Objects, StoreError, local, open_run, places, url_of
from rlhf_jax.runs.store.checkpoints import StoredCheckpoints

TASK = Path(__file__).parent.parent / "store_task.py"


@pytest.fixture(scope="module", autouse=True)
def server():
    with store_server.serving():
        yield


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A machine that has nothing yet: an empty cache folder, and a process that has opened no run."""
    monkeypatch.setenv("RLHF_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(places, "_WORKED_ON", {})
    monkeypatch.setattr(places, "_READ", {})


def whole(url):
    """The folders that are whole in a store."""
    names = Objects(url).sizes()
    return sorted(name.removesuffix("/_WHOLE.json") for name in names if name.endswith("/_WHOLE.json"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("s3://bucket/run", "s3://bucket/run"),
        (Path("gs://bucket/a/run"), "gs://bucket/a/run"),
        ("s3://bucket/run/", "s3://bucket/run"),
        ("runs/mine", None),
        ("C:/runs/mine", None),
        ("s3", None),
    ],
)
def test_a_url_is_told_from_a_path(text, found):
    assert url_of(text) == found


def test_a_bucket_alone_is_no_run():
    for text in ("s3://bucket", "s3://bucket/../other"):
        with pytest.raises(StoreError, match="expected s3://BUCKET/FOLDER"):
            url_of(text)


def test_a_step_counts_once_all_of_it_is_there(tmp_path, monkeypatch):
    """The list comes last, so a sender that dies, at whatever object, leaves the step before."""
    url, count = "s3://bucket/steps", 0
    mirror = Mirror(tmp_path / "here", Objects(url))
    here = Checkpoints(tmp_path / "here" / "checkpoints" / "sft", fingerprint={"seed": 0}, keep=1)
    store = StoredCheckpoints(here, mirror)
    store.save(1, {"x": np.arange(3.0)}, {})
    store.wait()
    assert whole(url) == ["checkpoints/sft/1"]
    original = Objects.put

    def dies(self, file, name):
        nonlocal count
        count += 1
        if count == 3:
            raise StoreError("the network is gone")
        original(self, file, name)

    monkeypatch.setattr(Objects, "put", dies)
    store.save(2, {"x": np.arange(3.0) + 1}, {})
    with pytest.raises(StoreError, match="the network is gone"):
        store.wait()
    assert whole(url) == ["checkpoints/sft/1"]
    assert any(name.startswith("checkpoints/sft/2/") for name in Objects(url).sizes())

    Mirror(tmp_path / "there", Objects(url)).bring(checkpoints=True)
    there = Checkpoints(tmp_path / "there" / "checkpoints" / "sft", fingerprint={"seed": 0})
    found = there.restore({"x": np.zeros(3)})
    assert (found.step, found.tree["x"].tolist()) == (1, [0.0, 1.0, 2.0])

    store.save(3, {"x": np.arange(3.0) + 2}, {})  # the network is back; steps that are no longer here go
    store.wait()
    assert whole(url) == ["checkpoints/sft/3"]
    assert not [name for name in Objects(url).sizes() if name.startswith(("checkpoints/sft/1", "checkpoints/sft/2"))]


def test_the_local_folder_becomes_what_the_store_has(tmp_path):
    one = Mirror(tmp_path / "one", Objects("s3://bucket/same"))
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "metrics.jsonl").write_text('{"step": 1}\n')
    checkpoint.save_params(tmp_path / "one" / "params" / "sft", {"x": np.ones(2)}, {"seed": 0})
    one.send("params/sft")
    two = Mirror(tmp_path / "two", Objects("s3://bucket/same"))
    two.bring(checkpoints=True)
    kept = (tmp_path / "two" / "params" / "sft").stat().st_ino
    (tmp_path / "two" / "metrics.jsonl").write_text("of an attempt that nobody knows\n")
    (tmp_path / "two" / "checkpoints" / "sft" / "9").mkdir(parents=True)
    (tmp_path / "two" / ".lock").write_text("{}")
    two.bring(checkpoints=True)
    assert (tmp_path / "two" / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert not (tmp_path / "two" / "checkpoints" / "sft" / "9").exists()
    assert (tmp_path / "two" / ".lock").exists()
    assert (tmp_path / "two" / "params" / "sft").stat().st_ino == kept  # not fetched again
    assert checkpoint.load_params(tmp_path / "two" / "params" / "sft")[0]["x"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", ["../../outside", "/outside"])
def test_names_in_a_list_do_not_lead_out_of_the_folder(tmp_path, name):
    objects = Objects("s3://bucket/foreign")
    objects.write("params/sft/_WHOLE.json", json.dumps({"version": "", "pieces": {name: 1}}).encode())
    with pytest.raises(checkpoint.CheckpointError, match="outside"):
        Mirror(tmp_path / "run", objects).bring(checkpoints=False)


def test_a_run_killed_in_an_upload_goes_on_from_an_empty_folder_bit_for_bit(
    tmp_path, elsewhere, tables, sft_run, one_device, capsys
):
    """The run of ``sft_run``, killed while it sends its second checkpoint, and continued on another machine."""
    url = "s3://bucket/runs/killed"
    environment = {**os.environ, "RLHF_JAX_CACHE": str(tmp_path / "first machine"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(TASK), str(tables), url, "checkpoints/sft/6"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert whole(url) == ["checkpoints/sft/3"]
    assert any(name.startswith("checkpoints/sft/6/") for name in Objects(url).sizes())

    result = stages.sft(tiny_task.sft_config(tables, url), mesh=one_device)
    hashes = [json.loads((x.directory / "summary.json").read_text())["params_sha256"]["sft"] for x in (result, sft_run)]
    assert hashes[0] == hashes[1]
    assert [row["step"] for row in result.metrics] == [row["step"] for row in sft_run.metrics]
    assert whole(url) == ["checkpoints/sft/6", "checkpoints/sft/8", "params/sft"]

    assert rlhf(["sample", f"{url}:sft", "The cat and", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out.strip()
    assert checkpoint.tree_sha256(stages.Policy.load(url).params) == checkpoint.tree_sha256(
        stages.Policy.load(f"{sft_run.directory}:sft").params  # later stages may stand in this folder
    )


def test_a_folder_that_another_process_works_in_is_left_alone(elsewhere):
    work = places._folder("work", "s3://bucket/busy")
    (work / "checkpoints" / "sft" / "3").mkdir(parents=True)
    with ThreadPoolExecutor(1) as other, locked(work, "the sft stage"):
        asked = other.submit(open_run, "s3://bucket/busy")
        with pytest.raises(LockedError, match="is in use"):
            asked.result()
    assert (work / "checkpoints" / "sft" / "3").exists()


def test_what_is_missing_is_said_in_one_sentence(monkeypatch, elsewhere):
    with pytest.raises(StoreError, match="make the bucket first"):
        open_run("s3://nobody/run")
    with pytest.raises(StoreError, match="nothing is there"):
        local("s3://bucket/nothing")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StoreError, match="give this machine credentials"):
        open_run("s3://bucket/other")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StoreError, match=r"pip install 'gcsfs', or in a clone pip install -e '\.\[stores\]'"):
        open_run("gs://bucket/run")


def test_a_run_that_two_steps_read_from_is_fetched_once(elsewhere):
    assert open_run("runs/mine", "", "runs/other:ppo", "judge.py:score") == Path("runs/mine")
