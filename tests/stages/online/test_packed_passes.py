"""Updates on packed blocks: the ones of padded rows, in one program for any lengths, and little of it is padding."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_task

from rlhf_jax import objectives, stages, training
from rlhf_jax.models.ensemble import member_values
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import EncodedPrompt, KLConfig, LoadedModel, OnlineTrainer, PTXConfig
from rlhf_jax.stages import blocks as block_sizes
from rlhf_jax.stages.blocks import at_last, by_response, in_blocks
from rlhf_jax.types import SequenceBatch

SAMPLED = 8


@pytest.fixture(scope="module")
def prompts(tables, sft_run):
    """Prompts of different lengths, so that there is padding on the left."""
    rows = [json.loads(line)["prompt"] for line in (tables / "prompts.jsonl").read_text().splitlines()]
    texts = [text[: 4 + i] for i, text in enumerate(rows[:8])]
    return [EncodedPrompt(text, sft_run.tokenizer.encode_prompt(text), i) for i, text in enumerate(texts)]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of few tokens, so that these few responses need several of them."""
    monkeypatch.setattr(block_sizes, "CPU_TOKENS", 48)
    monkeypatch.setattr(block_sizes, "CPU_ROW", 48)


@pytest.mark.parametrize(("platform", "passes"), [("gpu", 16 * 768), ("tpu", 5 * 768), ("cpu", 2 * 384)])
def test_passes_without_gradients_take_larger_blocks_on_a_gpu(monkeypatch, platform, passes):
    """128 sequences of 384 tokens, two a row of 768: 64 rows are 4 blocks of 16 for passes, 13 of 5 in training."""
    monkeypatch.setattr(block_sizes.parallel, "platform", lambda mesh: platform)
    mesh = jax.make_mesh((1, 1, 1), ("data", "fsdp", "tensor"), devices=jax.devices()[:1])
    shape = block_sizes.shape_of(mesh, 128, 1, 384, gradients=False)
    assert shape.size == passes
    assert block_sizes.shape_of(mesh, 128, 1, 384).size == (2 * 384 if platform == "cpu" else 5 * 768)


def make(run, tables, config, mesh, reward=tiny_task.count_a, **changes):
    settings = {"sampling": SamplingConfig(max_new_tokens=SAMPLED, window=4), "prompts": 8, **changes}
    policy = LoadedModel(run.model_config, run.params["policy"])
    settings = config(tables, "unused", policy="unused", **settings)
    return OnlineTrainer(settings, policy=policy, tokenizer=run.tokenizer, reward=reward, mesh=mesh)


def cut(sampled, seed):
    """The same responses, each ended after 1 to all of its tokens."""
    keep = np.random.default_rng(seed).integers(1, SAMPLED + 1, sampled.mask.shape[:2])[..., None]
    mask = sampled.mask & (jnp.cumsum(sampled.mask, axis=-1) <= keep)
    real = mask | ((sampled.segment_ids > 0) & ~sampled.mask)
    return sampled._replace(
        mask=mask, segment_ids=real.astype(jnp.int32), logprobs=jnp.where(mask, sampled.logprobs, 0.0)
    )


def test_blocks_give_what_padded_rows_give(sft_run, tables, prompts, one_device, small_blocks):
    """Log-probabilities, values and scores of every token of every response, by passes over blocks."""
    trainer = make(sft_run, tables, tiny_task.ppo_config, one_device, samples=2)
    params = trainer.with_trunk(trainer.init().train.params)
    sampled = cut(trainer.collect(trainer.init(), prompts, 0), 0)
    rows = trainer.sampler.rows(sampled)
    assert 2 < int(rows.used) < rows.tokens.shape[0]  # several blocks, and some that are empty
    assert int((rows.segment_ids > 0).sum()) == int((sampled.segment_ids > 0).sum())  # and no padding of prompts
    head = {**params["critic"], "head": {"kernel": jnp.ones((tiny_task.MODEL.d_model, 1))}}
    roles = {**trainer.models, "reward": trainer.models["critic"]}
    padded = SequenceBatch(sampled.tokens, sampled.mask, sampled.segment_ids, sampled.positions)
    want = stages.forward(roles, {"policy": params["policy"], "critic": head, "reward": head}, padded)

    def run(block):
        return stages.forward(trainer.models, {"policy": params["policy"], "critic": head}, block)

    found = jax.tree.map(lambda x: by_response(x[:, :, 0], rows), jax.jit(lambda: in_blocks(run, rows))())
    for name in ("logprobs", "values"):
        ours, theirs = (np.asarray(getattr(x, name))[np.asarray(sampled.mask)] for x in (found, want))
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    values = in_blocks(lambda b: member_values(roles["reward"], head, b), rows)
    np.testing.assert_allclose(at_last(values, rows)[..., 0], want.scores, atol=1e-5)


UPDATES = {
    "ppo": (tiny_task.ppo_config, {"samples": 2, "epochs": 2}),
    "grpo": (tiny_task.group_config, {"objective": "grpo", "samples": 3, "epochs": 2, "kl": KLConfig(kind="fixed")}),
    "parts": (tiny_task.ppo_config, {"samples": 2, "micro_batches": 2, "epochs": 1}),
    "text": (tiny_task.group_config, {"objective": "rloo", "samples": 2, "micro_batches": 2, "ptx": True}),
}


@pytest.mark.parametrize("case", UPDATES)
def test_a_packed_update_is_the_one_of_padded_rows(
    case, sft_run, tables, prompts, one_device, small_blocks, monkeypatch
):
    """Beside a plain loop over epochs and minibatches, in the order that the step's key gives; by gradient descent."""
    monkeypatch.setattr(training, "make_optimizer", lambda config, steps: optax.sgd(0.3))
    config, changes = UPDATES[case]
    if "ptx" in changes:
        changes = {**changes, "ptx": PTXConfig(coef=0.25, data=tiny_task.data(tables, "text"), rows=2)}
    trainer = make(sft_run, tables, config, one_device, minibatches=2, **changes)
    settings, step = trainer.config, 2
    state = trainer.init()
    sampled = cut(trainer.collect(state, prompts, step), 1)
    batch, _ = trainer.prepare(state, sampled, prompts)
    if settings.samples == 2:
        # A batch that somebody has changed: one response does not count.
        batch = batch._replace(mask=batch.mask.at[5, 1].set(False))

    shuffle, _ = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), 2), step))
    orders = [jax.random.permutation(k, 8) for k in jax.random.split(shuffle, settings.epochs)]
    text = trainer._text_batches(step)
    extra = None
    if text is not None:
        loss = stages.make_loss_fn(objectives.sft, {"policy": trainer.models["policy"]})
        extra = {"ptx": training.AuxiliaryLoss(loss, 0.25)}
    plain = jax.jit(training.make_train_step(trainer._loss, trainer.optimizer, accumulate=1, extra=extra))
    train, losses = jax.tree.map(jnp.copy, state.train), []
    for u, groups in enumerate(np.concatenate(orders).reshape(-1, 4)):
        one = jax.tree.map(lambda x, g=groups: x[g], batch)
        # Both parts of the text in one, with its row numbers put one after the other.
        given = one if text is None else (one, {"ptx": joined(jax.tree.map(lambda x, u=u: x[u], text))})
        train, metrics = plain(train, given, jax.random.key(0))
        losses.append(jax.device_get(metrics))
    packed, figures = trainer.update(state, batch, step)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5, rtol=1e-4), packed.train.params, train.params)
    figures = training.fetch(figures)
    assert figures["skipped"] == 0
    for name in ("loss", "grad_norm", *(("ptx_loss",) if text is not None else ())):
        total, weight = (sum(x[name][i] for x in losses) for i in range(2))
        assert figures[name] == pytest.approx(total / weight, rel=1e-4, abs=1e-6), name


def joined(text):
    """Text in parts, [A, ...], as one packed batch."""
    rows = text.packing.tokens.shape[1] * text.packing.tokens.shape[2]
    shift = np.arange(text.tokens.shape[0], dtype=np.int32).reshape(-1, 1, 1, 1) * rows
    packing = text.packing._replace(places=text.packing.places + shift)
    return jax.tree.map(lambda x: np.concatenate(list(x)), text._replace(packing=packing))


def test_no_program_is_compiled_after_the_second_iteration(
    sft_run, reward_run, tables, prompts, one_device, small_blocks
):
    """Responses get shorter and longer, and the number of blocks with them."""
    scored_by = LoadedModel(reward_run.model_config, reward_run.params["reward"])
    trainer = make(sft_run, tables, tiny_task.ppo_config, one_device, reward=scored_by, prompts=8, minibatches=2)
    state, compiled, used = trainer.init(), [], []
    programs = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: programs.append(name) if name == "/jax/core/compile/backend_compile_duration" else 0
    )
    for step in range(4):
        before = len(programs)
        sampled = trainer.collect(state, prompts, step)
        sampled = sampled if step % 2 else shorter(sampled, 1 + step)
        batch, _ = trainer.prepare(state, sampled, prompts)
        used.append(int(trainer._plan(batch, step)[0].used.sum()))
        state, metrics = trainer.update(state, batch, step)
        training.fetch(metrics)
        compiled.append(len(programs) - before)
    assert compiled[0] > 0
    assert compiled[2:] == [0, 0]
    assert len(set(used)) > 1


def shorter(sampled, length):
    """The same responses, each ended after so many tokens."""
    keep = np.asarray(sampled.mask) & (np.cumsum(sampled.mask, axis=-1) <= length)
    segment_ids = np.where(keep | ~np.asarray(sampled.mask), sampled.segment_ids, 0)
    return sampled._replace(mask=jnp.asarray(keep), segment_ids=jnp.asarray(segment_ids))


def test_a_reward_on_text_is_computed_while_the_devices_are_at_the_passes(sft_run, tables, prompts, one_device):
    """Everything that needs no score is dispatched before."""
    order = []

    def reward(texts, responses):
        order.append("reward")
        return tiny_task.count_a(texts, responses)

    trainer = make(sft_run, tables, tiny_task.ppo_config, one_device, reward=reward)
    for owner, name in ((trainer, "passes_program"), (trainer.sampler, "logprobs"), (trainer, "prepare_program")):
        setattr(owner, name, functools.partial(noted, order, name, getattr(owner, name)))
    state = trainer.init()
    trainer.prepare(state, trainer.collect(state, prompts, 0), prompts)
    assert order == ["passes_program", "logprobs", "reward", "prepare_program"]


def noted(order, name, call, *given):
    order.append(name)
    return call(*given)


def test_the_share_of_padding_is_logged(sft_run, tables, prompts, one_device):
    trainer = make(sft_run, tables, tiny_task.ppo_config, one_device, minibatches=1, epochs=1)
    state = trainer.init()
    batch, _ = trainer.prepare(state, trainer.collect(state, prompts, 0), prompts)
    _, shape, _ = trainer._plan(batch, 0)
    figures = training.fetch(trainer.update(state, batch, 0)[1])
    # Eight short responses fit one block.
    assert figures["padding"] == pytest.approx(1 - int((batch.segment_ids > 0).sum()) / shape.size)
