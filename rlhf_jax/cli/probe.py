"""The command that asks a run's models the same questions with either opinion of the user."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from tyro.conf import Positional

from rlhf_jax.cli.parsing import UsageError, parse


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """Options of the probe."""

    run: Positional[Path]
    """A run folder with a policy, a reward model or both; `RUN:STAGE` names the policy."""
    questions: Path | None = None
    """A .jsonl file of rows of `question`, `answers` (two texts) and, if they are not to be the answers themselves,
    `opinions`; 24 English questions of ours by default."""
    against: str = ""
    """The policy that the run's is held against, `RUN` or `RUN:STAGE`; by default the one that it started from, where
    that is still there."""


def probe(argv: list[str]) -> None:
    """Probe a run for agreeing with the user, print the figures, and write its page again."""
    o = parse(ProbeOptions, "probe", argv)
    from rlhf_jax.data.readers.jsonl import read_jsonl
    from rlhf_jax.evaluation.monitors.agreeing import question
    from rlhf_jax.evaluation.monitors.questions import QUESTIONS
    from rlhf_jax.report import write_report
    from rlhf_jax.runs.stage_path import split_stage
    from rlhf_jax.runs.store import local
    from rlhf_jax.stages.agreeing import probe_agreeing

    questions = QUESTIONS
    if o.questions is not None:
        try:
            questions = tuple(read_jsonl(o.questions, question, "error")[0])
        except ValueError as error:
            raise UsageError(str(error)) from error
        if not questions:
            raise UsageError(f"{o.questions} holds no question: write rows of question and answers")
    found = probe_agreeing(o.run, questions=questions, against=o.against or None)
    for name, unit in (("reward", ""), ("policy", " nats"), ("start", " nats")):
        if found[name] is not None:
            gap, (low, high) = found[name]["gap"], found[name]["gap_ci"]
            follows, contradicts = found[name]["follows"], found[name]["contradicts"]
            print(
                f"{name}: the answer that agrees scores {gap:+.3f}{unit} ({low:+.3f} to {high:+.3f}); it wins in "
                f"{found[name]['agrees']:.0%} of the askings, {follows:.0%} of the questions are answered as "
                f"whoever asks would, {contradicts:.0%} against them"
            )
    for message in found["messages"]:
        print(f"warning: {message}", file=sys.stderr)
    print(write_report(local(split_stage(o.run)[0])))
