"""TRL's PPOTrainer on the same iteration: sampling, scoring, all epochs and minibatches, responses of full length.

It was last in TRL 1.5, as an experiment: ``pip install 'trl<1.6'`` in an environment of its own.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile

import datasets
import numpy as np
import transformers
from trl.experimental.ppo import PPOConfig, PPOTrainer

from benchmarks.measure import Work
from benchmarks.peers.hugging_face import llama_config
from benchmarks.peers.torch_llama import device
from benchmarks.peers.trl_reward import blank_tokenizer
from rlhf_jax.models import ModelConfig


def iteration(config: ModelConfig, prompts: np.ndarray, new: int, epochs: int, minibatches: int) -> Work:
    """Run one iteration of PPO with a critic of its own; ``train`` is called anew for each, with its set-up."""
    shape = llama_config(config)
    policy = transformers.LlamaForCausalLM(shape)
    reward, critic = (transformers.LlamaForSequenceClassification(shape) for _ in range(2))
    folder = tempfile.TemporaryDirectory()
    settings = PPOConfig(
        output_dir=folder.name,
        per_device_train_batch_size=len(prompts),  # a micro-batch is then a minibatch
        gradient_accumulation_steps=1,
        num_mini_batches=minibatches,
        num_ppo_epochs=epochs,
        total_episodes=len(prompts),
        response_length=new,
        local_rollout_forward_batch_size=len(prompts),
        num_sample_generations=0,
        learning_rate=1e-6,
        temperature=1.0,
        gradient_checkpointing=False,
        bf16=config.compute_dtype == "bfloat16",
        optim="adamw_torch_fused",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device().type == "cpu",
    )
    trainer = PPOTrainer(
        settings,
        blank_tokenizer(),
        policy,
        copy.deepcopy(policy),
        reward,
        datasets.Dataset.from_dict({"input_ids": prompts.clip(2).tolist()}),  # below are its padding and end
        critic,
        eval_dataset=datasets.Dataset.from_dict({"input_ids": prompts[:1].clip(2).tolist()}),
    )

    def run() -> None:
        assert folder  # kept as long as the work is
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()

    return run
