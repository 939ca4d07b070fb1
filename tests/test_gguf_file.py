"""A GGUF header is held against its file: no count in it is believed, whatever is opened for."""

import tracemalloc

import gguf_files
import pytest

from rlhf_jax import gguf_file
from rlhf_jax.data import DataError
from rlhf_jax.data.tokenizer.gguf import write_tokenizer
from rlhf_jax.files import CheckpointError
from rlhf_jax.gguf_file import open_gguf

UINT8, STRING, ARRAY = 0, 8, 9


def number(n, size=8):
    return n.to_bytes(size, "little")


def text(value):
    return number(len(value)) + value.encode()


def header(value, tensors=0, pairs=1):
    """A file of one key-value pair, whose value is these bytes."""
    return b"GGUF" + number(3, 4) + number(tensors) + number(pairs) + text("a.key") + value


def entries(kind, count, content=b""):
    return number(kind, 4) + number(count) + content


def listed(kind, count, content=b""):
    return number(ARRAY, 4) + entries(kind, count, content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(listed(UINT8, 2**60)), "the file ends inside its header"),
        (header(listed(UINT8, 2**64 - 1)), "the file ends inside its header"),
        (header(listed(STRING, 5, number(2**62))), "the file ends inside its header"),
        (header(number(STRING, 4) + number(2**63)), "the file ends inside its header"),
        (header(number(STRING, 4) + text("x"), pairs=2**61), "the file ends inside its header"),
        (header(number(STRING, 4) + text("x"), tensors=2**61), "the file ends inside its header"),
        (header(listed(ARRAY, 1, entries(ARRAY, 1, entries(UINT8, 1, b"a")))), "in 3 levels, more than any model's"),
        (header(listed(UINT8, 300, bytes(300))), "its lists have 300 entries"),
        (header(number(STRING, 4) + text("x"), tensors=1) + text("t") + number(5, 4) + bytes(80), "a tensor of 5 axes"),
        (header(number(99, 4)), "not a GGUF file that can be read"),
        (b"", "not a GGUF file that can be read"),
        (b"GGUF", "the file ends inside its header"),
    ],
)
def test_a_header_that_is_larger_than_its_file_is_refused_at_once(content, says, tmp_path, monkeypatch):
    """By whoever opens the file: the reader of the package counted to 2^60 here, in the tokenizer's part."""
    monkeypatch.setattr(gguf_file, "MOST_ENTRIES", 256)
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=says):
        open_gguf(path)
    with pytest.raises(DataError, match=says):
        write_tokenizer(path, tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def test_a_text_that_is_no_utf8_is_named(tmp_path):
    path = gguf_files.write(tmp_path / "m.gguf", "llama", {}, pairs={"general.name": "abcdefgh"})
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"\xff" * 8))
    with pytest.raises(CheckpointError, match=r"m.gguf: not a GGUF file that can be read \('utf-8' codec"):
        gguf_file.key_values(open_gguf(path), str(path))
