"""What the library knows of a family of checkpoints: the columns of the table in ``families.py``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How one family of models is written down."""

    name: str
    """`model_type` in config.json."""
    causal: str
    """`architectures` of a language model; a class that transformers has."""
    classifier: str
    """`architectures` of a reward model."""
    base: str
    """`architectures` of the trunk alone, which is read where embeddings are tied."""
    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `ModelConfig` that are the same in all models of the family."""
    keys: Mapping[str, str]
    """Fields of `ModelConfig` that models differ in, and the key of config.json that says each."""
    defaults: Mapping[str, Any]
    """What transformers takes where config.json lacks a key, and 0 for an unknown length. Other keys must be there."""
    only: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """Keys that would change the network, and the values that do not, the usual one first; others are refused."""
    activation_name: str = "gelu_pytorch_tanh"
    """What the family calls the tanh approximation of GELU."""
    scaled_embedding: bool = False
    """Embeddings are multiplied by the root of the model's width."""
    rope_theta_key: str = "rope_theta"
    """Key of the rotary base in configs that have no `rope_parameters`."""
    rope_theta: float = 10_000.0
    """The base where config.json says none."""
    rope_fraction_key: str = ""
    """Key of the share of a head that is rotated; empty: all of it is."""
    local_rope_theta: float = 0.0
    """Base in windowed layers where config.json says none; 0: the same as everywhere."""
    windows: Literal["none", "all", "upper", "pattern"] = "none"
    """Layers with a sliding window: none, all where there is a window, those from `max_window_layers` on where
    `use_sliding_window` says so, or all but every n-th. Where there are `layer_types`, they decide."""
    window_pattern: int = 0
    """`pattern`: every n-th layer sees everything, unless `sliding_window_pattern` says another n."""
    prefix: str = "model."
    """What the names of all tensors of the trunk begin with; checkpoints of the trunk alone lack it."""
    modules: Mapping[str, str]
    """Our names of modules, and theirs."""
    output_names: tuple[str, ...] = ("lm_head",)
    """Module of the output head: spellings that are read, the one that is written first."""
    matrices: Literal["out_in", "in_out"] = "out_in"
    """How a matrix lies in the file."""
    fused: Literal["none", "thirds", "heads"] = "none"
    """Whether query, key and value are one tensor: all queries first (`thirds`), or each head's three together."""
    harmless: str = r"rotary_emb\.inv_freq$"
    """Tensors that old checkpoints have and no model needs: buffers that follow from the config."""

    def tensor_names(self, module: str) -> tuple[str, ...]:
        """List how files spell one of our modules, the spelling we write first; `{layer}` stands for a number.

        Example:
            >>> from rlhf_jax.models.huggingface.families import LLAMA
            >>> LLAMA.tensor_names("blocks/mlp/up")
            ('model.layers.{layer}.mlp.up_proj', 'layers.{layer}.mlp.up_proj')
        """
        if module == "unembedding":
            return self.output_names
        if module == "head":
            return ("score",)
        return self.prefix + self.modules[module], self.modules[module]
