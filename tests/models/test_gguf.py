"""Reading GGUF: architectures come back as Hugging Face has them, types by their definition, faults with names."""

import json
import math
import tracemalloc

import chex
import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf_files import ARCHITECTURES, HEADS, LAYERS, LENGTH, MLP, VOCAB, WIDTH, hf_tensors, write

from rlhf_jax import gguf_file
from rlhf_jax.files import CheckpointError
from rlhf_jax.models.gguf import read as ours
from rlhf_jax.models.gguf.read import read_gguf
from rlhf_jax.models.huggingface import load_pretrained
from rlhf_jax.models.weights import write_safetensors

TYPES = gguf.GGMLQuantizationType


# ---- architectures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_tensor_comes_back_under_hugging_faces_name_and_in_its_layout(arch, tmp_path):
    tensors = hf_tensors(arch)
    _, source = read_gguf(write(tmp_path / "m.gguf", arch, tensors))
    assert set(source.names()) == set(tensors)
    for name, values in tensors.items():
        found = source.read(name)
        np.testing.assert_array_equal(found, values, err_msg=name)
        assert source.names()[name] == (found.shape, found.dtype.name) == (values.shape, "float32")
        assert found.flags.c_contiguous
        assert found.flags.owndata or found.base.flags.owndata  # nothing is left that lives in the mapped file


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        (
            "llama",
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "head_dim": 8, "attention_bias": False},
        ),
        ("qwen2", {"model_type": "qwen2", "head_dim": 8, "use_sliding_window": False, "tie_word_embeddings": True}),
        ("qwen3", {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False}),
        ("olmo2", {"model_type": "olmo2", "num_key_value_heads": HEADS, "rope_theta": 50_000.0}),
        (
            "gemma2",
            {
                "model_type": "gemma2",
                "query_pre_attn_scalar": 16,
                "attn_logit_softcapping": 40.0,
                "final_logit_softcapping": 20.0,
                "sliding_window": 16,
                "layer_types": ["sliding_attention", "full_attention"],
                "hidden_activation": "gelu_pytorch_tanh",
            },
        ),
        (
            "gemma3",
            {
                "model_type": "gemma3_text",
                "rope_theta": 50_000.0,
                "rope_local_base_freq": 10_000.0,
                "final_logit_softcapping": None,
                "layer_types": ["sliding_attention"] * 2,
            },
        ),
        ("gpt2", {"model_type": "gpt2", "n_embd": WIDTH, "n_inner": MLP, "n_positions": LENGTH, "n_head": HEADS}),
        ("gptneox", {"model_type": "gpt_neox", "rotary_pct": 0.25, "rotary_emb_base": 10_000.0}),
    ],
)
def test_the_config_is_that_of_config_json(arch, expected, tmp_path):
    config, _ = read_gguf(write(tmp_path / "m.gguf", arch, hf_tensors(arch)))
    assert {key: config[key] for key in expected} == expected
    assert config["vocab_size"] == VOCAB
    if "num_hidden_layers" in config:
        sizes = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"]
        assert [config[key] for key in sizes] == [WIDTH, LAYERS, HEADS, MLP]
        assert config["max_position_embeddings"] == LENGTH
    if "rms_norm_eps" in config:
        assert config["rms_norm_eps"] == 1e-6  # as it was written, not the nearest float32


def test_numbers_beside_the_sizes_are_read(tmp_path):
    pairs = {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "llama.attention.sliding_window": 12,
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4.0,
    }
    config, _ = read_gguf(write(tmp_path / "m.gguf", "llama", hf_tensors("llama"), pairs=pairs))
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 12)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, None)


@pytest.mark.parametrize(("arch", "layers", "scalar"), [("gemma2", 46, 8), ("gemma2", 42, 16), ("gemma3", 62, 8)])
def test_gemmas_queries_are_scaled_by_the_width_over_the_heads_in_the_27b_models_alone(arch, layers, scalar, tmp_path):
    tensors = {name: x for name, x in hf_tensors(arch).items() if ".layers." not in name}
    writer_pairs = {f"{arch}.block_count": layers}
    path = write(tmp_path / "m.gguf", arch, tensors, pairs={**_sizes(arch), **writer_pairs}, sizes=False)
    assert read_gguf(path)[0]["query_pre_attn_scalar"] == scalar


def _sizes(arch):
    names = {"embedding_length": WIDTH, "feed_forward_length": MLP, "context_length": LENGTH}
    names |= {"attention.head_count": HEADS, "attention.key_length": 16, "attention.value_length": 16}
    return {f"{arch}.{key}": n for key, n in {**names, "attention.sliding_window": 16}.items()}


def _llama3_factors(theta, head_dim, factor):
    """As Llama 3.1's reference code has it, one frequency after the other."""
    found = []
    for i in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / head_dim)
        if wavelength < 8192 / 4:
            found.append(1.0)
        elif wavelength > 8192:
            found.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, np.float32)


def test_llama_3s_scaling_is_recovered_from_its_stored_factors(tmp_path):
    factors = _llama3_factors(500_000.0, 8, 32.0)
    assert list(factors[:2]) == [1, 1]
    assert 1 < factors[2] < factors[3] == 32  # wavelengths 6, 167, 4,443 and 118,142
    raw = {"rope_freqs.weight": factors}
    path = write(tmp_path / "m.gguf", "llama", hf_tensors("llama"), raw=raw, theta=500_000.0)
    config, source = read_gguf(path)
    assert config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert "rope_freqs" not in " ".join(source.names())


def test_factors_of_one_scale_nothing_and_other_factors_are_refused(tmp_path):
    ones = write(
        tmp_path / "ones.gguf", "llama", hf_tensors("llama"), raw={"rope_freqs.weight": np.ones(4, np.float32)}
    )
    assert read_gguf(ones)[0]["rope_scaling"] is None
    odd = np.array([1, 3, 2, 8], np.float32)
    path = write(tmp_path / "odd.gguf", "llama", hf_tensors("llama"), raw={"rope_freqs.weight": odd})
    with pytest.raises(CheckpointError, match=r"odd.gguf: rope_freqs.weight: not Llama 3's scaling"):
        read_gguf(path)


# ---- types --------------------------------------------------------------------------------------------------------


def _read_raw(tmp_path, raw, kind, monkeypatch=None):
    """A tensor whose bytes are given, read as the embedding of a model."""
    rows = raw.view(np.uint8).reshape(len(raw), -1)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    width = rows.shape[1] // size * block
    sizes = {"embedding_length": width, "feed_forward_length": 8, "context_length": 8, "block_count": 1}
    pairs = {f"llama.{key}": n for key, n in {**sizes, "attention.head_count": 1}.items()}
    path = write(tmp_path / "m.gguf", "llama", {}, pairs=pairs, sizes=False, raw={"token_embd.weight": (rows, kind)})
    _, source = read_gguf(path)
    found = source.read("model.embed_tokens.weight")
    assert source.names()["model.embed_tokens.weight"] == ((len(raw), width), found.dtype.name)
    return found


def test_q4_0_by_hand(tmp_path):
    # Scale 0.5 and sixteen bytes: the low halves are numbers 0 to 15, the high ones 16 to 31, eight is zero.
    block = np.frombuffer(np.float16(0.5).tobytes() + bytes([0x9A, 0x80, 0x08, 0xF0] + [0x88] * 12), np.uint8)
    expected = np.zeros(32, np.float32)
    expected[[0, 1, 3]] = 1.0, -4.0, -4.0  # (10 - 8) / 2, (0 - 8) / 2
    expected[[16, 18, 19]] = 0.5, -4.0, 3.5  # (9 - 8) / 2, (0 - 8) / 2, (15 - 8) / 2
    np.testing.assert_array_equal(_read_raw(tmp_path, block[None], TYPES.Q4_0), expected[None])


def test_q4_1_by_hand(tmp_path):
    # Scale 0.25, least number -1: 0xF3 is 3 -> -0.25 and, sixteen places on, 15 -> 2.75.
    block = np.frombuffer(np.array([0.25, -1], np.float16).tobytes() + bytes([0xF3] + [0] * 15), np.uint8)
    expected = np.full(32, -1.0, np.float32)
    expected[[0, 16]] = -0.25, 2.75
    np.testing.assert_array_equal(_read_raw(tmp_path, block[None], TYPES.Q4_1), expected[None])


def test_q8_0_by_hand(tmp_path):
    numbers = np.arange(-16, 16, dtype=np.int8)
    block = np.frombuffer(np.float16(2).tobytes() + numbers.tobytes(), np.uint8)
    np.testing.assert_array_equal(_read_raw(tmp_path, block[None], TYPES.Q8_0), 2.0 * numbers[None])


def _q5(block, with_minimum):
    scale = float(block[:2].view(np.float16)[0])
    least = float(block[2:4].view(np.float16)[0]) if with_minimum else -16 * scale
    start = 4 if with_minimum else 2
    fifth = int(block[start : start + 4].view(np.uint32)[0])
    halves = [int(b) & 15 for b in block[start + 4 :]] + [int(b) >> 4 for b in block[start + 4 :]]
    return [scale * (half + 16 * (fifth >> i & 1)) + least for i, half in enumerate(halves)]


def _q4_k(block):
    scale, least = (float(x) for x in block[:4].view(np.float16))
    packed, halves = [int(b) for b in block[4:16]], block[16:]
    found = []
    for j in range(8):
        if j < 4:
            s, m = packed[j] & 63, packed[j + 4] & 63
        else:
            s = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4
            m = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4
        part = halves[32 * (j // 2) : 32 * (j // 2) + 32]
        found += [scale * s * (int(b) >> 4 if j % 2 else int(b) & 15) - least * m for b in part]
    return found


def _q6_k(block):
    low, high, scales = block[:128], block[128:192], block[192:208].view(np.int8)
    scale, found = float(block[208:].view(np.float16)[0]), np.zeros(256)
    for i in range(256):
        half, place = divmod(i, 128)
        quarter, at = divmod(place, 32)
        nibble = int(low[64 * half + 32 * (quarter % 2) + at]) >> (4 * (quarter // 2)) & 15
        top = int(high[32 * half + at]) >> (2 * quarter) & 3
        found[i] = scale * int(scales[i // 16]) * ((nibble | top << 4) - 32)
    return found


@pytest.mark.parametrize(
    ("kind", "decode", "halves"),
    [
        (TYPES.Q5_0, lambda block: _q5(block, False), [0]),
        (TYPES.Q5_1, lambda block: _q5(block, True), [0, 2]),
        (TYPES.Q4_K, _q4_k, [0, 2]),
        (TYPES.Q6_K, _q6_k, [208]),
    ],
)
def test_other_types_by_their_definition(kind, decode, halves, tmp_path):
    rng = np.random.default_rng(1)
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (6, size), np.uint8)
    for at in halves:  # a random float16 may be infinite
        blocks[:, at : at + 2] = rng.uniform(-2, 2, (6, 1)).astype(np.float16).view(np.uint8)
    found = _read_raw(tmp_path, blocks.reshape(3, -1), kind)
    expected = np.array([decode(block) for block in blocks]).reshape(3, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", sorted(gguf_file.QUANTISED))
def test_every_type_that_is_said_to_be_supported_is(kind, tmp_path):
    size = gguf.GGML_QUANT_SIZES[TYPES[kind]][1]
    found = _read_raw(tmp_path, np.zeros((2, size), np.uint8), TYPES[kind])
    np.testing.assert_array_equal(found, np.zeros_like(found))


def test_half_precision_stays_what_it_is(tmp_path):
    values = np.linspace(-2, 2, 64).reshape(2, 32)
    half = values.astype(np.float16)
    np.testing.assert_array_equal(_read_raw(tmp_path, half, TYPES.F16), half)
    bfloat = values.astype(ml_dtypes.bfloat16)
    found = _read_raw(tmp_path, bfloat, TYPES.BF16)
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.view(np.uint16), bfloat.view(np.uint16))


def test_rows_are_put_back_in_order_also_where_they_are_unpacked_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(ours, "_SLAB", 96)  # three rows of 32
    query = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    stored = gguf.quants.quantize(query.reshape(4, 2, 4, 32).swapaxes(1, 2).reshape(32, 32), TYPES.Q8_0)
    raw = {"token_embd.weight": np.zeros((VOCAB, WIDTH), np.float32), "blk.0.attn_q.weight": (stored, TYPES.Q8_0)}
    _, source = read_gguf(write(tmp_path / "m.gguf", "llama", {}, raw=raw))
    found = source.read("model.layers.0.self_attn.q_proj.weight")
    # Every row of 32 is one block, so its own error stays with it: half a step of largest / 127.
    step = np.abs(query).max(axis=1, keepdims=True) / 127
    assert np.all(np.abs(found - query) <= 0.51 * step + 1e-3 * np.abs(query))


def test_reading_a_tensor_holds_that_tensor_and_a_few_rows(tmp_path):
    blocks = np.zeros((1 << 14, 8 * 34), np.uint8)  # 4 million numbers in Q8_0
    sizes = {"embedding_length": 256, "feed_forward_length": 8, "context_length": 8, "block_count": 1}
    pairs = {f"llama.{key}": n for key, n in {**sizes, "attention.head_count": 1}.items()}
    raw = {"token_embd.weight": (blocks, TYPES.Q8_0)}
    path = write(tmp_path / "m.gguf", "llama", {}, pairs=pairs, sizes=False, raw=raw)
    tracemalloc.start()
    _, source = read_gguf(path)
    opened = tracemalloc.get_traced_memory()[1]
    tensor = source.read("model.embed_tokens.weight")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened < 1e6
    assert peak < tensor.nbytes + 5e6, (peak, tensor.nbytes)


# ---- faults -------------------------------------------------------------------------------------------------------


@pytest.fixture
def llama(tmp_path):
    return write(tmp_path / "m.gguf", "llama", hf_tensors("llama"))


def test_a_file_that_is_cut_short_names_the_tensor_that_is_missing(llama):
    whole = llama.read_bytes()
    llama.write_bytes(whole[:-1000])
    with pytest.raises(
        CheckpointError, match=r"m.gguf: \S+\.weight ends at byte .* of a file of .*; download it again"
    ):
        read_gguf(llama)


@pytest.mark.parametrize("kept", [2, 20, 30, 200, 700, 1500])
def test_a_file_that_is_cut_inside_its_header_says_so(llama, kept):
    llama.write_bytes(llama.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"m.gguf: the file ends inside its header; download it again"):
        read_gguf(llama)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(100), b"GGUF" + b"\x09\x00\x00\x00" + bytes(100)])
def test_a_file_that_is_not_gguf_is_refused(tmp_path, content):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m.gguf: not a GGUF file that can be read"):
        read_gguf(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.gguf"):
        read_gguf(tmp_path / "absent.gguf")


def test_a_header_that_announces_an_endless_list_is_refused_at_once(tmp_path):
    path = write(tmp_path / "m.gguf", "llama", {})
    content = bytearray(path.read_bytes())
    # Where the first key-value pair's type and value stand, an array of 2^60 bytes.
    at = 24 + 8 + len("general.architecture")
    content[at : at + 16] = (9).to_bytes(4, "little") + (0).to_bytes(4, "little") + (2**60).to_bytes(8, "little")
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="the file ends inside its header"):
        read_gguf(path)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("arch", "pairs", "raw", "message"),
    [
        ("bert", {}, {}, r"architecture 'bert' is not supported; supported are gemma2, .*qwen3"),
        ("llama", {"split.count": 3}, {}, r"one of 3 parts; join them with .*--merge"),
        ("llama", {"split.count": "0"}, {}, r"one of '0' parts"),
        ("llama", {"llama.expert_count": 8}, {}, r"mixtures of experts are not supported"),
        ("olmo2", {"olmo2.attention.sliding_window": 8}, {}, r"OLMo 3 .* is not supported"),
        ("llama", {}, {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}, r"blk.0.attn_sinks.weight: no such tensor"),
        ("llama", {}, {"blk.2.attn_norm.weight": np.zeros(32, np.float32)}, r"blk.2.attn_norm.weight: no .* 2 layers"),
        ("llama", {}, {"output.weight": np.zeros((4, 32), np.float32)}, r"output.weight: .*\(40, 32\).*\(4, 32\)"),
        ("llama", {}, {"output.weight": np.zeros((40, 32), np.float64)}, r"output.weight: type F64 is not supported"),
        ("llama", {}, {"output.weight": np.zeros((40, 32), np.int8)}, r"output.weight: type I8 is not supported"),
    ],
)
def test_what_cannot_be_loaded_is_named(arch, pairs, raw, message, tmp_path):
    known = arch in ARCHITECTURES
    path = write(tmp_path / "m.gguf", arch, hf_tensors(arch) if known else {}, pairs=pairs, raw=raw, sizes=known)
    with pytest.raises(CheckpointError, match=r"m.gguf: " + message):
        read_gguf(path)


def test_a_missing_size_is_named(tmp_path):
    path = write(tmp_path / "m.gguf", "llama", hf_tensors("llama"), sizes=False)
    with pytest.raises(CheckpointError, match=r"llama.attention.head_count|llama.embedding_length"):
        read_gguf(path)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_model_loads_from_a_file_as_from_a_folder(arch, tmp_path):
    tensors = hf_tensors(arch)
    path = write(tmp_path / "m.gguf", arch, tensors)
    fields, source = read_gguf(path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text(json.dumps(fields))
    write_safetensors(tmp_path / "folder" / "model.safetensors", source.names(), tensors.__getitem__)
    config, params = load_pretrained(path)
    expected_config, expected = load_pretrained(tmp_path / "folder")
    assert config == expected_config
    assert config.family == fields["model_type"]
    chex.assert_trees_all_equal(params, expected)
