"""A run's model as a Hugging Face folder, for transformers, vLLM and everything that reads their format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax

from rlhf_jax import models
from rlhf_jax.data import Tokenizer
from rlhf_jax.stages.inference import POLICY_STAGES
from rlhf_jax.stages.loading import RunError, base_of, load_stage, origin

STAGES = (*POLICY_STAGES, "reward")


def export(
    run: Path | str,
    to: Path | str,
    *,
    stage: str | None = None,
    member: int | None = None,
    adapter: bool = False,
    dtype: str = "",
) -> Path:
    """Write the model of a finished stage, its tokenizer and its generation config to a folder.

    Args:
        run: a run folder.
        to: the folder to write; one that holds a checkpoint is replaced, any other is refused.
        stage: ``reward``, or whose policy; the policy of the last stage by default.
        member: which reward model of an ensemble.
        adapter: only the adapter, in PEFT's format; by default it is folded into the weights.
        dtype: ``float32``, ``bfloat16`` or ``float16`` for all weights; as they are by default.

    Returns:
        The folder: a ``*ForCausalLM``, or a ``*ForSequenceClassification`` with one label.

    Raises:
        RunError: when there is no such stage, it has no adapter, or the reward model is an ensemble and no member is
            named.
        CheckpointError: when the folder holds something else.

    Example:
        >>> export("runs/mine", "my-model")  # doctest: +SKIP
    """
    there = [name for name in STAGES if (Path(run) / "params" / name).exists()]
    name = stage or (there[0] if there else POLICY_STAGES[-1])
    if name not in STAGES:
        raise RunError(f"stage {name!r} makes no model: choose one of {', '.join(STAGES)}")
    params, config, tokenizer = load_stage(run, name)
    model = params["reward" if name == "reward" else "policy"]
    count = models.members(model) if "head" in model else 0
    if count:
        if member is None or not 0 <= member < count:
            raise RunError(f"the reward model of {run} is an ensemble: choose a member with --member, 0 to {count - 1}")
        model = models.member(model, member)
    elif member is not None:
        raise RunError(f"the {name} stage of {run} holds one model, no ensemble: leave --member out")
    to = Path(to)
    if adapter:
        base = base_of(run, name)
        if base is None:
            raise RunError(f"the {name} stage of {run} trained all weights and has no adapter: leave --adapter out")
        if base.stage:
            raise RunError(
                f"the adapter of the {name} stage stands on the {base.stage} stage of {base.path}, not on a "
                "checkpoint: export the whole model, without --adapter"
            )
        models.save_peft(to, config, model, base=base.path)
        tokenizer.save_pretrained(to)
        return to
    config, model = models.merge(config, model)
    if dtype:
        model = jax.tree.map(lambda x: x.astype(dtype), model)
    if config.scalar_head:
        # A classifier of transformers reads the last token that is not padding: that must be the end of the response.
        tokenizer = tokenizer.with_padding_apart()
    models.save_pretrained(to, config, model, tokenizer=tokenizer, generation_config=_generation(run, name, tokenizer))
    return to


def _generation(run: Path | str, stage: str, tokenizer: Tokenizer) -> dict[str, Any] | None:
    """What the pretrained model that this one goes back to says about sampling, ending where ours ends."""
    kept = origin(run, stage)
    file = None if kept is None else kept / "generation_config.json"
    if file is None or not file.is_file():
        return None
    said = json.loads(file.read_text(encoding="utf-8"))
    ends = said.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    ends = [tokenizer.eos_id, *(end for end in ends if end != tokenizer.eos_id)]
    return {**said, "eos_token_id": ends if len(ends) > 1 else ends[0], "pad_token_id": tokenizer.pad_id}
