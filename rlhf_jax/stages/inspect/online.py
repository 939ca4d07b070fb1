"""The arrays of PPO and the group methods: models, and what an iteration samples, packs, scores and trains on."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import PartitionSpec

from rlhf_jax import parallel
from rlhf_jax.models.ambient import HEADS
from rlhf_jax.models.decoding import decoding_kind
from rlhf_jax.parallel import BATCH
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.stages.ahead.online import OnlineWork, prompt_shapes, rollout_shapes, row_keys, row_shapes, update_blocks
from rlhf_jax.stages.inspect.lister import Lister, by_rows
from rlhf_jax.types import Rollout


def list_online(work: OnlineWork, lister: Lister) -> None:
    """List the arrays of a stage that trains on its own samples; every response is of full length.

    Args:
        work: from ``online_work``.
        lister: for its devices.
    """
    trainer, state, vocabulary = work.trainer, work.state, work.sizes.policy.vocab_size
    reward: Any = trainer.reward.params
    lister.models(state.train, trainer.frozen)
    counters = {"controller": state.controller, "moments": state.moments}
    lister.add("counters", counters, lambda *_: PartitionSpec())
    lister.frozen("reference", trainer.sampler.held_reference)
    lister.frozen("reward model", reward)
    sampled = _list_sampling(work, lister)
    rows = row_shapes(trainer, sampled)
    by_response = {"places": rows.places, "real": rows.real}
    lister.add("packed rows", by_response, by_rows())
    lister.add("packed rows", {name: x for name, x in rows._asdict().items() if name not in by_response}, by_rows(1))
    out = jax.eval_shape(trainer.passes_program, state.train.params, trainer.frozen, rows)
    known = jax.eval_shape(trainer.sampler.logprobs, trainer.sampler.reference, rows)
    scores = jax.eval_shape(trainer.reward.program, parallel.bring(reward), rows)
    before = (state.controller.coef, state.moments)
    batch, _ = jax.eval_shape(trainer.prepare_program, *before, sampled, out, known, scores)
    same = {name: x for name, x in as_batch(sampled)._asdict().items() if x is not None}  # they go in as they are
    lister.add("batch", lister.placed(batch, by_rows())._replace(**same), by_rows())
    in_block, length = rows.tokens.shape[1:]
    lister.logits("log-probabilities", in_block, length, vocabulary, backward=False)
    shape = update_blocks(work.config, trainer, sampled.tokens.shape[-1])
    lister.logits("update", shape.rows, shape.row_length, vocabulary, backward=True)


def _list_sampling(work: OnlineWork, lister: Lister) -> Rollout:
    """List weights, cache and state of the sampler, and the rollout that comes of them, which is returned."""
    config, trainer, mesh = work.config, work.trainer, work.trainer.mesh
    programs, count = trainer.sampler.engine.programs, config.prompts * config.samples
    policy = trainer.with_trunk(work.state.train.params)["policy"]
    rows = trainer.sampler.sharding(config.prompts)
    laid = jax.eval_shape(functools.partial(programs.lay_out, sharding=rows), policy)
    lister.add("weights laid out for decoding", lister.placed(laid, _off_the_stack), _off_the_stack)

    def begin(rows: int) -> Any:
        empty = functools.partial(programs.empty, columns=work.columns + config.sampling.max_new_tokens)
        return jax.eval_shape(parallel.traced_on(mesh, empty), row_keys(trainer, rows))

    state = begin(min(config.sampling.slots or count, count))
    kind = parallel.traced_on(mesh, lambda: decoding_kind(work.sizes.policy))()
    heads = 2 if kind == "cudnn" and config.sampling.int8 != "weights_and_cache" else 1

    def of_cache(name: str, shape: tuple[int, ...]) -> PartitionSpec:
        return PartitionSpec(BATCH, *(None,) * (heads - 1), HEADS) if len(shape) > heads else by_rows()(name, shape)

    lister.add("KV cache", lister.placed(state.cache._asdict(), of_cache), of_cache)
    rest = {name: x for name, x in state._asdict().items() if name != "cache"}
    asked = dict(zip(("prompts", "lengths"), prompt_shapes(config.prompts, work.columns, rows), strict=True))
    lister.add("rollout", asked, by_rows())
    lister.add("rollout", {"state": lister.placed(rest, by_rows())}, by_rows())
    whole = begin(count)
    drawn = (whole.tokens, whole.logprobs, whole.written, whole.finished)
    sampled = rollout_shapes(config, trainer, work.columns, drawn)
    lister.add("rollout", sampled, by_rows())
    return sampled


def _off_the_stack(name: str, shape: tuple[int, ...]) -> PartitionSpec:
    """Blocks lie as they did on their stack, without its axis."""
    if not name.startswith("blocks/"):
        return parallel.rule_spec(name, shape)
    return PartitionSpec(*parallel.rule_spec(name, (1, *shape))[1:])
