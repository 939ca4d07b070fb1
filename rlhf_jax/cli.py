"""The command line, ``rlhf ...``: thin wrappers around the stages, with errors a person can act on."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple


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
    from rlhf_jax.checkpoint import CheckpointError
    from rlhf_jax.data import DataError
    from rlhf_jax.report import ReportError
    from rlhf_jax.stages import RunError, SamplerMismatch
    from rlhf_jax.training import Interrupted, SkippedUpdates

    known = (UsageError, DataError, RunError, ReportError, CheckpointError, SkippedUpdates, SamplerMismatch)
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
    lines = ["usage: rlhf COMMAND [options]", "", "RLHF in JAX: SFT, reward models, PPO.", "", "commands:"]
    lines += [f"  {name:<11} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "`rlhf COMMAND --help` explains each. Start with `rlhf quickstart`."])


def _describe(name: str) -> str:
    summary = COMMANDS[name].summary
    return f"{summary[0].upper()}{summary[1:]}."


def _fail(message: str) -> int:
    print(f"rlhf: error: {message}", file=sys.stderr)
    return 2


def _parse(function: Callable[..., Any], name: str, argv: list[str]) -> Any:
    import tyro

    return tyro.cli(function, prog=f"rlhf {name}", description=_describe(name), args=argv)


# ---- the pipeline -------------------------------------------------------------------------------------------------


def _quickstart(argv: list[str]) -> None:
    def options(seed: int = 0, out: str = "", fast: bool = False) -> tuple[int, str, bool]:
        """Options of the quickstart.

        Args:
            seed: everything random comes from it.
            out: the run folder; runs/quickstart-seedN by default. The same folder continues where it stopped.
            fast: a miniature of every stage in under two minutes, to see that everything works.
        """
        return seed, out, fast

    seed, out, fast = _parse(options, "quickstart", argv)
    from rlhf_jax.report import write_report
    from rlhf_jax.stages import quickstart, quickstart_config

    out = out or f"runs/quickstart-seed{seed}{'-fast' if fast else ''}"
    _finish(quickstart(quickstart_config(out=out, seed=seed, fast=fast), after_stage=write_report))


def _sft(argv: list[str]) -> None:
    from rlhf_jax import stages

    _finish(stages.sft(override(stages.SFTConfig(), "sft", argv)).directory)


def _reward(argv: list[str]) -> None:
    from rlhf_jax import stages

    _finish(stages.reward_model(override(stages.RewardConfig(), "reward", argv)).directory)


def _ppo(argv: list[str]) -> None:
    from rlhf_jax import stages

    _finish(stages.ppo(override(stages.PPOConfig(), "ppo", argv)).directory)


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
    import tyro

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


def _report(argv: list[str]) -> None:
    from tyro.conf import Positional

    def options(run: Positional[Path]) -> Path:
        """Options of the report.

        Args:
            run: a run folder.
        """
        return run

    run_folder = _parse(options, "report", argv)
    _must_be_run(run_folder)
    from rlhf_jax.report import write_report

    print(write_report(run_folder))


def _sample(argv: list[str]) -> None:
    from tyro.conf import Positional

    def options(
        run: Positional[Path],
        prompt: Positional[str] = "",
        prompts: Path | None = None,
        n: int = 1,
        to: Path | None = None,
        stage: Literal["ppo", "sft"] | None = None,
        max_new_tokens: int = 48,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        on_bad_row: Literal["error", "skip"] = "error",
    ) -> dict[str, Any]:
        """Options of sampling.

        Args:
            run: a run folder.
            prompt: one prompt; the responses are printed.
            prompts: many prompts, a .jsonl file with rows of `prompt`.
            n: responses to each prompt.
            to: the .jsonl file to write: rows of prompt, response, tokens, logprob.
            stage: whose policy; PPO's where there is one, else the SFT policy.
            max_new_tokens: longest response, in tokens.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: keep the k likeliest tokens; 0 keeps all.
            top_p: keep the smallest set of tokens with this probability; 1 keeps all.
            seed: the same seed gives the same responses.
            on_bad_row: a bad row stops the command, or is skipped and listed.
        """
        return locals()

    o = _parse(options, "sample", argv)
    if bool(o["prompt"]) == bool(o["prompts"]):
        raise UsageError('give one prompt, rlhf sample RUN "prompt", or a file, --prompts FILE.jsonl --to OUT.jsonl')
    if o["prompts"] and not o["to"]:
        raise UsageError("--prompts needs --to OUT.jsonl")
    if o["n"] < 1:
        raise UsageError(f"--n must be at least 1, found {o['n']}")
    _must_be_run(o["run"])
    from rlhf_jax import data
    from rlhf_jax.rollout import SamplingConfig
    from rlhf_jax.stages import sources
    from rlhf_jax.stages.inference import Policy

    try:
        sampling = SamplingConfig(**{k: o[k] for k in ("max_new_tokens", "temperature", "top_k", "top_p")})
    except ValueError as error:
        raise UsageError(str(error)) from error
    policy = Policy.load(o["run"], o["stage"])
    _make_room(o["to"])
    texts = [o["prompt"]]
    if o["prompts"]:
        rows, bad = data.read_jsonl(o["prompts"], data.parse_prompt, on_bad_row=o["on_bad_row"])
        sources.list_bad(bad)
        texts = [row.prompt for row in rows]
    made = policy.sample(texts, n=o["n"], sampling=sampling, seed=o["seed"])
    if o["to"]:
        data.write_jsonl(o["to"], made)
        print(o["to"])
        return
    for row in made:
        print(row["response"])


def _score(argv: list[str]) -> None:
    from tyro.conf import Positional

    def options(
        run: Positional[Path],
        input: Path,
        to: Path,
        on_bad_row: Literal["error", "skip"] = "error",
    ) -> dict[str, Any]:
        """Options of scoring.

        Args:
            run: a run folder that holds a reward model.
            input: a .jsonl file with rows of prompt and response, or of prompt, chosen and rejected.
            to: the .jsonl file to write: the same rows with `score`, or with `chosen_score` and `rejected_score`.
            on_bad_row: a bad row stops the command, or is skipped and listed.
        """
        return locals()

    o = _parse(options, "score", argv)
    _must_be_run(o["run"])
    from rlhf_jax import data
    from rlhf_jax.stages import sources
    from rlhf_jax.stages.inference import Scorer, scorable, score_rows

    scorer = Scorer.load(o["run"])
    _make_room(o["to"])
    rows, bad = data.read_jsonl(o["input"], scorable, on_bad_row=o["on_bad_row"])
    sources.list_bad(bad)
    data.write_jsonl(o["to"], score_rows(scorer, rows))
    print(o["to"])


def _data(argv: list[str]) -> None:
    from tyro.conf import Positional

    def options(
        name: Positional[Literal["human_sentiment"]],
        to: Path,
        split: Literal["train", "validation", "test"] = "train",
        data_dir: Path | None = None,
    ) -> dict[str, Any]:
        """Options of the data command.

        Args:
            name: the data set.
            to: the .jsonl file to write: rows of id, domain, text, ratings.
            split: which split.
            data_dir: the TFDS data directory; TFDS's own default if not given.
        """
        return locals()

    o = _parse(options, "data", argv)
    from rlhf_jax import data
    from rlhf_jax.data import human_sentiment

    _make_room(o["to"])
    sentences = human_sentiment.load(o["split"], o["data_dir"])
    rows = ({"id": s.id, "domain": s.domain, "text": s.text, "ratings": s.ratings.tolist()} for s in sentences)
    data.write_jsonl(o["to"], rows)
    print(f"{len(sentences)} rows: {o['to']}")


def _must_be_run(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is not a run folder: it has no config.json")


def _make_room(to: Path | None) -> None:
    """Make the folder of the file to write before the work, not after it."""
    if to is not None:
        to.parent.mkdir(parents=True, exist_ok=True)


class Command(NamedTuple):
    """One ``rlhf`` command."""

    summary: str
    run: Callable[[list[str]], None]


COMMANDS = {
    "quickstart": Command("the whole pipeline on real human judgements: SFT, reward model, PPO, report", _quickstart),
    "sft": Command("stage 1, supervised fine-tuning", _sft),
    "reward": Command("stage 2, a Bradley-Terry reward model", _reward),
    "ppo": Command("stage 3, KL-penalised PPO", _ppo),
    "report": Command("write report.html of a run folder again", _report),
    "sample": Command("sample responses from a run's policy", _sample),
    "score": Command("score responses with a run's reward model", _score),
    "data": Command("write a data set's rows to a .jsonl file", _data),
}
