"""The families of checkpoints that can be read and written, and what each has that the others do not.

A family is data: the fields of ``ModelConfig`` that all of its models share, the keys of ``config.json`` for the other
fields, and the names of its tensors. The network that these fields describe is in ``transformer.py``; there is no code
for a family. To see what is different about Gemma 2, read ``GEMMA2`` below.
"""

from __future__ import annotations

import dataclasses

from rlhf_jax.models.huggingface.family import Family

_MODULES = {
    "embedding": "embed_tokens",
    "final_norm": "norm",
    "blocks/attention_norm": "layers.{layer}.input_layernorm",
    "blocks/mlp_norm": "layers.{layer}.post_attention_layernorm",
    "blocks/attention/query": "layers.{layer}.self_attn.q_proj",
    "blocks/attention/key": "layers.{layer}.self_attn.k_proj",
    "blocks/attention/value": "layers.{layer}.self_attn.v_proj",
    "blocks/attention/out": "layers.{layer}.self_attn.o_proj",
    "blocks/attention/query_norm": "layers.{layer}.self_attn.q_norm",
    "blocks/attention/key_norm": "layers.{layer}.self_attn.k_norm",
    "blocks/mlp/gate": "layers.{layer}.mlp.gate_proj",
    "blocks/mlp/up": "layers.{layer}.mlp.up_proj",
    "blocks/mlp/down": "layers.{layer}.mlp.down_proj",
}
# What is called after attention stands after attention here, and before the MLP in Llama.
_MODULES_NORM_AFTER = _MODULES | {
    "blocks/attention_post_norm": "layers.{layer}.post_attention_layernorm",
    "blocks/mlp_norm": "layers.{layer}.pre_feedforward_layernorm",
    "blocks/mlp_post_norm": "layers.{layer}.post_feedforward_layernorm",
}
_KEYS = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "max_length": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "activation": "hidden_act",
    "tie_embeddings": "tie_word_embeddings",
}
_BIASES = {"qkv_bias": "attention_bias", "out_bias": "attention_bias"}
_DEFAULTS = {
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "attention_bias": False,
}

LLAMA = Family(
    name="llama",
    causal="LlamaForCausalLM",
    classifier="LlamaForSequenceClassification",
    base="LlamaModel",
    keys=_KEYS | _BIASES | {"mlp_bias": "mlp_bias"},
    defaults=_DEFAULTS | {"mlp_bias": False},
    only={"sliding_window": (None,)},
    modules=_MODULES,
)

# Llama with a sliding window in every layer.
MISTRAL = Family(
    name="mistral",
    causal="MistralForCausalLM",
    classifier="MistralForSequenceClassification",
    base="MistralModel",
    keys=_KEYS,
    defaults=_DEFAULTS | {"num_key_value_heads": 8, "sliding_window": 4096},
    only={"attention_bias": (False, None)},
    windows="all",
    modules=_MODULES,
)

# Llama with biases on query, key and value, and maybe a window in the upper layers.
QWEN2 = Family(
    name="qwen2",
    causal="Qwen2ForCausalLM",
    classifier="Qwen2ForSequenceClassification",
    base="Qwen2Model",
    network={"qkv_bias": True},
    keys=_KEYS,
    defaults=_DEFAULTS
    | {
        "num_key_value_heads": 32,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    windows="upper",
    modules=_MODULES,
)

# Qwen2 without those biases, with a norm of every head's query and key.
QWEN3 = Family(
    name="qwen3",
    causal="Qwen3ForCausalLM",
    classifier="Qwen3ForSequenceClassification",
    base="Qwen3Model",
    network={"qk_norm": "head"},
    keys=_KEYS | _BIASES,
    defaults={**QWEN2.defaults, "head_dim": 128},
    windows="upper",
    modules=_MODULES,
)

# Llama with norms after attention and MLP instead of before, and a norm over all queries and all keys.
OLMO2 = Family(
    name="olmo2",
    causal="Olmo2ForCausalLM",
    classifier="Olmo2ForSequenceClassification",
    base="Olmo2Model",
    network={"norm_before": False, "norm_after": True, "qk_norm": "all"},
    keys=_KEYS | _BIASES,
    defaults=_DEFAULTS | {"rms_norm_eps": 1e-5},
    only={"sliding_window": (None,), "clip_qkv": (None,)},
    modules=_MODULES_NORM_AFTER,
)

# Norms before and after whose stored scale is one less, scaled embeddings, capped logits in attention and at the end, a
# window in every other layer, queries scaled by a number of their own, tanh-GELU.
GEMMA2 = Family(
    name="gemma2",
    causal="Gemma2ForCausalLM",
    classifier="Gemma2ForSequenceClassification",
    base="Gemma2Model",
    network={"norm_offset": 1.0, "norm_after": True},
    keys=_KEYS
    | _BIASES
    | {
        "activation": "hidden_activation",
        "query_scale": "query_pre_attn_scalar",
        "logit_softcap": "final_logit_softcapping",
        "attention_softcap": "attn_logit_softcapping",
    },
    defaults=_DEFAULTS
    | {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    },
    only={"use_bidirectional_attention": (None, False)},
    scaled_embedding=True,
    windows="pattern",
    window_pattern=2,
    modules=_MODULES_NORM_AFTER,
)

# Gemma 2 with a norm of every head's query and key in place of capped attention, five windowed layers to one, and
# another rotary base in these.
GEMMA3_TEXT = dataclasses.replace(
    GEMMA2,
    name="gemma3_text",
    causal="Gemma3ForCausalLM",
    classifier="Gemma3TextForSequenceClassification",
    base="Gemma3TextModel",
    network={**GEMMA2.network, "qk_norm": "head"},
    keys={field: key for field, key in GEMMA2.keys.items() if field != "attention_softcap"},
    defaults={
        **{key: value for key, value in GEMMA2.defaults.items() if key != "attn_logit_softcapping"},
        "final_logit_softcapping": None,
    },
    only={**GEMMA2.only, "attn_logit_softcapping": (None,)},
    rope_theta=1_000_000.0,
    local_rope_theta=10_000.0,
    window_pattern=6,
)

# Learned positions, LayerNorm, a plain MLP, biases everywhere, one matrix [in, out] for query, key and value.
GPT2 = Family(
    name="gpt2",
    causal="GPT2LMHeadModel",
    classifier="GPT2ForSequenceClassification",
    base="GPT2Model",
    network={
        "positions": "learned",
        "norm": "layer",
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "gated_mlp": False,
    },
    keys={
        "vocab_size": "vocab_size",
        "d_model": "n_embd",
        "n_layers": "n_layer",
        "n_heads": "n_head",
        "d_ff": "n_inner",
        "max_length": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "activation": "activation_function",
        "query_scale": "scale_attn_weights",
        "tie_embeddings": "tie_word_embeddings",
    },
    defaults={
        "n_inner": None,
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
    },
    only={"scale_attn_by_inverse_layer_idx": (False,)},
    activation_name="gelu_new",
    prefix="transformer.",
    modules={
        "embedding": "wte",
        "position_embedding": "wpe",
        "final_norm": "ln_f",
        "blocks/attention_norm": "h.{layer}.ln_1",
        "blocks/mlp_norm": "h.{layer}.ln_2",
        "blocks/attention/query": "h.{layer}.attn.c_attn",
        "blocks/attention/key": "h.{layer}.attn.c_attn",
        "blocks/attention/value": "h.{layer}.attn.c_attn",
        "blocks/attention/out": "h.{layer}.attn.c_proj",
        "blocks/mlp/up": "h.{layer}.mlp.c_fc",
        "blocks/mlp/down": "h.{layer}.mlp.c_proj",
    },
    matrices="in_out",
    fused="thirds",
    harmless=r"\.attn\.(bias|masked_bias)$",
)

# LayerNorm, attention and MLP side by side, rotary positions on a quarter of every head, a plain MLP, biases, one
# matrix for query, key and value, head by head.
GPT_NEOX = Family(
    name="gpt_neox",
    causal="GPTNeoXForCausalLM",
    classifier="GPTNeoXForSequenceClassification",
    base="GPTNeoXModel",
    network={"norm": "layer", "mlp_bias": True, "gated_mlp": False},
    keys={
        "vocab_size": "vocab_size",
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "d_ff": "intermediate_size",
        "max_length": "max_position_embeddings",
        "norm_eps": "layer_norm_eps",
        "activation": "hidden_act",
        "parallel_residual": "use_parallel_residual",
        "tie_embeddings": "tie_word_embeddings",
        **_BIASES,
    },
    defaults={
        "max_position_embeddings": 0,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "attention_bias": True,
        "rotary_pct": 0.25,
    },
    rope_theta_key="rotary_emb_base",
    rope_fraction_key="rotary_pct",
    prefix="gpt_neox.",
    modules={
        "embedding": "embed_in",
        "final_norm": "final_layer_norm",
        "blocks/attention_norm": "layers.{layer}.input_layernorm",
        "blocks/mlp_norm": "layers.{layer}.post_attention_layernorm",
        "blocks/attention/query": "layers.{layer}.attention.query_key_value",
        "blocks/attention/key": "layers.{layer}.attention.query_key_value",
        "blocks/attention/value": "layers.{layer}.attention.query_key_value",
        "blocks/attention/out": "layers.{layer}.attention.dense",
        "blocks/mlp/up": "layers.{layer}.mlp.dense_h_to_4h",
        "blocks/mlp/down": "layers.{layer}.mlp.dense_4h_to_h",
    },
    output_names=("embed_out", "lm_head"),
    fused="heads",
    harmless=r"\.attention\.(bias|masked_bias)$|rotary_emb\.inv_freq$",
)

FAMILIES = {
    family.name: family for family in (LLAMA, MISTRAL, QWEN2, QWEN3, OLMO2, GEMMA2, GEMMA3_TEXT, GPT2, GPT_NEOX)
}
