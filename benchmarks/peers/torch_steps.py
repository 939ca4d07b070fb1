"""Training steps in torch by hand: forward, loss, gradient, clipping and fused AdamW, with nothing around them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measure import Work
from benchmarks.peers.torch_llama import Llama, device
from rlhf_jax.models import ModelConfig
from rlhf_jax.types import SequenceBatch


def updates(model: nn.Module, config: ModelConfig, loss: Callable[[], torch.Tensor]) -> Work:
    """Make the work that takes the gradient of a loss and updates a model."""
    rule = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    place = device().type

    def run() -> float:
        with torch.autocast(place, torch.bfloat16, enabled=config.compute_dtype == "bfloat16"):
            value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rule.step()
        rule.zero_grad(set_to_none=True)
        if place == "cuda":
            torch.cuda.synchronize()
        return float(value.detach())

    return run


def sft(config: ModelConfig, batch: SequenceBatch) -> Work:
    """Cross entropy of every next token."""
    model, tokens = _drawn(config), _tokens(batch)

    def loss() -> torch.Tensor:
        return F.cross_entropy(model.logits(tokens)[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())

    return updates(model, config, loss)


def reward_model(config: ModelConfig, batch: SequenceBatch) -> Work:
    """Bradley-Terry on the scores of both responses, run in one batch."""
    model, tokens = _drawn(config), _tokens(batch)

    def loss() -> torch.Tensor:
        first, second = model.scores(tokens).float().unflatten(0, (-1, 2)).unbind(-1)
        return -F.logsigmoid(first - second).mean()

    return updates(model, config, loss)


def dpo(config: ModelConfig, batch: SequenceBatch) -> Work:
    """DPO; the reference is run without a gradient in the same step."""
    model, tokens = _drawn(config), _tokens(batch)
    reference = copy.deepcopy(model).requires_grad_(False)

    def sums(network: Llama) -> torch.Tensor:
        logits = network.logits(tokens)[:, :-1].flatten(0, 1).float()
        return (
            -F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none").unflatten(0, (len(tokens), -1)).sum(-1)
        )

    def loss() -> torch.Tensor:
        with torch.no_grad():
            known = sums(reference)
        gained = (sums(model) - known).unflatten(0, (-1, 2))
        return -F.logsigmoid(0.1 * (gained[:, 0] - gained[:, 1])).mean()

    return updates(model, config, loss)


def _drawn(config: ModelConfig) -> Llama:
    """Make a network whose weights are drawn where they lie: a CPU takes longer to draw them than to be measured."""
    with device():
        return Llama(config)


def _tokens(batch: SequenceBatch) -> torch.Tensor:
    """All sequences of a batch as rows."""
    return torch.tensor(batch.tokens.reshape(-1, batch.tokens.shape[-1]), dtype=torch.long, device=device())
