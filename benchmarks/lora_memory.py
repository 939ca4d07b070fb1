"""What a PPO iteration holds: four full models, or one frozen trunk with adapters. One JSON line a figure.

    python -m benchmarks.lora_memory [--rank 16] [--rows 4] [--length 128] [--pretrained] [--fast]

The model is SmolLM2-135M's shape with random weights; with ``--pretrained`` it is SmolLM2-135M-Instruct
(``rlhf fetch smollm2-135m``), and the error that 8 bits make is measured as well. *Counted* figures are of shapes
alone: parameters and Adam's moments of policy and critic, parameters of reference and reward model. *Live* ones are of
the arrays that exist once ``OnlineTrainer`` has its state, each buffer counted once. *Temporary* ones are what XLA asks
for beside its arguments to run all updates of an iteration, on minibatches of ``rows`` sequences of ``length`` tokens.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import line, print_lines
from benchmarks.options import Options, options, parser
from benchmarks.ppo_iteration import NoText
from benchmarks.shapes import SHAPES
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
Load = Callable[[], tuple[ModelConfig, Params]]


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
    config: ModelConfig, params: Params, lora: LoRAConfig, rows: int, mesh: jax.sharding.Mesh
) -> OnlineTrainer:
    """PPO from this model against a reward model of the same trunk."""
    settings = PPOConfig(out="unused", prompts=2 * rows, minibatches=2, epochs=1, lora=lora)
    policy = reward = (config, params)
    if lora.rank:
        policy, reward = (models.add_adapters(config, params, lora, jax.random.key(seed)) for seed in (0, 1))
    reward_config = dataclasses.replace(reward[0], scalar_head=True)
    with_head = models.with_scalar_head(reward[1], reward_config)  # without adapters, a copy
    scored_by = LoadedModel(reward_config, with_head)
    tokenizer: Any = NoText(config.vocab_size)
    return OnlineTrainer(settings, policy=LoadedModel(*policy), reward=scored_by, tokenizer=tokenizer, mesh=mesh)


def temporary(trainer: OnlineTrainer, state: stages.OnlineState, rows: int, length: int) -> int:
    """Bytes that the compiled update asks for beside its arguments and results."""
    size = (2 * rows, 1, length)
    each, scored = jnp.zeros(size), jnp.zeros(size[:2])
    ones, mask = jnp.ones(size, jnp.int32), jnp.ones(size, bool)
    known = {"old_logprobs": each, "ref_logprobs": each, "advantages": each, "returns": each, "old_values": each}
    batch = SequenceBatch(ones, mask, ones, ones, score=scored, reward=scored, kl_coef=scored, **known)
    plan, shape, _ = trainer._plan(batch, 0)
    update = cast(Any, trainer.update_program)
    compiled = update.lower(state, trainer.frozen, batch, plan, None, jax.random.key(0), shape).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def int8_error(config: ModelConfig, params: Params, tokenizer: Tokenizer) -> dict[str, tuple[float, str]]:
    """How far an 8-bit trunk's logits are off, on a few texts."""
    encoded = [tokenizer.encode_response(text) for text in TEXTS]
    width = max(len(ids) for ids in encoded)
    tokens = np.stack([np.pad(ids, (0, width - len(ids))) for ids in encoded])
    mask = np.stack([np.arange(width) < len(ids) for ids in encoded])
    logits = jax.jit(models.logits, static_argnums=0)
    exact = np.asarray(logits(config, params, tokens, mask))[mask]
    rounded = np.asarray(logits(*models.quantise(config, params), tokens, mask))[mask]
    log_p, log_q = (np.asarray(jax.nn.log_softmax(x)) for x in (exact, rounded))
    error = np.abs(rounded - exact)
    return {
        "largest error of a logit": (float(error.max() / np.ptp(exact)), "of the range"),
        "mean error of a logit": (float(error.mean() / np.ptp(exact)), "of the range"),
        "KL to the exact model": (float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()), "nats a token"),
        "same most likely token": (float((log_p.argmax(-1) == log_q.argmax(-1)).mean()), "share of tokens"),
    }


def lines(
    asked: Options, rank: int = 16, rows: int = 4, length: int = 128, pretrained: bool = False
) -> Iterator[dict[str, Any]]:
    """Count and measure what each way of training holds."""
    shape = "fast" if asked.fast else "smol"
    rank, rows, length = (4, 2, 16) if asked.fast else (rank, rows, length)

    def say(figure: str, value: float, unit: str, **beside: Any) -> dict[str, Any]:
        return line("lora_memory", figure, value, unit, shape=shape, beside=beside)

    def random() -> tuple[ModelConfig, Params]:
        return SHAPES[shape], jax.jit(models.build(SHAPES[shape]).init)(jax.random.key(0))

    folder = fetch("smollm2-135m") if pretrained else ""
    load: Load = (lambda: models.load_pretrained(folder)) if pretrained else random
    lora = LoRAConfig(rank=rank)
    config, params = load()
    yield say("parameters", sum(x.size for x in jax.tree.leaves(params)), "parameters")
    full = counted(config, LoRAConfig(), "float32")
    yield say("four full models, counted", sum(full.values()), "bytes", **full)
    for kind in ("float32", "bfloat16", "int8"):
        parts = counted(config, lora, kind)
        total = sum(parts.values())
        yield say(f"{kind} trunk and adapters, counted", total, "bytes", **parts, times_less=sum(full.values()) / total)
    if pretrained:
        for figure, (value, unit) in int8_error(config, params, Tokenizer.load(folder)).items():
            yield say(f"int8 trunk: {figure}", value, unit)
    del params
    cases: dict[str, tuple[Load, LoRAConfig]] = {
        "int8 trunk and adapters": (lambda: models.quantise(*load()), lora),
        "float32 trunk and adapters": (load, lora),
        "four full models": (load, LoRAConfig()),
    }
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1])
    for name, (make, how) in list(cases.items())[: 1 if asked.fast else None]:
        before = live()
        trainer = make_trainer(*make(), how, rows, mesh)
        state = trainer.init()
        yield say(f"{name}, live", live() - before, "bytes")
        yield say(f"{name}, temporary", temporary(trainer, state, rows, length), "bytes", rows=rows, length=length)
        del trainer, state


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--rank", type=int, default=16)
    asked.add_argument("--rows", type=int, default=4, help="sequences of a minibatch")
    asked.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    asked.add_argument(
        "--pretrained", action="store_true", help="SmolLM2-135M-Instruct itself, and the error of 8 bits"
    )
    given = asked.parse_args()
    print_lines(lines(options(given), given.rank, given.rows, given.length, given.pretrained))


if __name__ == "__main__":
    main()
