"""What a model is: one frozen dataclass. Families differ in its fields, never in the code that reads them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

from rlhf_jax.fields import check_above_zero, check_at_least, check_fields

AttentionKind = Literal["auto", "xla", "chunked", "cudnn", "splash"]
Remat = Literal["none", "dots", "block"]
AskedRemat = Literal["model", "none", "dots", "block"]  # what a stage may ask for: ``model`` asks for nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Rotary frequencies stretched for contexts longer than those of pretraining."""

    kind: Literal["none", "linear", "llama3"] = "none"
    """`linear` divides every frequency by `factor`; `llama3` only those whose wavelength is long, with a ramp between
    (Llama 3.1); `none` leaves them."""
    factor: float = 1.0
    """How much longer the context has become."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above `original_length` / `low_freq_factor` are divided by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below `original_length` / `high_freq_factor` are left alone."""
    original_length: int = 8192
    """llama3: context of pretraining, tokens."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_above_zero(self, "factor", "low_freq_factor", "high_freq_factor")
        check_at_least(self, 1, "original_length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters beside frozen matrices: ``y = W x + (alpha / rank) B A x`` (Hu et al. 2021)."""

    rank: int = 0
    """Columns of A and rows of B; 0 trains all weights instead. Usually 8 to 64."""
    alpha: float = 16.0
    """The adapter is scaled by `alpha / rank`."""
    targets: str = r"attention/(query|key|value|out)$|mlp/(gate|up|down)$"
    """Regular expression searched in the paths of matrices (`blocks/attention/query`): which get an adapter."""
    dropout: float = 0.0
    """Share of an adapter's inputs that are zeroed in training; usually 0 to 0.1."""
    int8_trunk: bool = False
    """Hold the frozen matrices in 8 bits: a quarter of float32's memory, and logits that are slightly off."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.rank < 0:
            raise ValueError(f"lora.rank must be 0 (off) or positive, found {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"lora.alpha must be positive, found {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must lie in [0, 1), found {self.dropout}")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise ValueError(f"lora.targets {self.targets!r} is not a regular expression: {error}") from error

    def adapts(self, path: str) -> bool:
        """Whether the matrix at a path (`blocks/mlp/up`) gets an adapter."""
        return self.rank > 0 and re.search(self.targets, path) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer.

    The defaults are the quickstart's model, about 1.1 million parameters, of the Llama family: pre-norm RMSNorm, rotary
    positions, grouped-query attention, gated MLP. ``load_pretrained`` fills the fields for other families.

    Raises:
        ValueError: when the sizes do not fit together.
    """

    family: str = "llama"
    """Whose names and layout `save_pretrained` writes: llama, mistral, qwen2, qwen3, gemma2, gemma3_text, olmo2, gpt2
    or gpt_neox. The other fields describe the network itself."""
    vocab_size: int = 4096
    """Tokens in the vocabulary; stages set it from the tokenizer."""
    tokenless: tuple[tuple[int, int], ...] = ()
    """Ids below `vocab_size` that no token has, as [first, last + 1): a vocabulary may be padded. They have probability
    0, so that none is ever drawn. Stages set it from the tokenizer."""
    d_model: int = 128
    """Width of the residual stream."""
    n_layers: int = 3
    """Blocks; their weights are stacked, and they are run unrolled or in turns (`models/depth.py`)."""
    n_heads: int = 2
    """Query heads."""
    n_kv_heads: int = 2
    """Key and value heads; fewer than `n_heads` is grouped-query attention."""
    head_dim: int = 64
    """Width of one head; even where all of it is rotated."""
    d_ff: int = 344
    """Width of the MLP; about 8/3 of `d_model` for a gated one, 4 times for a plain one."""
    max_length: int = 0
    """Longest sequence the model reads, tokens: the size of the table where positions are learned. 0: unknown."""
    positions: Literal["rotary", "learned"] = "rotary"
    """How a token knows its place: rotations of queries and keys, or a table added to the embedding (GPT-2)."""
    rope_theta: float = 10_000.0
    """Base of the rotary frequencies."""
    rope_fraction: float = 1.0
    """Share of a head's dimensions that is rotated (GPT-NeoX: 0.25)."""
    rope_scaling: RopeScaling = RopeScaling()
    """How the rotary frequencies are stretched in the layers that see everything."""
    local_rope_theta: float = 0.0
    """Base in the layers with a sliding window, unscaled (Gemma 3); 0: the same as everywhere."""
    sliding_window: int = 0
    """Tokens a windowed layer sees, itself included; 0: all."""
    local_layers: tuple[bool, ...] = ()
    """Which layers have the window, one entry a layer; empty: all of them."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with a bias."""
    norm_eps: float = 1e-6
    """Added to the mean square (or variance) inside a norm."""
    norm_offset: float = 0.0
    """Added to a norm's stored scale (Gemma: 1)."""
    norm_before: bool = True
    """Attention and MLP read a normed stream."""
    norm_after: bool = False
    """What attention and MLP give is normed before it is added (OLMo 2, Gemma)."""
    parallel_residual: bool = False
    """Attention and MLP read the same stream and are added together (GPT-NeoX)."""
    qk_norm: Literal["none", "head", "all"] = "none"
    """RMSNorm of queries and keys: each head on its own (Qwen3, Gemma 3) or all heads together (OLMo 2)."""
    qkv_bias: bool = False
    """Biases on the query, key and value matrices (Qwen2)."""
    out_bias: bool = False
    """A bias on attention's output matrix."""
    mlp_bias: bool = False
    """Biases on the MLP's matrices."""
    gated_mlp: bool = True
    """``down(f(gate x) * up x)``, or else ``down(f(up x))``."""
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"] = "silu"
    """The MLP's f."""
    query_scale: float = 0.0
    """Attention's logits are multiplied by it; 0: ``head_dim ** -0.5``."""
    attention_softcap: float = 0.0
    """``c tanh(z / c)`` of attention's logits (Gemma 2); 0: none."""
    logit_softcap: float = 0.0
    """The same for the vocabulary's logits; 0: none."""
    embedding_scale: float = 1.0
    """Embeddings are multiplied by it (Gemma: the root of `d_model`)."""
    tie_embeddings: bool = True
    """The output head is the embedding table, transposed."""
    scalar_head: bool = False
    """A linear head to one number a token: reward models and critics."""
    lora: LoRAConfig = LoRAConfig()
    """Adapters beside the matrices."""
    int8: bool = False
    """The blocks' matrices are held in 8 bits, with a scale for each output."""
    compute_dtype: str = "float32"
    """Type of activations and matrix products: float32, or bfloat16 on an accelerator. Losses are float32 always."""
    attention: AttentionKind = "auto"
    """How attention is computed: `auto` chooses by device, type and shapes (`models.attention.chosen`); the plain form,
    the plain form in chunks of queries, NVIDIA's fused kernel (which decodes as well), or jax's kernel for TPUs."""
    remat: Remat = "none"
    """What the backward pass computes again: nothing; a block but for its matrix products (`dots`), which spares
    attention's scores and what lies between; or the whole block, so that one block's activations are held instead of
    all. True and False, as older run folders have them, are read as `block` and `none`."""

    def __post_init__(self) -> None:
        if isinstance(self.remat, bool):
            object.__setattr__(self, "remat", "block" if self.remat else "none")
        check_fields(self)
        if any(not 0 <= first < end <= self.vocab_size for first, end in self.tokenless):
            raise ValueError(f"tokenless must lie within the vocabulary of {self.vocab_size}, found {self.tokenless}")
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff"):
            if getattr(self, name) < 1:
                raise ValueError(f"ModelConfig.{name} must be at least 1, found {getattr(self, name)}")
        check_above_zero(self, "rope_theta", "norm_eps", "embedding_scale")
        check_at_least(self, 0, "max_length", "sliding_window", "local_rope_theta")
        check_at_least(self, 0, "query_scale", "attention_softcap", "logit_softcap")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if not 0 <= self.rope_fraction <= 1:
            raise ValueError(f"rope_fraction must lie in [0, 1], found {self.rope_fraction}")
        if self.positions == "rotary" and self.rotary_width % 2 and self.rotary_width == self.head_dim:
            raise ValueError(f"head_dim must be even where all of it is rotated, found {self.head_dim}")
        if self.positions == "learned" and self.max_length < 1:
            raise ValueError("learned positions need max_length, the size of their table")
        if self.local_layers and len(self.local_layers) != self.n_layers:
            raise ValueError(f"local_layers has {len(self.local_layers)} entries for {self.n_layers} layers")
        if not (self.norm_before or self.norm_after):
            raise ValueError("a block needs norm_before, norm_after or both")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"compute_dtype is float32 or bfloat16, found {self.compute_dtype!r}")

    @property
    def rotary_width(self) -> int:
        """How many of a head's dimensions are rotated; they turn in pairs, so an odd number takes one more along."""
        return int(self.head_dim * self.rope_fraction)

    @property
    def windowed(self) -> tuple[bool, ...]:
        """Whether a layer sees a sliding window only, one entry a layer."""
        if not self.sliding_window:
            return (False,) * self.n_layers
        return self.local_layers or (True,) * self.n_layers

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """Read the config that ``dataclasses.asdict`` wrote, back from JSON.

        Example:
            >>> config = ModelConfig(rope_scaling=RopeScaling(kind="linear", factor=2.0))
            >>> ModelConfig.from_json(dataclasses.asdict(config)) == config
            True
        """
        nested = {"rope_scaling": RopeScaling, "lora": LoRAConfig}
        made = {name: kind(**fields[name]) for name, kind in nested.items() if name in fields}
        if "local_layers" in fields:
            made["local_layers"] = tuple(fields["local_layers"])
        if "tokenless" in fields:
            made["tokenless"] = tuple((first, end) for first, end in fields["tokenless"])
        return cls(**{**fields, **made})
