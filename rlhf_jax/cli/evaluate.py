"""``rlhf evaluate``: a scorer of responses on anybody's pairs, a policy on tasks, or two runs beside each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from rlhf_jax.cli import audits, evaluations, task_tables
from rlhf_jax.cli.parsing import UsageError, gathered, parse
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_seed
from rlhf_jax.files import write_json
from rlhf_jax.targets import check_file

if TYPE_CHECKING:
    from rlhf_jax.stages.audit import Audit
    from rlhf_jax.stages.eval_tasks import TaskResults, TasksBeside
    from rlhf_jax.stages.evaluate import WinRates

_VOTES = "judge:"  # what stands before the name of an AI judge


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Options of evaluating."""

    run: Positional[str]
    """What is evaluated: a run folder with a reward model or an ensemble; `RUN:preference`, the implicit reward of a
    policy of preference optimisation (`RUN` alone where there is no reward model); a sequence classifier with one label
    as a Hugging Face folder; a judge that scores, FILE.py:function of (prompts, responses); or `judge:SPEC`, an AI
    judge that votes, which is audited. With --tasks a policy: `RUN`, `RUN:STAGE` or a pretrained checkpoint."""
    data: str = ""
    """Pairs in any layout, or best-of-K rows: a file, a folder or `hf:org/name`. RewardBench 1 and 2 are recognised."""
    tasks: tuple[str, ...] = ()
    """In place of --data: files of tasks, FILE or NAME=FILE each. Rows of `text` give its perplexity, rows of `prompt`,
    `choices` and `answer` how often the right choice is the likeliest, rows of `prompt` and `answer` how often the
    policy answers just so."""
    by: str = ""
    """The field whose values name the subsets, with dots between the names of nested ones; a benchmark's own by
    default."""
    json: Path | None = None
    """The .json file to write: accuracy, accuracy_ci, n, ece, by, and the other figures."""
    golden: str = ""
    """Items whose answer is known, in any of these layouts: agreement with them is a figure of its own."""
    against: str = ""
    """Another one on the same rows, with the difference and its paired interval. With --judge or --reward both are
    policies instead: they answer the prompts of --data, and the one's win rate over the other is counted."""
    judge: str = ""
    """What scores the answers of two policies: FILE.py:function of (prompts, responses)."""
    reward: str = ""
    """The same, a run folder with a reward model or a sequence classifier."""
    samples: int = 1
    """Answers of each policy to a prompt."""
    prompts: int = 0
    """So many prompts at most, spread over all there are; 0 takes all."""
    max_new_tokens: int = 128
    """Longest answer of a policy, in tokens."""
    temperature: float = 1.0
    """Divides the logits of the policies; 0 takes the likeliest token."""
    split: str = ""
    """The split of --data, where it has several; `test`, `filtered`, `validation` or `train` by default."""
    combine: Literal["mean", "min", "lower_bound"] = "mean"
    """What an ensemble of reward models says: mean, the worst case, or mean - k * std."""
    k: float = 1.0
    """Standard deviations that `--combine lower_bound` takes off."""
    templated: bool = False
    """The texts hold the chat template already applied: special tokens that they spell are special."""
    on_bad_row: OnBadRow = "error"
    """A bad row, or one that is too long for the model, stops the command, or is skipped and listed."""
    seed: int = 0
    """What samples, and the resampling behind intervals, depend on."""


def evaluate(argv: list[str]) -> None:
    """Print how often scores pick what people picked, a policy's figures on tasks, or who wins of two policies."""
    o = parse(EvaluateOptions, "evaluate", gathered(argv, "--tasks", "FILE or NAME=FILE"))
    _check(o)
    from rlhf_jax.stages.evaluate import evaluate, evaluate_beside

    if o.tasks:
        found: Any = _tasks(o)
        task_tables.show(found)
    elif o.run.startswith(_VOTES):
        found = _audit(o)
        audits.show(found)
    elif o.judge or o.reward:
        found = _win_rates(o)
        evaluations.show_win_rates(found)
    elif o.against:
        found = evaluate_beside(o.run, o.against, o.data, golden=o.golden, **_shared(o))
        evaluations.show_beside(found)
    else:
        found = evaluate(o.run, o.data, golden=o.golden, **_shared(o))
        evaluations.show(found)
    if o.json is not None:
        write_json(o.json, found.to_json())
        print(o.json)


def _check(o: EvaluateOptions) -> None:
    """Refuse options that do not go together, before anything is loaded."""
    try:
        check_seed("--seed", o.seed)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if o.json is not None:
        check_file(o.json, "--json")
    if o.tasks:
        _check_tasks(o)
        return
    if not o.data:
        raise UsageError("name the rows to evaluate on, --data FILE, or a policy's tasks, --tasks FILE")
    if o.judge and o.reward:
        raise UsageError("--judge and --reward both name what scores the answers of policies: leave one of them out")
    if o.run.startswith(_VOTES):
        _check_audit(o)
        return
    named = "--judge" if o.judge else "--reward" if o.reward else ""
    if named and not o.against:
        raise UsageError(
            f"{named} compares two policies: name the other one, --against RUN2; to evaluate what it names, "
            f"rlhf evaluate {o.judge or o.reward} --data FILE"
        )
    if named and o.golden:
        raise UsageError(f"--golden is about scores, and with {named} the answers of two policies are compared")
    if o.samples < 1:
        raise UsageError(f"--samples must be at least 1, found {o.samples}")
    if o.prompts < 0:
        raise UsageError(f"--prompts must be 0 (all) or positive, found {o.prompts}")
    own = {"--samples": o.samples != 1, "--prompts": o.prompts != 0}
    if not named and any(own.values()):
        flag = next(flag for flag, said in own.items() if said)
        raise UsageError(f"{flag} is about the answers of two policies: name what scores them, --judge or --reward")


def _check_tasks(o: EvaluateOptions) -> None:
    """Refuse options that tasks do not read."""
    default = EvaluateOptions(run=o.run)
    read = ("run", "tasks", "against", "json", "on_bad_row", "seed")
    for field in dataclasses.fields(o):
        if field.name not in read and vars(o)[field.name] != vars(default)[field.name]:
            raise UsageError(
                f"--{field.name.replace('_', '-')} is not for --tasks, which measure a policy by themselves: leave one "
                "of them out"
            )
    if o.run.startswith(_VOTES):
        raise UsageError(f"--tasks measure a policy, and {o.run} is a judge")


def _check_audit(o: EvaluateOptions) -> None:
    """Refuse options that an audit does not read."""
    unread = {
        "--golden": o.golden,
        "--against": o.against,
        "--judge": o.judge,
        "--reward": o.reward,
        "--templated": o.templated,
        "--samples": o.samples != 1,
        "--prompts": o.prompts,
        "--combine": o.combine != "mean",
    }
    for flag, said in unread.items():
        if said:
            raise UsageError(f"{flag} is not for an audit: {o.run} votes, and is held against what people voted")
    if not o.run.removeprefix(_VOTES):
        raise UsageError("judge: names no judge; docs/judges.md says what may stand behind it")


def _audit(o: EvaluateOptions) -> Audit:
    """Hold a judge against people."""
    from rlhf_jax.stages.audit import audit

    return audit(o.run.removeprefix(_VOTES), o.data, by=o.by, split=o.split, on_bad_row=o.on_bad_row, seed=o.seed)


def _tasks(o: EvaluateOptions) -> TaskResults | TasksBeside:
    """Measure one policy on tasks, or two."""
    from rlhf_jax.stages.eval_tasks import evaluate_tasks, evaluate_tasks_beside

    if o.against:
        return evaluate_tasks_beside(o.run, o.against, o.tasks, on_bad_row=o.on_bad_row, seed=o.seed)
    return evaluate_tasks(o.run, o.tasks, on_bad_row=o.on_bad_row, seed=o.seed)


def _shared(o: EvaluateOptions) -> dict[str, Any]:
    """Take the options that every kind of evaluation has."""
    from rlhf_jax.rewards import EnsembleConfig

    return {
        "by": o.by,
        "split": o.split,
        "on_bad_row": o.on_bad_row,
        "templated": o.templated,
        "ensemble": EnsembleConfig(combine=o.combine, k=o.k),
        "seed": o.seed,
    }


def _win_rates(o: EvaluateOptions) -> WinRates:
    """Let both policies answer, and count."""
    from rlhf_jax.rollout import SamplingConfig
    from rlhf_jax.stages.evaluate import win_rates

    try:
        sampling = SamplingConfig(max_new_tokens=o.max_new_tokens, temperature=o.temperature)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return win_rates(
        o.run,
        o.against,
        o.data,
        o.judge or o.reward,
        samples=o.samples,
        prompts=o.prompts,
        sampling=sampling,
        **_shared(o),
    )
