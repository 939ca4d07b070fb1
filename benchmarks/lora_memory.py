"""What a PPO iteration holds: four full models, or one frozen trunk with adapters. One JSON line a figure.

    python benchmarks/lora_memory.py [--rank 16] [--rows 4] [--length 128]

The model is SmolLM2-135M-Instruct (``rlhf fetch smollm2-135m``). *Counted* figures are of shapes alone: parameters and
Adam's moments of policy and critic, parameters of reference and reward model. *Live* ones are of the arrays that exist
once ``OnlineTrainer`` has its state, each buffer counted once. *Temporary* ones are what XLA asks for beside its
arguments to run all updates of an iteration, on minibatches of ``rows`` sequences of ``length`` tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models, parallel, stages
from rlhf_jax.data import Tokenizer
from rlhf_jax.models import LoRAConfig, ModelConfig
from rlhf_jax.runs.fetch import fetch
from rlhf_jax.stages import LoadedModel, OnlineTrainer, PPOConfig
from rlhf_jax.types import Params, SequenceBatch

TEXTS = (
    "The capital of France is Paris, and the river that runs through it is the Seine.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
    "I did not enjoy this film: the plot was thin, the jokes were old and it went on for far too long.",
    "To make bread you need flour, water, salt and yeast. Mix them, let the dough rest, and bake it.",
)


def say(figure: str, value: float, unit: str, **beside: Any) -> None:
    print(
        json.dumps({"benchmark": "lora_memory", "figure": figure, "value": value, "unit": unit, **beside}), flush=True
    )


def nbytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def counted(config: ModelConfig, lora: LoRAConfig, trunk_type: str) -> dict[str, int]:
    """Bytes by role, from shapes: trained weights are float32 with two moments of Adam."""
    params = jax.eval_shape(models.build(config).init, jax.random.key(0))
    head = 4 * config.d_model
    if not lora.rank:
        one = nbytes(params)
        return {"policy": 3 * one, "critic": 3 * (one + head), "reference": one, "reward": one + head}
    trunk_config, trunk = config, params
    if trunk_type == "int8":
        trunk = jax.eval_shape(lambda p: models.quantise(config, p)[1], params)
        trunk_config = dataclasses.replace(config, int8=True)
    elif trunk_type != "float32":
        trunk = jax.eval_shape(lambda p: jax.tree.map(lambda x: x.astype(trunk_type), p), params)
    adapted = jax.eval_shape(lambda p: models.add_adapters(trunk_config, p, lora, jax.random.key(0))[1], trunk)
    own = nbytes(models.split(adapted)[0])
    return {"trunk": nbytes(trunk), "policy": 3 * own, "critic": 3 * (own + head), "reference": 0, "reward": own + head}


def live() -> int:
    """Bytes of every buffer that a jax array holds, each once."""
    gc.collect()
    found = {x.unsafe_buffer_pointer(): x.nbytes for x in jax.live_arrays() if not x.is_deleted()}
    return sum(found.values())


def make_trainer(
    config: ModelConfig, params: Params, lora: LoRAConfig, tokenizer: Tokenizer, rows: int, mesh: jax.sharding.Mesh
) -> OnlineTrainer:
    """PPO from this model against a reward model of the same trunk."""
    settings = PPOConfig(out="unused", prompts=2 * rows, minibatches=2, epochs=1, lora=lora)
    policy = reward = (config, params)
    if lora.rank:
        policy, reward = (models.add_adapters(config, params, lora, jax.random.key(seed)) for seed in (0, 1))
    reward_config = dataclasses.replace(reward[0], scalar_head=True)
    with_head = models.with_scalar_head(reward[1], reward_config)  # without adapters, a copy
    scored_by = LoadedModel(reward_config, with_head)
    return OnlineTrainer(settings, policy=LoadedModel(*policy), reward=scored_by, tokenizer=tokenizer, mesh=mesh)


def temporary(trainer: OnlineTrainer, state: stages.OnlineState, rows: int, length: int) -> int:
    """Bytes that the compiled update asks for beside its arguments and results."""
    size = (2 * rows, 1, length)
    each, scored = jnp.zeros(size), jnp.zeros(size[:2])
    ones, mask = jnp.ones(size, jnp.int32), jnp.ones(size, bool)
    known = {"old_logprobs": each, "ref_logprobs": each, "advantages": each, "returns": each, "old_values": each}
    batch = SequenceBatch(ones, mask, ones, ones, score=scored, reward=scored, kl_coef=scored, **known)
    plan, shape, _ = trainer._plan(batch, 0)
    update = cast(Any, trainer._update)
    compiled = update.lower(state, trainer._frozen, batch, plan, None, jax.random.key(0), shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def int8_error(config: ModelConfig, params: Params, tokenizer: Tokenizer) -> None:
    """How far an 8-bit trunk's logits are off, on a few texts."""
    encoded = [tokenizer.encode_response(text) for text in TEXTS]
    width = max(len(ids) for ids in encoded)
    tokens = np.stack([np.pad(ids, (0, width - len(ids))) for ids in encoded])
    mask = np.stack([np.arange(width) < len(ids) for ids in encoded])
    logits = jax.jit(models.logits, static_argnums=0)
    exact = np.asarray(logits(config, params, tokens, mask))[mask]
    rounded = np.asarray(logits(*models.quantise(config, params), tokens, mask))[mask]
    log_p, log_q = (np.asarray(jax.nn.log_softmax(x)) for x in (exact, rounded))
    say("int8 trunk: largest error of a logit", float(np.abs(rounded - exact).max() / np.ptp(exact)), "of the range")
    say("int8 trunk: mean error of a logit", float(np.abs(rounded - exact).mean() / np.ptp(exact)), "of the range")
    say("int8 trunk: KL to the exact model", float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()), "nats a token")
    say("int8 trunk: same most likely token", float((log_p.argmax(-1) == log_q.argmax(-1)).mean()), "share of tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4, help="sequences of a minibatch")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    asked = parser.parse_args()
    folder = fetch("smollm2-135m")
    lora = LoRAConfig(rank=asked.rank)
    config, params = models.load_pretrained(folder)
    tokenizer = Tokenizer.load(folder)
    say("parameters", sum(x.size for x in jax.tree.leaves(params)), "parameters")

    full = counted(config, LoRAConfig(), "float32")
    say("four full models, counted", sum(full.values()), "bytes", **full)
    for kind in ("float32", "bfloat16", "int8"):
        parts = counted(config, lora, kind)
        total = sum(parts.values())
        say(f"{kind} trunk and adapters, counted", total, "bytes", **parts, times_less=sum(full.values()) / total)

    int8_error(config, params, tokenizer)
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1])
    del params
    cases = {
        "int8 trunk and adapters": (lambda: models.quantise(*models.load_pretrained(folder)), lora),
        "float32 trunk and adapters": (lambda: models.load_pretrained(folder), lora),
        "four full models": (lambda: models.load_pretrained(folder), LoRAConfig()),
    }
    for name, (load, how) in cases.items():
        before = live()
        trainer = make_trainer(*load(), how, tokenizer, asked.rows, mesh)
        state = trainer.init()
        say(f"{name}, live", live() - before, "bytes")
        beside = {"rows": asked.rows, "length": asked.length}
        say(f"{name}, temporary", temporary(trainer, state, asked.rows, asked.length), "bytes", **beside)
        del trainer, state


if __name__ == "__main__":
    main()
