"""An array is read from beginning to end in slices: the same bytes wherever it lies, and never many at once."""

import functools

import jax
import numpy as np
import pytest

from rlhf_jax import checkpoint, parallel, processes
from rlhf_jax.parallel import compiled
from rlhf_jax.processes.slices import gathering

LIMIT = 256  # bytes
SPECS = [jax.P(), jax.P("data"), jax.P(None, "fsdp"), jax.P("data", "fsdp"), jax.P(None, None, ("data", "fsdp"))]


@functools.cache
def mesh():
    return parallel.make_mesh(parallel.MeshConfig(data=4, fsdp=2), devices=jax.devices()[:8])


def numbers(shape, dtype):
    """Any bits, so the sign of zero and NaN too, of which bfloat16 has one: the tests XLA knows no other."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    drawn = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    drawn = drawn % 2 if np.dtype(dtype).kind == "b" else drawn
    found = drawn.view(dtype).reshape(shape)
    if np.dtype(dtype) == jax.numpy.bfloat16:
        bits = found.view(np.uint16)
        found = np.where(bits & 0x7FFF > 0x7F80, np.uint16(0x7FC0), bits).view(dtype)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", bool])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_slices_joined_are_the_whole_and_none_is_above_the_limit(spec, dtype):
    whole = numbers((4, 6, 24), jax.numpy.dtype(dtype))
    for array in (whole, jax.device_put(whole, jax.NamedSharding(mesh(), spec))):
        found = list(processes.slices(array, LIMIT))
        assert len(found) > 1
        assert max(x.nbytes for x in found) <= LIMIT
        assert b"".join(x.tobytes() for x in found) == whole.tobytes()


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (7,), (331,), (13, 17), (3, 5, 67), (1, 1, 1, 200), (200, 1)])
def test_any_size_is_read_whole_and_in_order(shape):
    whole = numbers(shape, np.float32)
    for array in (whole, jax.device_put(whole, jax.devices()[1])):
        assert b"".join(x.tobytes() for x in processes.slices(array, LIMIT)) == whole.tobytes()


def test_the_devices_gather_no_more_than_a_slice():
    """The program's own words: all that is exchanged is one sum, and its result has the size of a slice."""
    place, sizes = jax.NamedSharding(mesh(), jax.P("data", "fsdp")), (1, 2, 24)
    array = jax.ShapeDtypeStruct((4, 6, 24), np.float32, sharding=place)
    text = gathering(place, 3, sizes).lower(array, np.zeros(3, np.int32)).compile().as_text()
    exchanged = compiled.read(text).collectives
    assert [x.kind for x in exchanged] == ["all-reduce"]
    assert exchanged[0].bytes == 4 * np.prod(sizes) <= LIMIT


def test_the_hash_of_a_tree_is_made_of_slices(monkeypatch):
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(8, 100)), "b": np.float32(2), "c": rng.normal(size=(3, 7, 8)).astype(np.float32)}
    tree["a"] = tree["a"].astype(np.float32)
    wanted, seen = checkpoint.tree_sha256(tree), []
    original = processes.slices

    def counted(array):
        for piece in original(array, LIMIT):
            seen.append(piece.nbytes)
            yield piece

    monkeypatch.setattr(processes, "slices", counted)
    specs = {"a": jax.P("data"), "b": jax.P(), "c": jax.P(None, None, "data")}
    spread = {name: jax.device_put(x, jax.NamedSharding(mesh(), specs[name])) for name, x in tree.items()}
    assert checkpoint.tree_sha256(spread) == checkpoint.tree_sha256(tree) == wanted
    assert max(seen) <= LIMIT
    assert sum(seen) == 2 * sum(x.nbytes for x in tree.values())
