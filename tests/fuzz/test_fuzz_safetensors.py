"""Safetensors and the config beside them: headers of any numbers, mutated files, configs of any values."""

import json

import jax
import ml_dtypes  # noqa: F401
import numpy as np
import pytest
from fuzzing import NUMBERS, TEXTS, VALUES, changed, mutated, read_or_refused, share
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import models
from rlhf_jax.models import CheckpointError, ModelConfig, load_peft, load_pretrained, save_peft, save_pretrained
from rlhf_jax.models.weights import safetensors_source

SIZES = {"vocab_size": 16, "d_model": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "d_ff": 8}
DTYPES = st.one_of(st.sampled_from(["F32", "BF16", "F16", "I8", "BOOL", "F8_E4M3", "F64", "U64", "f32", "X"]), VALUES)
SHAPES = st.one_of(st.lists(st.one_of(st.integers(-1, 4), NUMBERS), max_size=3), VALUES)
OFFSETS = st.one_of(st.lists(st.one_of(st.integers(-8, 40), NUMBERS), max_size=3), VALUES)
ENTRIES = st.one_of(st.fixed_dictionaries({"dtype": DTYPES, "shape": SHAPES, "data_offsets": OFFSETS}), VALUES)


@st.composite
def files(draw):
    """A header of anything, a length of anything before it, some bytes behind it."""
    header = draw(st.one_of(st.dictionaries(TEXTS, ENTRIES, max_size=3), VALUES))
    text = json.dumps(header).encode()
    if draw(st.booleans()) and text.startswith(b"{"):
        text = text[:-1] + b"," + text[1:]  # every name twice
    length = draw(st.one_of(st.just(len(text)), st.just(len(text)), st.integers(0, 2**64 - 1)))
    return length.to_bytes(8, "little") + text + draw(st.binary(max_size=40))


@st.composite
def laid_out(draw):
    """A header that is right for the bytes behind it but for one entry."""
    entries, end = {}, 0
    for name in "abc":
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        n = 4 * int(np.prod(shape, dtype=int))
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + n]}
        end += n
    text = json.dumps(draw(st.one_of(st.just(entries), changed(entries)))).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model with its adapter: the bytes of its weights, its config, and the folder that holds them."""
    folder = tmp_path_factory.mktemp("safetensors") / "model"
    config = ModelConfig(**SIZES)
    params = models.build(config).init(jax.random.key(0))
    save_pretrained(folder, config, params, max_shard_bytes=1000)
    lora = models.LoRAConfig(rank=2, targets="query")
    save_peft(folder.parent / "adapter", *models.add_adapters(config, params, lora, jax.random.key(1)), base="base")
    return folder


def read_all(folder):
    source = safetensors_source(folder)
    for name, info in source.names().items():
        values = source.read(name)
        assert (values.shape, values.dtype.name) == (info.shape, info.dtype)


@share(35)
@given(st.one_of(files(), laid_out()))
def test_any_header(tmp_path, data):
    (tmp_path / "model.safetensors").write_bytes(data)
    with read_or_refused(CheckpointError):
        read_all(tmp_path)


@share(25)
@given(st.data())
def test_a_file_mutated(whole, tmp_path, data):
    shard = sorted(whole.glob("*.safetensors"))[0].read_bytes()
    (tmp_path / "model.safetensors").write_bytes(
        data.draw(mutated(shard, head=8 + int.from_bytes(shard[:8], "little")))
    )
    with read_or_refused(CheckpointError):
        read_all(tmp_path)


@share(15)
@given(st.data())
def test_an_index_changed(whole, data):
    file = whole / "model.safetensors.index.json"
    index = file.read_text()
    try:
        names = st.sampled_from(
            ["../a", "/etc/passwd", "model-00001-of-00004.safetensors", "config.json", "a\0", ".", "x" * 300]
        )
        file.write_text(json.dumps(data.draw(changed(json.loads(index), st.one_of(names, VALUES)))))
        with read_or_refused(CheckpointError):
            read_all(whole)
    finally:
        file.write_text(index)


@share(15)
@given(st.data())
def test_a_config_changed(whole, data):
    """Mostly refused: the weights are still those of the config that it was."""
    file = whole / "config.json"
    config = file.read_text()
    try:
        file.write_text(json.dumps(data.draw(changed(json.loads(config), st.one_of(NUMBERS, VALUES)))))
        with read_or_refused(CheckpointError):
            load_pretrained(whole)
    finally:
        file.write_text(config)


@share(10)
@given(st.data())
def test_an_adapters_config_changed(whole, data):
    file = whole.parent / "adapter" / "adapter_config.json"
    said = file.read_text()
    fields = {**json.loads(said), "rank_pattern": {"q_proj": 2}, "alpha_pattern": {".*": 3}}
    patterns = st.sampled_from([{"(a|a)*b": 2}, {"(": 1}, {"(.*)*x": 2}, {"x": "y"}, {"a" * 5000: 2}])
    config = ModelConfig(**SIZES)
    try:
        file.write_text(json.dumps(data.draw(changed(fields, st.one_of(patterns, VALUES)))))
        with read_or_refused(CheckpointError):
            load_peft(file.parent, config, models.build(config).init(jax.random.key(0)))
    finally:
        file.write_text(said)
