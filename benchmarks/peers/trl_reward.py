"""TRL's RewardTrainer on the same pairs.

What is timed is the trainer's own ``training_step`` (forward, loss, gradient), then clipping and fused AdamW by hand:
the rest of the Trainer's loop is left out, which is to TRL's advantage.
"""

from __future__ import annotations

import tempfile

import datasets
import tokenizers
import torch
import transformers
import trl

from benchmarks.measure import Work
from benchmarks.peers.hugging_face import llama_config
from benchmarks.peers.torch_llama import device
from rlhf_jax.models import ModelConfig
from rlhf_jax.types import SequenceBatch


def reward_model(config: ModelConfig, batch: SequenceBatch) -> Work:
    """One update of a sequence classifier of this shape."""
    place = device()
    model = transformers.LlamaForSequenceClassification(llama_config(config))
    chosen, rejected = batch.tokens[:, 0].clip(1), batch.tokens[:, 1].clip(1)  # 0 is its padding
    rows = datasets.Dataset.from_dict({"chosen_ids": chosen.tolist(), "rejected_ids": rejected.tolist()})
    folder = tempfile.TemporaryDirectory()
    settings = trl.RewardConfig(
        output_dir=folder.name,
        per_device_train_batch_size=len(chosen),
        gradient_checkpointing=False,
        bf16=config.compute_dtype == "bfloat16",
        learning_rate=1e-4,
        max_length=None,
        report_to="none",
        disable_tqdm=True,
        use_cpu=place.type == "cpu",
    )
    trainer = trl.RewardTrainer(model, args=settings, train_dataset=rows, processing_class=blank_tokenizer())
    inputs = next(iter(trainer.get_train_dataloader()))
    network = trainer.accelerator.prepare(trainer.model).train()
    trainer.current_gradient_accumulation_steps = 1  # train() sets it
    rule = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def run() -> float:
        assert folder  # kept as long as the work is
        value = trainer.training_step(network, dict(inputs))
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        rule.step()
        rule.zero_grad(set_to_none=True)
        return float(value)

    return run


def blank_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Make a tokenizer for trainers whose rows are token ids already: 0 pads, 1 ends."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
