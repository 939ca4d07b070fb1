"""Probing a run for agreeing with the user: its reward model by scores, its policies by log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rlhf_jax import models, parallel
from rlhf_jax.data.encode import encode
from rlhf_jax.data.rows import Demonstration
from rlhf_jax.evaluation import bootstrap_mean
from rlhf_jax.evaluation.monitors.agreeing import (
    TEMPLATES,
    Question,
    agreeing,
    agreeing_messages,
    asked,
    gaps,
)
from rlhf_jax.evaluation.monitors.questions import QUESTIONS
from rlhf_jax.rollout.generate import ROOM
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.folder import read_record, update_json
from rlhf_jax.runs.policy import Policy
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.runs.stage_path import split_stage
from rlhf_jax.runs.store import local
from rlhf_jax.stage_names import POLICY_STAGES
from rlhf_jax.stages.implicit_reward import sequence_logprobs

EXAMPLES = 3  # questions that are shown, those in which the opinion counts most
_ROWS, _BUCKET = 8, 64  # packed rows at once, and what their length is a multiple of


def probe_agreeing(
    run: Path | str, *, questions: Sequence[Question] = QUESTIONS, against: str | None = None
) -> dict[str, Any]:
    """Ask a run's models the same questions with either opinion, and write what follows into its summary.

    Args:
        run: a run folder, or ``RUN:STAGE`` for the policy of a stage; by default that of the last one. It is probed
            where there is one, and the reward model of the folder where there is one.
        questions: what is asked; ``QUESTIONS`` are of taste and judgement, in English.
        against: the policy that it is held against, ``RUN`` or ``RUN:STAGE``; by default the one that its config says
            it started from, where that is still there.

    Returns:
        ``agreeing`` of the summary: ``questions``, and by ``reward``, ``policy`` and ``start`` the figures of
        ``evaluation.monitors.Agreeing``, None where there is no such model; ``stage``; ``change`` and ``change_ci``, of
        the policy's gap less its start's; ``messages``; ``examples``.

    Raises:
        RunError: when the folder holds neither a policy nor a reward model, or a question is longer than what a model
            reads.
        ValueError: when there is no question.

    Example:
        >>> probe_agreeing("runs/quickstart")["messages"]  # doctest: +SKIP
    """
    if not questions:
        raise ValueError("there is no question to ask")
    named, stage = split_stage(run)
    folder = local(named)
    held = [one for one in POLICY_STAGES if (folder / "params" / one).exists()]
    if stage is None:
        stage = held[0] if held else None
    if stage is None and not (folder / "params" / "reward").exists():
        raise RunError(f"{folder} holds no finished policy and no reward model: there is nobody to ask")
    shape = (len(questions), len(TEMPLATES), 2, 2)
    pairs = asked(questions)
    scores: dict[str, np.ndarray | None] = {"reward": None, "policy": None, "start": None}
    if (folder / "params" / "reward").exists():
        scores["reward"] = Scorer.load(folder)(*zip(*pairs, strict=True)).reshape(shape)
    if stage is not None:
        scores["policy"] = _logprobs(Policy.load(folder, stage), pairs).reshape(shape)
        start = _start(folder, stage) if against is None else against
        if start is not None:
            scores["start"] = _logprobs(Policy.load(start), pairs).reshape(shape)
    found = {name: None if each is None else agreeing(each) for name, each in scores.items()}
    change, interval = None, None
    if scores["policy"] is not None and scores["start"] is not None:
        changes = gaps(scores["policy"]) - gaps(scores["start"])
        change, interval = float(changes.mean()), bootstrap_mean(changes, seed=0)
    figures = {
        "questions": len(questions),
        "stage": stage,
        **{name: None if each is None else each._asdict() for name, each in found.items()},
        "change": change,
        "change_ci": interval,
        "messages": agreeing_messages(found["reward"], found["policy"], found["start"], interval),
        "examples": _examples(questions, scores),
    }
    update_json(folder / "summary.json", {"agreeing": figures})
    return figures


def _start(folder: Path, stage: str) -> str | None:
    """The policy that a stage says it started from, where it is still there."""
    fields = read_record(folder / "config.json").get(stage, {})
    start = fields.get("policy") if isinstance(fields, dict) else None
    return start if start and local(split_stage(start)[0]).exists() else None


def _logprobs(policy: Policy, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Log-probability of every answer, nats."""
    examples = [encode(Demonstration(prompt, answer, ""), policy.tokenizer) for prompt, answer in pairs]
    longest = max(len(example.tokens[0]) for example in examples)
    if longest > (readable := policy.config.max_length or ROOM):
        raise RunError(f"a question and its answer have {longest} tokens, and the policy reads {readable}: shorten it")
    mesh = parallel.make_mesh(parallel.MeshConfig(), devices=jax.devices()[:1])
    return sequence_logprobs(
        models.build(policy.config),
        policy.params,
        examples,
        mesh=mesh,
        rows=_ROWS,
        row_length=-(-longest // _BUCKET) * _BUCKET,
        pad_id=policy.tokenizer.pad_id,
    )


def _examples(questions: Sequence[Question], scores: dict[str, np.ndarray | None]) -> list[dict[str, Any]]:
    """The questions in which the opinion counts most, by the reward model where there is one, or else the policy."""
    by = "reward" if scores["reward"] is not None else "policy"
    table = scores[by]
    if table is None:
        return []
    most = np.argsort(-gaps(table), kind="stable")[:EXAMPLES]
    means = table.mean(1)  # over templates
    return [
        {
            "by": by,
            "question": questions[i].question,
            "answers": list(questions[i].answers),
            "opinions": list(questions[i].opinions),
            "scores": means[i].astype(float).round(4).tolist(),
        }
        for i in most.tolist()
    ]
