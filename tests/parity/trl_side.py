"""The reference: TRL's trainers compute the loss with their own methods, torch differentiates it.

TRL 1.16 has no separate loss functions: a loss is part of ``Trainer._compute_loss``, together with the forward pass. So
the methods run on trainers that were never initialised (``object.__new__``; initialising one needs a tokenizer and a
data set, and sends telemetry), with the attributes that ``__init__`` would have copied from a real config. What they
get for a model is a table of logits under TRL's own fused LM head, the weight of which is the identity.

Only tests that found torch and the pinned TRL import this file (see conftest).
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from problem import PAD, PROMPT, RESPONSE, Problem
from transformers import TrainerState
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.trainer_pt_utils import LabelSmoother
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.kernels.chunked_logprob import OPTIONAL_OUTPUTS
from trl.trainer.utils import add_fused_lm_head, split_tensor_dict

torch.set_num_threads(1)  # tiny tensors, and other tests beside these

IGNORED = -100
Result = tuple[float, np.ndarray]  # the loss, and its gradient


class Table(torch.nn.Module):
    """A causal language model that knows a few sequences by heart: ``logits`` [..., S, V] of ``ids`` [..., S].

    With TRL's fused LM head the backbone's hidden states are the logits and the head is the identity; without it the
    logits come out as they are.
    """

    is_gradient_checkpointing = False

    def __init__(self, ids: np.ndarray, logits: np.ndarray) -> None:
        super().__init__()
        self.ids = torch.from_numpy(ids.reshape(-1, ids.shape[-1]))
        self.logits = torch.nn.Parameter(torch.tensor(logits.reshape(*self.ids.shape, -1)))
        self.head = torch.nn.Linear(self.logits.shape[-1], self.logits.shape[-1], bias=False)
        torch.nn.init.eye_(self.head.weight)
        self.config = SimpleNamespace(model_type="table", get_text_config=lambda: self.config)
        add_fused_lm_head(self, outputs=("log_probs", *OPTIONAL_OUTPUTS))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        """Without the fused head."""
        return SimpleNamespace(logits=self.base_model(input_ids, attention_mask, use_cache).last_hidden_state)

    def base_model(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        """Look the sequences up, in the order in which they are asked for."""
        found = [torch.nonzero((self.ids == row).all(-1)).flatten().tolist() for row in input_ids]
        if not all(len(rows) == 1 for rows in found):
            raise ValueError("a sequence that this table does not know, or knows twice")
        return SimpleNamespace(last_hidden_state=self.logits[[rows[0] for rows in found]])

    def get_output_embeddings(self) -> torch.nn.Module:
        """The identity."""
        return self.head


def bare(trainer: type, config: Any, model: Any, **attributes: Any) -> Any:
    """A trainer with what its loss reads: every field of the config under its own name, and what ``__init__`` adds."""
    made = object.__new__(trainer)
    common = {
        "args": config,
        "model": model,
        "accelerator": Accelerator(cpu=True),
        "aux_loss_enabled": False,
        "state": TrainerState(),
        "_metrics": defaultdict(partial(defaultdict, list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    made.__dict__.update(vars(config) | common | attributes)
    return made


def configured(config: type, **options: Any) -> Any:
    """A real config, with everything that looks for an accelerator, a network or a log switched off."""
    return config(
        output_dir="unused", use_cpu=True, bf16=False, activation_checkpointing=False, report_to="none", **options
    )


def result(loss: torch.Tensor, leaf: torch.Tensor, like: np.ndarray) -> Result:
    """Differentiate."""
    (gradient,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), gradient.numpy().reshape(like.shape)


def rows(x: np.ndarray, *, chosen_first: bool = False) -> torch.Tensor:
    """[..., S] -> [N, S], whole numbers; of pairs [B, 2, S] all chosen responses first where TRL wants it so."""
    x = np.moveaxis(x, 1, 0) if chosen_first else x
    return torch.tensor(x.reshape(-1, x.shape[-1]), dtype=torch.long)


def labels(ids: np.ndarray, counted: np.ndarray) -> torch.Tensor:
    """The targets, not shifted: [..., S] -> [N, S]."""
    return torch.from_numpy(np.where(counted, ids, IGNORED).reshape(-1, ids.shape[-1]))


# Supervised fine-tuning


def causal_lm_loss(x: Problem, *, num_items: int | None = None) -> Result:
    """The loss of every causal language model in transformers."""
    logits = torch.tensor(x.logits, requires_grad=True)
    items = None if num_items is None else torch.tensor(num_items)
    return result(ForCausalLMLoss(logits, labels(x.tokens, x.mask), x.logits.shape[-1], items), logits, x.logits)


def smoothed_lm_loss(x: Problem, *, label_smoothing: float) -> Result:
    """What transformers' Trainer uses in its place under ``label_smoothing_factor``."""
    logits = torch.tensor(x.logits, requires_grad=True)
    rows = logits.reshape(-1, *logits.shape[2:])
    loss = LabelSmoother(label_smoothing)({"logits": rows}, labels(x.tokens, x.mask), shift_labels=True)
    return result(loss, logits, x.logits)


def sft(x: Problem) -> Result:
    """TRL's SFTTrainer."""
    table = Table(x.tokens, x.logits)
    trainer = bare(SFTTrainer, configured(SFTConfig), table, compute_loss_func=None, label_smoother=None)
    inputs = {"input_ids": table.ids, "attention_mask": rows(x.attended), "labels": labels(x.tokens, x.mask)}
    return result(trainer.compute_loss(table, inputs), table.logits, x.logits)


# Reward models


def reward_model(scores: np.ndarray, *, margin: np.ndarray | None = None, center: float | None = None) -> Result:
    """TRL's RewardTrainer on scores [B, 2]."""
    leaf = torch.tensor(scores, requires_grad=True)

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=leaf.T.reshape(-1, 1))  # all chosen ones first

    config = configured(RewardConfig, center_rewards_coefficient=center)
    trainer = bare(RewardTrainer, config, SimpleNamespace(training=True))
    inputs: dict[str, Any] = {"attention_mask": torch.ones(scores.size, 1)}
    if margin is not None:
        inputs["margin"] = torch.tensor(margin)
    return result(trainer.compute_loss(model, inputs), leaf, scores)


# Pairs


def dpo(x: Problem, loss_type: str, *, beta: float, label_smoothing: float = 0.0) -> Result:
    """TRL's DPOTrainer with a reference model."""
    table, reference = Table(x.tokens, x.logits), Table(x.tokens, x.ref_logits)
    config = configured(DPOConfig, loss_type=[loss_type], beta=beta, label_smoothing=label_smoothing)
    trainer = bare(
        DPOTrainer,
        config,
        table,
        ref_model=reference,
        loss_types=config.loss_type,
        loss_weights=[1.0],
        precompute_ref_logps=config.precompute_ref_log_probs,
    )
    inputs = {
        "input_ids": rows(x.tokens, chosen_first=True),
        "attention_mask": rows(x.attended, chosen_first=True),
        "completion_mask": rows(x.mask, chosen_first=True),
    }
    return result(trainer.compute_loss(table, inputs), table.logits, x.logits)


def cpo(x: Problem, loss_type: str, *, beta: float, sft_weight: float = 0.0, **options: float) -> Result:
    """TRL's experimental CPOTrainer, which is its SimPO trainer too."""
    table = Table(x.tokens, x.logits)
    config = configured(CPOConfig, loss_type=loss_type, beta=beta, cpo_alpha=sft_weight, **options)
    trainer = bare(CPOTrainer, config, table, is_encoder_decoder=False, pad_token_id=PAD)
    loss, _ = trainer.get_batch_loss_metrics(table, _separate(x))
    return result(loss, table.logits, x.logits)


def orpo(x: Problem, *, weight: float) -> Result:
    """TRL's experimental ORPOTrainer."""
    table = Table(x.tokens, x.logits)
    config = configured(ORPOConfig, beta=weight)
    trainer = bare(ORPOTrainer, config, table, is_encoder_decoder=False, padding_value=PAD)
    loss, _ = trainer.get_batch_loss_metrics(table, _separate(x))
    return result(loss, table.logits, x.logits)


def odds_ratio(means: np.ndarray, *, weight: float) -> Result:
    """ORPO's second term alone, of mean log-probabilities [B, 2]."""
    leaf = torch.tensor(means, requires_grad=True)
    trainer = bare(ORPOTrainer, configured(ORPOConfig, beta=weight), None)
    terms, *_ = trainer.odds_ratio_loss(leaf[:, 0], leaf[:, 1])
    return result(-terms.mean(), leaf, means)


def one_pair_a_batch(reference: Callable[..., Result], x: Problem, *options: Any, **named: Any) -> Result:
    """The mean over the pairs of what the reference says of a batch of that pair alone."""
    values, gradients = zip(
        *(reference(x.group(b), *options, **named) for b in range(len(x.tokens))),
        strict=True,
    )
    return sum(values) / len(values), np.concatenate(gradients) / len(values)


def _separate(x: Problem) -> dict[str, torch.Tensor]:
    """The batch of the two experimental trainers: chosen and rejected responses in tensors of their own."""
    batch = {}
    for k, name in enumerate(("chosen", "rejected")):
        batch[f"{name}_input_ids"] = torch.from_numpy(x.tokens[:, k])
        batch[f"{name}_attention_mask"] = rows(x.attended[:, k])
        batch[f"{name}_labels"] = labels(x.tokens[:, k], x.mask[:, k])
    return batch


# Single responses


def kto(x: Problem, desirable: np.ndarray, mismatched: Problem, **options: float) -> tuple[float, Result]:
    """TRL's KTOTrainer: its estimate of the reference point, and the loss.

    Args:
        x: [B, K, S]; the responses that are judged.
        desirable: bool [B, K].
        mismatched: of the same shape, the sequences whose log-ratio estimates the KL.
        options: of the config.
    """
    ids = np.concatenate([x.tokens, mismatched.tokens])
    table = Table(ids, np.concatenate([x.logits, mismatched.logits]))
    reference = Table(ids, np.concatenate([x.ref_logits, mismatched.ref_logits]))
    config = configured(KTOConfig, **options)
    trainer = bare(
        KTOTrainer,
        config,
        table,
        ref_model=reference,
        calculate_KL=True,
        precompute_ref_logps=config.precompute_ref_log_probs,
    )
    inputs = {"label": torch.from_numpy(desirable.reshape(-1))}
    for prefix, each in (("", x), ("KL_", mismatched)):
        inputs[f"{prefix}input_ids"] = rows(each.tokens)
        inputs[f"{prefix}attention_mask"] = rows(each.attended)
        inputs[f"{prefix}completion_mask"] = rows(each.mask)
    loss = trainer.compute_loss(table, inputs)
    (gradient,) = torch.autograd.grad(loss, table.logits)
    judged = gradient[: x.mask[..., 0].size].numpy().reshape(x.logits.shape)
    if gradient[x.mask[..., 0].size :].any():
        raise AssertionError("a gradient flows into the estimate of the KL")
    return trainer._metrics["train"]["kl"][0], (float(loss.detach()), judged)


# Groups


def grpo(
    x: Problem,
    rewards: np.ndarray,
    *,
    token_advantages: np.ndarray | None = None,
    micro_batches: int = 1,
    **options: Any,
) -> tuple[np.ndarray, Result]:
    """TRL's GRPOTrainer, some updates after sampling.

    Args:
        x: [B, K, S].
        rewards: [B, K].
        token_advantages: [B, K, S], to be used in place of the advantages of the rewards.
        micro_batches: how many equal parts the batch is cut into.
        options: of the config.

    Returns:
        The advantages [B, K], and the loss, summed over the micro-batches as it is for the optimiser.
    """
    config = configured(GRPOConfig, **_sampling(x, micro_batches), **options)
    return _group(GRPOTrainer, config, x, rewards, token_advantages)


def rloo(x: Problem, rewards: np.ndarray, **options: Any) -> tuple[np.ndarray, Result]:
    """TRL's RLOOTrainer, some updates after sampling: its advantages [B, K] of the rewards [B, K], and the loss."""
    return _group(RLOOTrainer, configured(RLOOConfig, **_sampling(x, 1), **options), x, rewards, None)


def _sampling(x: Problem, micro_batches: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": x.mask[..., 0].size // micro_batches,
        "gradient_accumulation_steps": micro_batches,
        "steps_per_generation": micro_batches,
        "num_generations": x.mask.shape[1],
        "num_iterations": 2,  # with one, TRL takes the policy that is trained for the one that sampled
        "max_completion_length": RESPONSE,
    }


def _group(
    kind: type, config: Any, x: Problem, rewards: np.ndarray, token_advantages: np.ndarray | None
) -> tuple[np.ndarray, Result]:
    """Score the samples with the policy that drew them, then compute the loss of the policy that is trained."""
    flat = [field.reshape(-1, field.shape[-1]) for field in (x.tokens, x.prompt, x.mask)]
    prompts, responses = ([t[m].tolist() for t, m in zip(flat[0], where, strict=True)] for where in flat[1:])
    texts = [""] * len(prompts)

    def reward(**_: Any) -> list[float]:
        return rewards.ravel().tolist()

    trainer = bare(
        kind,
        config,
        Table(x.tokens, x.old_logits),
        ref_model=Table(x.tokens, x.ref_logits),
        epsilon_low=config.epsilon,
        epsilon_high=config.epsilon if config.epsilon_high is None else config.epsilon_high,
        reward_funcs=[reward],
        reward_func_names=["reward"],
        reward_processing_classes=[None],
        environments=None,
        environment_factories=None,
        tools=None,
        current_gradient_accumulation_steps=config.gradient_accumulation_steps,
        _entropy_bonus_enabled=False,
        _tokenizer=SimpleNamespace(pad_token_id=PAD),
        _logs={"prompt": [], "completion": [], "advantages": [], "rewards": {"reward": []}},
        _pending_extra_logs={},
        _pending_metrics={},
    )
    trainer.reward_weights = torch.ones(1)  # not the config's, which is None where all weigh the same
    sampled = {
        GRPOTrainer: (prompts, responses, None, texts, None, {}, None, []),
        RLOOTrainer: (prompts, responses, texts),
    }
    trainer._generate = lambda _: sampled[kind]
    inputs = trainer._generate_and_score_completions([{"prompt": ""} for _ in texts])
    advantages = inputs["advantages"].numpy().reshape(rewards.shape)
    if token_advantages is not None:
        inputs["advantages"] = torch.tensor(token_advantages[..., PROMPT:].reshape(-1, RESPONSE))
    trainer.model = Table(x.tokens, x.logits)
    parts = split_tensor_dict(inputs, config.gradient_accumulation_steps)
    loss = sum(trainer.compute_loss(trainer.model, part) for part in parts)
    return advantages, result(loss, trainer.model.logits, x.logits)
