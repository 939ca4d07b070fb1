"""A run's model as a Hugging Face folder, for transformers, vLLM and everything that reads their format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from rlhf_jax import models
from rlhf_jax.data import Tokenizer
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.folder import read_record
from rlhf_jax.runs.loading import base_of, first_finished, load_stage, open_stage, origin
from rlhf_jax.runs.resultless import warn_of_failure
from rlhf_jax.runs.stage_path import split_stage
from rlhf_jax.runs.store import local
from rlhf_jax.stage_names import MODEL_STAGES
from rlhf_jax.types import Params


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
        run: a run folder, or ``RUN:STAGE``.
        to: the folder to write; one that holds a checkpoint is replaced, any other is refused.
        stage: ``reward``, or the stage whose policy is meant; the last one's policy by default.
        member: which reward model of an ensemble is written, counted from 0.
        adapter: write only the adapter, in PEFT's format, for the checkpoint that the run started from; by default it
            is folded into the weights.
        dtype: ``float32``, ``bfloat16`` or ``float16`` for all weights; by default they stay as they are.

    Returns:
        The folder; it holds a ``*ForCausalLM``, or a ``*ForSequenceClassification`` with one label for a reward model.

    Raises:
        RunError: when there is no such stage, it has no adapter, the reward model is an ensemble and no member is
            named, the folder is the checkpoint that the run started from, or the format cannot say what the model is.
        CheckpointError: when the folder holds something else.

    Example:
        >>> export("runs/mine", "my-model")  # doctest: +SKIP
    """
    run, named = split_stage(run)
    run = local(run)
    if named and stage not in (None, named):
        raise RunError(f"{run}:{named} names the {named} stage, and stage is {stage}: leave one of them out")
    name = stage or named or first_finished(run, MODEL_STAGES)
    if name not in MODEL_STAGES:
        raise RunError(f"stage {name!r} makes no model: choose one of {', '.join(MODEL_STAGES)}")
    # Weights that are all the stage's own stay on the disk, from where one tensor after the other is copied.
    params, config, tokenizer = (load_stage if adapter else open_stage)(run, name)
    warn_of_failure(run, name)
    model = params["reward" if name == "reward" else "policy"]
    count = models.members(model) if "head" in model else 0
    if count:
        if member is None or not 0 <= member < count:
            raise RunError(f"the reward model of {run} is an ensemble: choose a member with --member, 0 to {count - 1}")
        model = models.member(model, member)
    elif member is not None:
        raise RunError(f"the {name} stage of {run} holds one model, no ensemble: leave --member out")
    if config.scalar_head:
        # A classifier of transformers reads the last token that is not padding: that must be the end of the response.
        tokenizer = tokenizer.with_padding_apart()
    to, start = Path(to), origin(run, name)
    if start is not None and to.resolve() == start.resolve():
        raise RunError(f"{to} is the checkpoint that the {name} stage of {run} started from: name another folder")
    try:
        if adapter:
            config, model, path = _on_checkpoint(run, name, config, model)
            models.save_peft(to, config, model, base=path, tokenizer=tokenizer)
            return to
        config, model = models.merge(config, model)
        if dtype:
            model = jax.tree.map(lambda x: x.astype(dtype), model)
        said = _generation(start, tokenizer, _stop_strings(Path(run), name))
        models.save_pretrained(to, config, model, tokenizer=tokenizer, generation_config=said)
    except (RunError, models.CheckpointError):
        raise
    except ValueError as error:  # what the format cannot say
        raise RunError(f"the {name} stage of {run} cannot be exported: {error}") from error
    return to


def _on_checkpoint(
    run: Path | str, stage: str, config: models.ModelConfig, model: Params
) -> tuple[models.ModelConfig, Params, str]:
    """Make the adapters stand on a checkpoint, and return the model and that checkpoint's path.

    Where they stand on a stage that has adapters itself, both become one.
    """
    base = base_of(run, stage)
    if base is None:
        raise RunError(f"the {stage} stage of {run} trained all weights and has no adapter: leave --adapter out")
    while base.stage:
        below = base_of(base.path, base.stage)
        if below is None:
            raise RunError(
                f"the adapter of the {stage} stage stands on the {base.stage} stage of {base.path}, which trained all "
                "weights: export the whole model, without --adapter"
            )
        params, below_config, _ = load_stage(base.path, base.stage)
        config, model = models.concatenate_adapters(config, model, below_config, params["policy"])
        base = below
    return config, model, base.path


def _stop_strings(run: Path, stage: str) -> list[str]:
    """Read the texts that ended a response while the stage sampled."""
    fields = read_record(run / "config.json").get(stage)
    sampling = fields.get("sampling") if isinstance(fields, dict) else None
    return list(sampling.get("stop", [])) if isinstance(sampling, dict) else []


def _generation(start: Path | None, tokenizer: Tokenizer, stops: Sequence[str]) -> dict[str, Any] | None:
    """Take the generation config of the pretrained model that this one goes back to, with all that ends a response."""
    file = None if start is None else start / "generation_config.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
    stops = list(dict.fromkeys([*tokenizer.stops, *stops]))
    if not said and len(tokenizer.end_ids) == 1 and not stops:
        return None
    theirs = said.get("eos_token_id")
    theirs = theirs if isinstance(theirs, list) else [] if theirs is None else [theirs]
    ends = list(dict.fromkeys([*tokenizer.end_ids, *theirs]))
    said |= {"stop_strings": stops} if stops else {}
    return {**said, "eos_token_id": ends if len(ends) > 1 else ends[0], "pad_token_id": tokenizer.pad_id}
