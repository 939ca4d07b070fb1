"""The commands that use what a run made: its report, the scores of its reward model, its model as a folder."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from rlhf_jax.cli.files import must_be_run, write
from rlhf_jax.cli.parsing import UsageError, one_of, parse
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.stage_names import MODEL_STAGES
from rlhf_jax.targets import check_file, check_folder


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Options of the report."""

    run: Positional[Path]
    """A run folder, or its URL, s3://... or gs://...."""


def report(argv: list[str]) -> None:
    """Write a run's page again."""
    o = parse(ReportOptions, "report", argv)
    from rlhf_jax.report import write_report
    from rlhf_jax.runs.folder import read_record
    from rlhf_jax.runs.store import local

    run = local(o.run)
    must_be_run(run)
    if not set(MODEL_STAGES) & set(read_record(run / "config.json")):
        raise UsageError(f"{run} is not a run folder: its config.json has no stage's config")
    check_file(run / "report.html", "the page")
    print(write_report(run))


# What `rlhf sample` and `rlhf score` add to a row.
_WRITTEN = ("tokens", "logprob", "score", "chosen_score", "rejected_score")


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """Options of scoring."""

    run: Positional[Path]
    """A run folder that holds a reward model."""
    input: Path
    """A .jsonl file with rows of prompt and response, or of any layout that has a response or two."""
    to: Path
    """The .jsonl file to write: the same rows with `score`; or, where two responses are compared, with `chosen_score`,
    of the one that people prefer (the first where votes are even), and `rejected_score`; a ranking's with `score_1`,
    `score_2` and so on."""
    templated: bool = False
    """The texts hold the chat template already applied: special tokens that they spell are special."""
    on_bad_row: OnBadRow = "error"
    """A bad row stops the command, or is skipped and listed."""


def score(argv: list[str]) -> None:
    """Score the rows of a file."""
    o = parse(ScoreOptions, "score", argv)
    check_file(o.to, "--to")
    from rlhf_jax import data
    from rlhf_jax.data.one_file import read_rows
    from rlhf_jax.runs.scorer import scorable, score_rows
    from rlhf_jax.runs.store import local
    from rlhf_jax.stages import Scorer
    from rlhf_jax.stages.sources import spelled

    run = local(o.run)
    scorer = Scorer.load(run)
    rows = read_rows(o.input, scorable, o.on_bad_row, known=_WRITTEN)
    if o.templated:
        scorer = scorer.templated()
    elif said := spelled([response for row in rows for response in row.responses.values()], scorer.tokenizer):
        print(f"warning: {o.input}: {said}, pass --templated", file=sys.stderr)
    if not rows:
        raise data.DataError(
            f"{o.input}: no row has a response to score; rlhf sample {o.run} --prompts FILE.jsonl --to OUT.jsonl "
            "writes such rows"
        )
    write(o.to, score_rows(scorer, rows))


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of the export."""

    run: Positional[Path]
    """A run folder; `RUN:STAGE` is the same as --stage."""
    to: Path
    """The folder to write; one that holds a checkpoint is replaced."""
    stage: Annotated[str | None, tyro.conf.arg(metavar=one_of(MODEL_STAGES))] = None
    """`reward`, or whose policy; PPO's where there is one, else in this order."""
    member: int | None = None
    """Which reward model of an ensemble, counted from 0."""
    adapter: bool = False
    """Write only the adapter, in PEFT's format; by default it is folded into the weights."""
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    """Type of the weights; as they were trained by default."""


def export(argv: list[str]) -> None:
    """Write a model as a folder that transformers and vLLM load."""
    o = parse(ExportOptions, "export", argv)
    from rlhf_jax.runs import export
    from rlhf_jax.runs.stage_path import split_stage
    from rlhf_jax.runs.store import local

    must_be_run(local(split_stage(o.run)[0]))
    check_folder(o.to, "--to")
    print(export.export(o.run, o.to, stage=o.stage, member=o.member, adapter=o.adapter, dtype=o.dtype))
