"""Tiny GGUF files, written as llama.cpp's converter writes them: names from the gguf package's own table, rows moved,
norms shifted and matrices transposed here, forwards, so that reading them is checked by something else than itself."""

import gguf
import numpy as np

LAYERS, WIDTH, HEADS, KV_HEADS, MLP, VOCAB, LENGTH = 2, 32, 4, 2, 48, 40, 64
HEAD = {"gemma2": 16, "gemma3": 16, "qwen3": 16}  # 8 = WIDTH / HEADS elsewhere
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2", "gpt2", "gptneox")


def hf_tensors(arch, seed=0):
    """Random tensors under Hugging Face's names, in its shapes."""
    rng = np.random.default_rng(seed)
    head = HEAD.get(arch, WIDTH // HEADS)
    q, k = HEADS * head, (HEADS if arch == "olmo2" else KV_HEADS) * head
    shapes = {}
    if arch in ("gpt2", "gptneox"):
        gpt2 = arch == "gpt2"
        trunk, layer = ("transformer.", "transformer.h.{}.") if gpt2 else ("gpt_neox.", "gpt_neox.layers.{}.")
        shapes[trunk + ("wte.weight" if gpt2 else "embed_in.weight")] = (VOCAB, WIDTH)
        if gpt2:
            shapes["transformer.wpe.weight"] = (LENGTH, WIDTH)
        else:
            shapes["embed_out.weight"] = (VOCAB, WIDTH)
        norms = ("ln_1", "ln_2") if gpt2 else ("input_layernorm", "post_attention_layernorm")
        matrices = {
            "attn.c_attn" if gpt2 else "attention.query_key_value": (3 * WIDTH, WIDTH),
            "attn.c_proj" if gpt2 else "attention.dense": (WIDTH, WIDTH),
            "mlp.c_fc" if gpt2 else "mlp.dense_h_to_4h": (MLP, WIDTH),
            "mlp.c_proj" if gpt2 else "mlp.dense_4h_to_h": (WIDTH, MLP),
        }
        for i in range(LAYERS):
            for name, shape in matrices.items():
                shapes[layer.format(i) + name + ".weight"] = shape[::-1] if gpt2 else shape
                shapes[layer.format(i) + name + ".bias"] = shape[:1]
            shapes |= {layer.format(i) + n + s: (WIDTH,) for n in norms for s in (".weight", ".bias")}
        final = trunk + ("ln_f" if gpt2 else "final_layer_norm")
        shapes |= {final + s: (WIDTH,) for s in (".weight", ".bias")}
    else:
        shapes = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
        norms = {"input_layernorm": WIDTH, "post_attention_layernorm": WIDTH}
        if arch in ("gemma2", "gemma3"):
            norms |= {"pre_feedforward_layernorm": WIDTH, "post_feedforward_layernorm": WIDTH}
        if arch == "olmo2":
            norms = {"post_attention_layernorm": WIDTH, "post_feedforward_layernorm": WIDTH}
            norms |= {"self_attn.q_norm": q, "self_attn.k_norm": k}
        if arch in ("qwen3", "gemma3"):
            norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
        matrices = {
            "self_attn.q_proj": (q, WIDTH),
            "self_attn.k_proj": (k, WIDTH),
            "self_attn.v_proj": (k, WIDTH),
            "self_attn.o_proj": (WIDTH, q),
            "mlp.gate_proj": (MLP, WIDTH),
            "mlp.up_proj": (MLP, WIDTH),
            "mlp.down_proj": (WIDTH, MLP),
        }
        for i in range(LAYERS):
            shapes |= {f"model.layers.{i}.{n}.weight": s for n, s in matrices.items()}
            shapes |= {f"model.layers.{i}.{n}.weight": (s,) for n, s in norms.items()}
            if arch == "qwen2":
                shapes |= {
                    f"model.layers.{i}.self_attn.{n}_proj.bias": (s,) for n, s in zip("qkv", (q, k, k), strict=True)
                }
        if arch in ("qwen3", "olmo2"):  # the others share the embedding
            shapes["lm_head.weight"] = (VOCAB, WIDTH)
    # Sixteenths, so that the one added to a norm is taken off without rounding.
    return {name: rng.integers(-32, 32, shape).astype(np.float32) / 16 for name, shape in shapes.items()}


def _converted(arch, name, values):
    """What llama.cpp's converter does to one tensor."""
    head = HEAD.get(arch, WIDTH // HEADS)
    if arch == "llama" and (".q_proj." in name or ".k_proj." in name):
        n = len(values) // head
        return values.reshape(n, 2, head // 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
    if arch in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return values + 1
    if arch == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return np.ascontiguousarray(values.T)
    if arch == "gptneox" and ".query_key_value." in name:
        apart = values.reshape(HEADS, 3, head, *values.shape[1:])
        return np.concatenate([apart[:, i].reshape(HEADS * head, *values.shape[1:]) for i in range(3)])
    return values


def write(path, arch, tensors, *, pairs=(), raw=(), tokenizer=None, sizes=True, theta=50_000.0):
    """A GGUF file of tensors with Hugging Face's names.

    ``pairs`` are further key-value pairs by key, ``raw`` tensors by GGUF's name: an array, or bytes with their type.
    """
    writer = gguf.GGUFWriter(path, arch)
    if sizes:
        _add_sizes(writer, arch, theta)
    for key, value in dict(pairs).items():
        add(writer, key, value)
    if tokenizer:
        for key, value in tokenizer.items():
            add(writer, key, value)
    keys = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    table = gguf.get_tensor_name_map(keys[arch], LAYERS) if arch in keys else None
    for name, values in tensors.items():
        gguf_name = table.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name, name
        writer.add_tensor(gguf_name, _converted(arch, name, values))
    for name, value in dict(raw).items():
        values, kind = value if isinstance(value, tuple) else (value, None)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_sizes(writer, arch, theta):
    writer.add_block_count(LAYERS)
    writer.add_context_length(LENGTH)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    if arch == "gpt2" or arch == "gptneox":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_head_count_kv(HEADS if arch == "olmo2" else KV_HEADS)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(theta)
    if arch in HEAD:
        writer.add_key_length(HEAD[arch])
        writer.add_value_length(HEAD[arch])
    if arch == "llama":
        writer.add_rope_dimension_count(WIDTH // HEADS)
        writer.add_vocab_size(VOCAB)
    if arch in ("gemma2", "gemma3"):
        writer.add_sliding_window(16)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(40.0)
        writer.add_final_logit_softcapping(20.0)
    if arch == "gptneox":
        writer.add_rope_dimension_count(2)
        writer.add_parallel_residual(True)


def add(writer, key, value):
    """One key-value pair, of the type that its value has."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def byte_letters():
    """The 256 characters that stand for bytes in GPT-2's vocabularies, in the order of the bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(b) if b in kept else chr(next(others)) for b in range(256)]


def byte_level(pre, merges=("Ġ Ġ", "h e", "Ġ he", "1 2"), specials=("<|im_start|>", "<|im_end|>"), **more):
    """A byte-level tokenizer: special tokens, bytes, merges. The first special token is bos, the second eos."""
    merged = ["".join(merge.split(" ")) for merge in merges]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*specials, *byte_letters(), *merged],
        "tokenizer.ggml.token_type": [3] * len(specials) + [1] * (256 + len(merged)),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 1,
        **{f"tokenizer.{key}": value for key, value in more.items()},
    }


def sentencepiece(pieces, **more):
    """A SentencePiece tokenizer: <unk> <s> </s>, 256 bytes, then pieces with their scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [float(score) for score in pieces.values()],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        **{f"tokenizer.{key}": value for key, value in more.items()},
    }
