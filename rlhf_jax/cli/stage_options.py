"""Options of the commands that look at a stage without training: the stage's own beside theirs, and models' sizes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from rlhf_jax.cli.files import must_be_run
from rlhf_jax.cli.first_help import first_help
from rlhf_jax.cli.parsing import UsageError, describe, file_and_mesh, load_config
from rlhf_jax.cli.records import found_again, names_code
from rlhf_jax.fields import check_fields

if TYPE_CHECKING:
    from rlhf_jax.models import ModelConfig


def asked(command: str, usage: str, own: Any, argv: list[str]) -> tuple[str, Any, Any]:
    """Read the words behind a command: the stage, the command's own options, and the stage's config.

    Args:
        command: its name.
        usage: a line that says how it is called.
        own: its options with their defaults, a dataclass.
        argv: the words.

    Raises:
        UsageError: the first word is no stage, run folder or file.
        SystemExit: help was asked for, and is printed.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(
            f"usage: {usage}\n\n{describe(command)}\n\nrlhf {command} STAGE --help lists its options, "
            "--help-all those of the stage too."
        )
        raise SystemExit(0)
    if not argv or argv[0].startswith("-"):
        raise UsageError(usage)
    stage, default = stage_and_config(argv[0], usage)
    both = parse_both(command, own, stage, default, argv[1:])
    if not argv[0].endswith(".py"):
        _refuse_code_of(argv[0], default, both[1], argv[1:])
    return stage, *both


def _refuse_code_of(run: str, default: Any, config: Any, argv: list[str]) -> None:
    """Refuse a Python file that a run folder names: the folder may be anybody's, and the stage would run the file."""
    # Only what the folder says; --config FILE.py is the user's own.
    for name, value in sorted(set(_texts(dataclasses.asdict(default))) & set(_texts(dataclasses.asdict(config)))):
        code = ":" in value if name == "objective" else names_code(value)
        if code and not any(word == value or word.endswith(f"={value}") for word in argv):
            raise UsageError(
                f"{run} names code in a file, {name} {value!r}, which is run only where the command line names it too: "
                f"look at the file, and add --{name.replace('_', '-')} {value}"
            )


def _texts(fields: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """List the texts in a config with the paths of their fields."""
    for key, value in fields.items():
        if isinstance(value, dict):
            yield from _texts(value, f"{above}{key}.")
        elif isinstance(value, str):
            yield f"{above}{key}", value
        elif isinstance(value, tuple):
            yield from ((f"{above}{key}", each) for each in value if isinstance(each, str))


def stage_and_config(word: str, usage: str) -> tuple[str, Any]:
    """Turn the first word into a stage and its config: the default one, a file's, or that of a run folder."""
    from rlhf_jax import stages
    from rlhf_jax.runs.folder import read_record
    from rlhf_jax.runs.stage_path import split_stage
    from rlhf_jax.stages.config import StageConfig

    defaults: dict[str, Any] = {
        "sft": stages.SFTConfig(),
        "reward": stages.RewardConfig(),
        "preference": stages.PreferenceConfig(),
        "ppo": stages.PPOConfig(),
        "group": stages.GroupConfig(),
    }
    if word in defaults:
        return word, defaults[word]
    if word.endswith(".py"):
        config = load_config(word, StageConfig)
        return next(name for name, default in defaults.items() if isinstance(config, type(default))), config
    run, stage = split_stage(word)
    if not run.exists():
        raise UsageError(f"{word!r} is neither a stage nor a run folder; {usage}")
    must_be_run(run)
    try:
        record = read_record(run / "config.json")
        held = {name: fields for name, fields in record.items() if name in defaults}
    except (ValueError, AttributeError) as error:
        raise UsageError(f"{run / 'config.json'} is not what a run leaves there: {error}") from error
    if stage is None and len(held) == 1:
        stage = next(iter(held))
    if stage not in held:
        raise UsageError(f"{run} holds the configs of {', '.join(held) or 'no stage'}: name one, as in {run}:ppo")
    try:
        return stage, from_record(defaults[stage], found_again(held[stage], run, stage))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{run / 'config.json'}, {stage}: {error}") from error


def from_record(default: Any, fields: dict[str, Any]) -> Any:
    """Make a config again of what a run folder's config.json holds; fields it lacks keep their defaults."""
    made: dict[str, Any] = {}
    for field in dataclasses.fields(default):
        if field.name in fields:
            before, value = getattr(default, field.name), fields[field.name]
            nested = dataclasses.is_dataclass(before) and isinstance(value, dict)
            made[field.name] = (
                from_record(before, value) if nested else tuple(value) if isinstance(before, tuple) else value
            )
    return dataclasses.replace(default, **made)


def parse_both(command: str, own: Any, stage: str, default: Any, argv: list[str]) -> tuple[Any, Any]:
    """Parse a command's own options and those of the stage, which stand side by side.

    Args:
        command: its name, for the help.
        own: its options with their defaults, a dataclass.
        stage: the stage's name, for the help.
        default: the stage's config.
        argv: the words behind the stage's name.

    Returns:
        Both, as the words say.
    """
    config, rest = file_and_mesh(default, argv)
    if {"-h", "--help"} & set(rest):
        with contextlib.suppress(SystemExit):
            tyro.cli(type(own), default=own, prog=f"rlhf {command} {stage}", description=describe(command), args=["-h"])
        print(f"\nand the options of rlhf {stage}, out of which these come first:\n")
        print(first_help(stage, config, command))
        raise SystemExit(0)
    rest = ["--help" if word == "--help-all" else word for word in rest]
    # An empty name takes the prefix from the options of a nested config.
    flat = tyro.conf.arg(name="")
    both: Any = dataclasses.make_dataclass(
        "Both", [("own", Annotated[type(own), flat]), ("config", Annotated[type(default), flat])]
    )
    try:
        said = tyro.cli(
            both,
            default=both(own, config),
            prog=f"rlhf {command} {stage}",
            description=describe(command),
            args=rest,
        )
        check_fields(said.own)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return said.own, said.config


def sizes_for(config: Any, path: Path | None) -> ModelConfig | None:
    """Find the sizes of the model that a stage trains, without its weights.

    Args:
        config: the stage's.
        path: the file that ``--random`` names, which has the say.

    Returns:
        The sizes; where no file is named, those of the checkpoint or stage that the config starts from; None where
        that is not there.

    Raises:
        UsageError: when the file holds something else, or what the config starts from cannot be what is trained.
    """
    from rlhf_jax.runs.start_sizes import start_sizes
    from rlhf_jax.stages import RewardConfig, SFTConfig
    from rlhf_jax.stages.sft import computed_as

    if path is not None:
        return sizes(path)
    fields = vars(config)
    found = start_sizes(
        fields["init"] if "init" in fields else fields["policy"], scores=isinstance(config, RewardConfig)
    )
    return computed_as(config.model, found) if found is not None and isinstance(config, SFTConfig) else found


def sizes(path: Path | None) -> ModelConfig:
    """Read the sizes of a model from a .json file, of our own fields or of a Hugging Face checkpoint's.

    What a checkpoint's file calls ``torch_dtype`` (or ``dtype``) bfloat16 or float16 computes in bfloat16 here; a
    ``compute_dtype`` or ``remat`` beside it is taken as it is.

    Raises:
        UsageError: when the file holds something else.
    """
    from rlhf_jax.models import ModelConfig
    from rlhf_jax.models.huggingface.config import model_config

    if path is None:
        return ModelConfig()
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError(f"expected an object with fields of ModelConfig or of a config.json, found {fields!r:.60}")
        found = _checkpoint_sizes(fields, model_config(fields, str(path))) if "model_type" in fields else None
        return ModelConfig.from_json(_whole(fields)) if found is None else found
    except (ValueError, TypeError) as error:
        raise UsageError(f"--random {path}: {error}") from error


def _checkpoint_sizes(fields: dict[str, Any], found: ModelConfig) -> ModelConfig:
    stored = str(fields.get("dtype", fields.get("torch_dtype", "")))
    dtype = "bfloat16" if stored in ("bfloat16", "float16") else found.compute_dtype
    asked = {name: fields[name] for name in ("compute_dtype", "remat") if name in fields}
    return dataclasses.replace(found, **{"compute_dtype": dtype, **asked})


def _whole(fields: dict[str, Any]) -> dict[str, Any]:
    """Refuse a size that is no whole number: fields that are counted have whole defaults."""
    from rlhf_jax.models import ModelConfig

    for name, default in dataclasses.asdict(ModelConfig()).items():
        value = fields.get(name, default)
        if type(default) is int and (type(value) is not int):
            raise ValueError(f"{name} must be a whole number, found {value!r}")
    return fields
