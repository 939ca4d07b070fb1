"""What a model's work costs by arithmetic alone: FLOPs of forward passes and updates, bytes that decoding has to read.

A product ``[m, k] @ [k, n]`` is ``2 m k n`` FLOPs. Only matrix products are counted: they are the work that no program
for the same network can leave out, so these figures divided by a machine's peak are a lower bound of the seconds.
Recomputation is not counted, and a causal token sees half of its sequence.
"""

from __future__ import annotations

from rlhf_jax.models.config import ModelConfig


def matrices(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """List the matrices of one block by their paths, with how many numbers they take and give.

    Example:
        >>> matrices(ModelConfig(d_model=4, n_heads=2, n_kv_heads=1, head_dim=2, d_ff=8))["blocks/attention/key"]
        (4, 2)
    """
    d, f = config.d_model, config.d_ff
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    found = {
        "blocks/attention/query": (d, queries),
        "blocks/attention/key": (d, keys),
        "blocks/attention/value": (d, keys),
        "blocks/attention/out": (queries, d),
        "blocks/mlp/up": (d, f),
        "blocks/mlp/down": (f, d),
    }
    return {**found, "blocks/mlp/gate": (d, f)} if config.gated_mlp else found


def matrix_parameters(config: ModelConfig) -> int:
    """Count the parameters in the matrices of all blocks, adapters aside: those that every token is multiplied with.

    Example:
        >>> matrix_parameters(ModelConfig(d_model=4, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=2, d_ff=8))
        144
    """
    return config.n_layers * sum(taken * given for taken, given in matrices(config).values())


def adapter_parameters(config: ModelConfig) -> int:
    """Count the parameters of the adapters in all blocks; 0 where the model has none.

    Example:
        >>> from rlhf_jax.models import LoRAConfig
        >>> sizes = {"d_model": 4, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "head_dim": 2, "d_ff": 8}
        >>> adapter_parameters(ModelConfig(**sizes, lora=LoRAConfig(rank=2, targets="attention/key$")))
        12
    """
    rank = config.lora.rank
    adapted = (sum(sizes) for path, sizes in matrices(config).items() if config.lora.adapts(path))
    return config.n_layers * rank * sum(adapted)


def head_parameters(config: ModelConfig) -> int:
    """Count the parameters of the matrix from hidden states to logits.

    Example:
        >>> head_parameters(ModelConfig(vocab_size=10, d_model=4))
        40
    """
    return config.vocab_size * config.d_model


def attention_flops(config: ModelConfig, tokens: float, length: float) -> float:
    """Count the FLOPs of scores and mixing for whole causal sequences, in all layers, forward.

    ``sum_layers 4 * heads * head_dim * tokens * seen``

    Args:
        config: the model's.
        tokens: how many there are in all.
        length: tokens of a sequence; attention stays within it.

    Returns:
        FLOPs; a token sees ``length / 2`` others on average, and with a window w shorter than that no more than
        ``w - w^2 / (2 length)``.

    Example:
        >>> attention_flops(ModelConfig(n_layers=1, n_heads=2, n_kv_heads=1, head_dim=2), tokens=6, length=3)
        144.0
    """
    pairs = 4 * config.n_heads * config.head_dim * tokens
    return pairs * sum(_seen(config.sliding_window if near else 0, length) for near in config.windowed)


def forward_flops(config: ModelConfig, tokens: float, length: float, *, logits: float | None = None) -> float:
    """Count the FLOPs of a forward pass over whole sequences.

    ``2 (matrices + adapters) tokens + 2 vocabulary d_model logits + attention``

    Args:
        config: the model's.
        tokens: how many there are in all, padding left out.
        length: tokens of a sequence.
        logits: tokens at which the whole vocabulary is computed: all by default, or none in a model with a scalar head.

    Returns:
        FLOPs.

    Example:
        >>> sizes = {"vocab_size": 10, "d_model": 4, "n_heads": 2, "n_kv_heads": 1, "head_dim": 2, "d_ff": 8}
        >>> forward_flops(ModelConfig(**sizes, n_layers=1), tokens=6, length=3)
        2352.0
    """
    body = matrix_parameters(config) + adapter_parameters(config)
    read = _logits(config, tokens, logits)
    return 2.0 * body * tokens + 2 * head_parameters(config) * read + attention_flops(config, tokens, length)


def train_flops(config: ModelConfig, tokens: float, length: float, *, logits: float | None = None) -> float:
    """Count the FLOPs of a forward pass and its gradient.

    ``3 forward``; where adapters are trained, ``2 forward`` of the frozen matrices, which need no gradient of their
    own, and ``3 forward`` of everything else

    Args:
        config: the model's; with ``lora.rank`` above 0 the adapters alone are trained.
        tokens: how many there are in all, padding left out.
        length: tokens of a sequence.
        logits: tokens at which the whole vocabulary is computed: all by default, or none in a model with a scalar head.

    Returns:
        FLOPs.

    Example:
        >>> sizes = {"vocab_size": 10, "d_model": 4, "n_heads": 2, "n_kv_heads": 1, "head_dim": 2, "d_ff": 8}
        >>> train_flops(ModelConfig(**sizes, n_layers=1), tokens=6, length=3)
        7056.0

    Source: Chowdhery et al. 2022, "PaLM", appendix B, count the same way, but for the half that causal attention saves.
    """
    whole = 3 * forward_flops(config, tokens, length, logits=logits)
    if not config.lora.rank:
        return whole
    frozen = matrix_parameters(config) * tokens + head_parameters(config) * _logits(config, tokens, logits)
    return whole - 2 * frozen


def decode_flops(config: ModelConfig, rows: float, prompt: float, new: float) -> float:
    """Count the FLOPs of writing ``new`` tokens in each of ``rows``, after prompts that the cache already holds.

    Example:
        >>> sizes = {"vocab_size": 10, "d_model": 4, "n_heads": 2, "n_kv_heads": 1, "head_dim": 2, "d_ff": 8}
        >>> decode_flops(ModelConfig(**sizes, n_layers=1), rows=1, prompt=3, new=1)
        424.0
    """
    body = matrix_parameters(config) + adapter_parameters(config) + head_parameters(config)
    pairs = 4 * config.n_heads * config.head_dim
    return rows * (2.0 * body * new + pairs * _read_columns(config, prompt, new))


def decode_bytes(
    config: ModelConfig,
    rows: float,
    prompt: float,
    new: float,
    *,
    weight_size: float | None = None,
    cache_size: float | None = None,
) -> float:
    """Count the bytes that writing ``new`` tokens in each of ``rows`` has to read.

    ``new (matrices + head) weight_size + rows sum_t (prompt + t) 2 layers kv_heads head_dim cache_size``

    Args:
        config: the model's.
        rows: responses that are written side by side; the weights are read once for all of them.
        prompt: tokens that stand in the cache before the first new one.
        new: tokens written in each row.
        weight_size: bytes a weight is held in; those of ``compute_dtype`` by default.
        cache_size: bytes a number of the cache is held in; those of ``compute_dtype`` by default.

    Returns:
        Bytes. Adapters are taken to be folded in.

    Example:
        >>> sizes = {"vocab_size": 10, "d_model": 4, "n_heads": 2, "n_kv_heads": 1, "head_dim": 2, "d_ff": 8}
        >>> decode_bytes(ModelConfig(**sizes, n_layers=1, compute_dtype="bfloat16"), rows=5, prompt=3, new=2)
        1056.0
    """
    own = 2.0 if config.compute_dtype == "bfloat16" else 4.0
    read = matrix_parameters(config) + head_parameters(config)
    weights = new * read * (own if weight_size is None else weight_size)
    numbers = 2 * config.n_kv_heads * config.head_dim * _read_columns(config, prompt, new)
    return weights + rows * numbers * (own if cache_size is None else cache_size)


def _logits(config: ModelConfig, tokens: float, logits: float | None) -> float:
    if logits is None:
        return 0.0 if config.scalar_head else tokens
    return logits


def _seen(window: float, length: float) -> float:
    """How many tokens one sees, on average over a causal sequence."""
    return length / 2 if not window or window >= length else window - window**2 / (2 * length)


def _read_columns(config: ModelConfig, prompt: float, new: float) -> float:
    """Columns of the cache that a row's new tokens read, over all tokens and layers."""

    def columns(window: float) -> float:
        whole = prompt * new + new**2 / 2
        if not window or prompt + new <= window:
            return whole
        rising = max(0.0, window - prompt)  # new tokens that still see everything before them
        return prompt * rising + rising**2 / 2 + window * (new - rising)

    return sum(columns(config.sliding_window if near else 0) for near in config.windowed)
