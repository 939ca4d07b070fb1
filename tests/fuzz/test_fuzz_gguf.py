"""GGUF: mutated files of every architecture, and whole ones whose key-value pairs say anything."""

import gguf
import gguf_files
import pytest
from fuzzing import TEXTS, mutated, read_or_refused, share
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data import DataError
from rlhf_jax.data.tokenizer.gguf import write_tokenizer
from rlhf_jax.models import CheckpointError, load_pretrained
from rlhf_jax.models.gguf import read_gguf

TOKENIZERS = {
    "gpt2": gguf_files.byte_level("llama-bpe", chat_template="{{ messages }}"),
    "llama": gguf_files.sentencepiece({"a": -1.0, "b": -2.0, "ab": -3.0, "▁": -4.0}),
}
WHOLE = st.integers(0, 2**32 - 1)
ANYTHING = st.one_of(
    WHOLE,
    st.booleans(),
    st.floats(width=32),
    TEXTS.filter(lambda text: text.isascii()),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),  # as the package writes them
    st.lists(TEXTS.filter(lambda text: text.isascii()), min_size=1, max_size=5),
    st.lists(st.floats(width=32), min_size=1, max_size=5),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A valid file for every architecture; two of them with tokenizers. With each goes the length of its header."""
    folder = tmp_path_factory.mktemp("gguf")
    found = {}
    for arch in gguf_files.ARCHITECTURES:
        path = folder / f"{arch}.gguf"
        gguf_files.write(path, arch, gguf_files.hf_tensors(arch), tokenizer=TOKENIZERS.get(arch))
        found[arch] = path.read_bytes(), int(gguf.GGUFReader(path).data_offset)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


def read_all(file):
    with read_or_refused(CheckpointError):
        _, source = read_gguf(file)
        for name, info in source.names().items():
            values = source.read(name)
            assert (values.shape, values.dtype.name) == (info.shape, info.dtype)
    with read_or_refused(DataError):
        write_tokenizer(file, file.parent)


@share(60)
@given(st.sampled_from(gguf_files.ARCHITECTURES), st.data())
def test_a_file_mutated(whole, folder, arch, data):
    valid, header = whole[arch]
    (folder / "m.gguf").write_bytes(data.draw(mutated(valid, head=header)))
    read_all(folder / "m.gguf")


@share(30)
@given(st.sampled_from(["llama", "gpt2"]), st.data())
def test_pairs_that_say_anything(folder, arch, data):
    """A file as it should be, but for a few values that it gives."""
    keys = ["attention.head_count", "attention.head_count_kv", "embedding_length", "block_count", "context_length"]
    keys += ["feed_forward_length", "rope.freq_base", "attention.sliding_window", "rope.scaling.type", "vocab_size"]
    keys += ["rope.scaling.factor", "attention.key_length", "attention.layer_norm_rms_epsilon", "expert_count"]
    keys = [f"{arch}.{key}" for key in keys] + ["split.count", "general.name", "tokenizer.chat_template"]
    keys += [f"tokenizer.ggml.{key}" for key in ("bos_token_id", "add_bos_token", "unknown_token_id", "scores")]
    keys += [f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "token_type", "merges", "eos_token_id")]
    pairs = data.draw(st.dictionaries(st.sampled_from(keys), ANYTHING, min_size=1, max_size=3))
    file = folder / "p.gguf"
    tensors = gguf_files.hf_tensors(arch)
    try:
        gguf_files.write(file, arch, tensors, pairs={**TOKENIZERS[arch], **pairs}, sizes=not data.draw(st.booleans()))
    except ValueError:  # the package's writer refuses a key that is given twice
        gguf_files.write(file, arch, tensors, pairs={**TOKENIZERS[arch], **pairs}, sizes=False)
    read_all(file)


@share(10)
@given(st.sampled_from(["llama", "gpt2", "gemma3"]), st.data())
def test_a_mutated_file_as_a_model(whole, folder, arch, data):
    valid, header = whole[arch]
    (folder / "m.gguf").write_bytes(data.draw(mutated(valid, head=header)))
    with read_or_refused(CheckpointError):
        load_pretrained(folder / "m.gguf")
