import errno
import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from rlhf_jax.checkpoint import CheckpointError, Checkpoints, load_metadata, load_params, save_params, tree_sha256
from rlhf_jax.training import TrainState, init_state

CONFIG = {"seed": 0, "optimizer": {"learning_rate": 0.001, "b1": 0.9}}


def make_tree(value=1.0):
    return {
        "w": jnp.full((64, 8), value, jnp.float32).at[3, 2].set(-0.0),
        # Random bits do not compress, so the largest file is sure to be this leaf's.
        "noise": value + jax.random.normal(jax.random.key(1), (128, 128)),
        "half": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
        "count": jnp.int32(7),
        "flags": jnp.array([True, False]),
        "empty": jnp.zeros((3, 0), jnp.float32),
        "keys": jax.random.split(jax.random.key(5), 3),
        "bits": jnp.array([0, 2**32 - 1], jnp.uint32),
    }


def same(a, b):
    raw = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and np.asarray(raw(x)).tobytes() == np.asarray(raw(y)).tobytes()
        for x, y in pairs
    )


def store(directory, **changes):
    return Checkpoints(directory, **{"fingerprint": CONFIG, **changes})


def filled(directory, *steps, keep=2):
    checkpoints = store(directory, keep=keep)
    for step in steps:
        checkpoints.save(step, make_tree(step), {"best": step / 10})
    checkpoints.wait()
    return checkpoints


def largest_file(folder):
    return max((path for path in Path(folder).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(path, at=0.5):
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 4
    path.write_bytes(content)


def test_everything_comes_back_bit_for_bit(tmp_path):
    host = {"best": 0.1 + 0.2, "none": None, "infinite": float("inf"), "list": [1, "ü"]}
    first = store(tmp_path / "ck")
    assert first.restore(make_tree()) is None
    first.save(12, make_tree(2.5), host)
    first.wait()
    found = store(tmp_path / "ck").restore(make_tree())
    assert (found.step, found.host) == (12, host)
    assert same(found.tree, make_tree(2.5))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(found.tree))
    assert not same(found.tree, make_tree(0.0))


def test_a_restored_key_draws_what_the_saved_one_would(tmp_path):
    for impl in ("threefry2x32", "rbg"):
        checkpoints = store(tmp_path / impl)
        checkpoints.save(1, {"key": jax.random.key(3, impl=impl)}, {})
        found = checkpoints.restore({"key": jax.random.key(0, impl=impl)}).tree["key"]
        assert jax.random.normal(found) == jax.random.normal(jax.random.key(3, impl=impl))


def test_a_train_state_keeps_its_type(tmp_path):
    state = init_state({"policy": {"x": jnp.arange(3.0)}}, optax.adam(1e-3))
    checkpoints = store(tmp_path)
    checkpoints.save(1, {"state": state, "best": {}}, {})
    found = checkpoints.restore({"state": state, "best": {}}).tree
    assert isinstance(found["state"], TrainState)
    assert same(found["state"], state)


def test_saving_is_safe_against_donation(tmp_path):
    checkpoints = store(tmp_path)
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    x = jnp.arange(2.0**18)
    checkpoints.save(1, {"x": x}, {})
    for _ in range(3):
        x = overwrite(x)
    found = checkpoints.restore({"x": jnp.zeros(2**18)}).tree["x"]
    np.testing.assert_array_equal(found, np.arange(2.0**18, dtype=np.float32))
    # and what was restored may be donated, without harm to a second reading
    overwrite(found)
    again = checkpoints.restore({"x": jnp.zeros(2**18)}).tree["x"]
    np.testing.assert_array_equal(again, np.arange(2.0**18, dtype=np.float32))


def test_only_the_newest_are_kept(tmp_path):
    assert filled(tmp_path / "two", 1, 2, 3).steps() == [2, 3]
    assert filled(tmp_path / "one", 1, 2, 10, keep=1).steps() == [10]
    with pytest.raises(ValueError, match="at least 1"):
        store(tmp_path, keep=0)


def test_a_flipped_bit_falls_back_to_the_step_before(tmp_path):
    filled(tmp_path, 10, 20)
    flip_a_bit(largest_file(tmp_path / "20"))
    with pytest.warns(UserWarning, match=r"20.*falling back to the step before"):
        found = store(tmp_path).restore(make_tree())
    assert (found.step, found.host) == (10, {"best": 1.0})
    assert same(found.tree, make_tree(10))


# Orbax leaves a reader behind when a read fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_bit_flipped_in_any_file_is_never_believed(tmp_path):
    filled(tmp_path, 10, 20)
    files = [path for path in sorted((tmp_path / "20").rglob("*")) if path.is_file() and path.stat().st_size]
    assert len(files) > 8
    for path in files:
        before = path.read_bytes()
        for at in (0.3, 0.9):
            flip_a_bit(path, at)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = store(tmp_path).restore(make_tree())
            assert found.step in (10, 20)
            assert same(found.tree, make_tree(found.step)), path  # whichever it took, it is right
            assert found.host == {"best": found.step / 10}
            path.write_bytes(before)


@pytest.mark.parametrize("harm", ["truncate", "delete file", "delete manifest", "empty folder"])
def test_a_damaged_step_falls_back(tmp_path, harm):
    filled(tmp_path, 10, 20)
    if harm == "truncate":
        largest = largest_file(tmp_path / "20")
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif harm == "delete file":
        largest_file(tmp_path / "20").unlink()
    else:
        for path in sorted((tmp_path / "20").rglob("*"), reverse=True):
            if path.is_file() and (harm == "empty folder" or "manifest" in path.parts):
                path.unlink()
    with pytest.warns(UserWarning, match="falling back"):
        assert store(tmp_path).restore(make_tree()).step == 10


def test_nothing_left_to_fall_back_to_is_an_error(tmp_path):
    filled(tmp_path, 10, 20)
    for step in (10, 20):
        flip_a_bit(largest_file(tmp_path / str(step)))
    with (
        pytest.warns(UserWarning, match="falling back"),
        pytest.raises(
            CheckpointError,
            match=r"none of the 2 checkpoints .* bring one back from a copy",
        ),
    ):
        store(tmp_path).restore(make_tree())


def test_after_a_fallback_the_abandoned_future_goes(tmp_path):
    filled(tmp_path, 10, 20)
    flip_a_bit(largest_file(tmp_path / "20"))
    checkpoints = store(tmp_path)
    with pytest.warns(UserWarning, match="falling back"):
        checkpoints.restore(make_tree())
    checkpoints.save(15, make_tree(15), {})
    checkpoints.wait()
    assert checkpoints.steps() == [10, 15]
    checkpoints.save(15, make_tree(16), {})  # and a step may be written again
    assert same(checkpoints.restore(make_tree()).tree, make_tree(16))


def test_what_a_killed_save_left_is_ignored_and_removed(tmp_path):
    filled(tmp_path, 10)
    half = tmp_path / "20.orbax-checkpoint-tmp-1700000000000000"
    half.mkdir()
    (half / "_CHECKPOINT_METADATA").write_text("{}")
    checkpoints = store(tmp_path)
    assert checkpoints.restore(make_tree()).step == 10
    checkpoints.save(20, make_tree(20), {})
    checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20"]


def test_another_config_is_refused_by_name(tmp_path):
    filled(tmp_path, 10)
    other = {"seed": 1, "optimizer": {"learning_rate": 0.001, "b2": 0.95}}
    with pytest.raises(CheckpointError) as caught:
        store(tmp_path, fingerprint=other).restore(make_tree())
    message = str(caught.value)
    for words in ("seed was 0 and is now 1", "optimizer.b1 is gone (was 0.9)", "optimizer.b2 is new (0.95)"):
        assert words in message
    assert "learning_rate" not in message


def test_another_tree_is_refused_by_name(tmp_path):
    checkpoints = filled(tmp_path, 10)
    without = {name: leaf for name, leaf in make_tree().items() if name != "flags"}
    with pytest.raises(CheckpointError, match=r"lacks \['more'\] and has \['flags'\] besides"):
        checkpoints.restore({**without, "more": jnp.zeros(2)})
    with pytest.raises(CheckpointError, match=r"leaf 'w' is float32\[64, 8\], this run needs bfloat16\[64, 8\]"):
        checkpoints.restore({**make_tree(), "w": jnp.zeros((64, 8), jnp.bfloat16)})
    with pytest.raises(CheckpointError, match=r"needs float32\[8, 64\]"):
        checkpoints.restore({**make_tree(), "w": jnp.zeros((8, 64))})


def test_plain_numbers_belong_into_host(tmp_path):
    with pytest.raises(CheckpointError, match="leaf 'x' is a float, not an array"):
        store(tmp_path).save(1, {"x": 1.0}, {})


def test_a_failed_save_is_heard_of(tmp_path):
    (tmp_path / "ck").write_text("a file where the folder should be")
    checkpoints = store(tmp_path / "ck")
    with pytest.raises(CheckpointError, match=r"ck could not be saved \(FileExistsError.*make room"):
        checkpoints.save(1, make_tree(), {})
    checkpoints.wait()  # nothing is left of it


def test_one_mesh_saves_and_another_restores(tmp_path):
    def placed(shape, axes):
        mesh = jax.make_mesh(shape, ("a", "b"), devices=jax.devices()[: shape[0] * shape[1]])
        return NamedSharding(mesh, PartitionSpec(*axes))

    x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    checkpoints = store(tmp_path)
    checkpoints.save(1, {"x": jax.device_put(x, placed((4, 2), ("a", "b")))}, {})
    for sharding in (placed((2, 4), ("b", "a")), placed((1, 1), ()), placed((8, 1), ("a",))):
        like = {"x": jax.device_put(np.zeros_like(x), sharding)}
        shapes = {"x": jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)}
        for found in (
            checkpoints.restore(like),
            checkpoints.restore(shapes),
            checkpoints.restore({"x": x}, sharding),
            checkpoints.restore({"x": x}, {"x": sharding}),
        ):
            assert found.tree["x"].sharding == sharding
            np.testing.assert_array_equal(found.tree["x"], x)


def test_params_and_metadata(tmp_path):
    params = {"policy": {"blocks": {"up": jnp.ones((2, 3), jnp.bfloat16)}, "bias": jnp.arange(3.0)}}
    save_params(tmp_path / "params", params, {"model": {"layers": 2}})
    found, metadata = load_params(tmp_path / "params")
    assert same(found, params)
    assert metadata == load_metadata(tmp_path / "params") == {"model": {"layers": 2}}

    # written again over the old ones, with nothing left beside
    (tmp_path / ".params.new.orbax-checkpoint-tmp-17").mkdir()
    save_params(tmp_path / "params", jax.tree.map(lambda x: x + 1, params), {})
    assert float(load_params(tmp_path / "params")[0]["policy"]["bias"][0]) == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["params"]

    mesh = jax.make_mesh((8,), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    assert load_params(tmp_path / "params", everywhere)[0]["policy"]["bias"].sharding == everywhere


def test_damaged_or_missing_params_are_errors(tmp_path):
    save_params(tmp_path / "params", {"x": jnp.arange(1000.0)}, {})
    flip_a_bit(largest_file(tmp_path / "params"))
    with pytest.raises(CheckpointError, match="params"):
        load_params(tmp_path / "params")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_params(tmp_path / "none")
    with pytest.raises(CheckpointError, match="nested dicts"):
        save_params(tmp_path / "other", {"a/b": jnp.zeros(1)}, {})


def test_tree_hash_by_hand():
    data = np.array([1.0, 2.0], np.float32)
    entry = {"dtype": "float32", "shape": [2], "sha256": hashlib.sha256(data.tobytes()).hexdigest()}
    expected = hashlib.sha256(json.dumps({"a/b": entry}, sort_keys=True).encode()).hexdigest()
    assert tree_sha256({"a": {"b": data}}) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"x": np.array([1, 2], np.float32), "z": np.zeros(1)},
        {"x": np.array([1, 2], ml_dtypes.bfloat16), "y": np.zeros(1)},
        {"x": np.array([[1, 2]], np.float32), "y": np.zeros(1)},
        {"x": np.array([1, np.nextafter(np.float32(2), np.float32(3))], np.float32), "y": np.zeros(1)},
    ],
)
def test_tree_hash_sees_names_dtypes_shapes_and_bits(other):
    tree = {"x": np.array([1, 2], np.float32), "y": np.zeros(1)}
    assert tree_sha256(tree) != tree_sha256(other)
    assert tree_sha256(tree) == tree_sha256({"y": np.zeros(1), "x": np.asfortranarray(tree["x"])})


def test_tree_hash_does_not_depend_on_the_mesh():
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("data",))
    assert tree_sha256({"x": jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))}) == tree_sha256({"x": x})


def test_a_full_disk_is_said_and_what_was_saved_before_is_intact(tmp_path):
    script = Path(__file__).parent / "disk_task.py"
    done = subprocess.run([sys.executable, script, tmp_path / "ck"], capture_output=True, text=True, timeout=120)
    said = done.stdout.splitlines()
    assert f"{tmp_path / 'ck' / '3'} could not be saved" in said[0], done.stderr[-2000:]
    assert "what was saved before is as it was" in said[0]
    assert said[1] == "left [1, 2] True"


def test_a_folder_that_cannot_be_written_is_said(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path / "ck", 1)

    def refuse(self, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match=r"ck could not be saved \(OSError.*Read-only file system.*writable"):
        checkpoints.save(2, make_tree(2), {})
    monkeypatch.undo()
    assert checkpoints.restore(make_tree()).step == 1


def test_what_earlier_versions_saved_is_read(tmp_path):
    """They gave every leaf to Orbax as a whole numpy array, with one hash."""
    tree = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "step": np.int32(3)}
    entries = {
        name: {"dtype": str(x.dtype), "shape": list(x.shape), "sha256": hashlib.sha256(x.tobytes()).hexdigest()}
        for name, x in tree.items()
    }
    body = {"step": 3, "host": {"best": 0.5}, "fingerprint": json.loads(json.dumps(CONFIG)), "leaves": entries}
    sha256 = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    text = json.dumps({"sha256": sha256, "manifest": body}).encode()
    arrays = {f"{i:05d}": np.asarray(x) for i, x in enumerate(tree.values())}
    (tmp_path / "ck").mkdir()
    ocp.save_checkpointables(
        tmp_path / "ck" / "3", {"arrays": arrays, "manifest": {"json": np.frombuffer(text, np.uint8)}}
    )
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    like = {"a": jax.device_put(tree["a"] * 0, NamedSharding(mesh, PartitionSpec("x"))), "step": jnp.int32(0)}
    found = store(tmp_path / "ck").restore(like)
    assert (found.step, found.host) == (3, {"best": 0.5})
    assert found.tree["a"].tolist() == tree["a"].tolist()
    assert found.tree["a"].sharding == like["a"].sharding
