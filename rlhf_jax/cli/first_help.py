"""The help of a stage that one reads first: the options one needs first, in groups; ``--help-all`` lists every one."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from typing import Any

_DATA = ("data.source", "data.max-length", "data.on-bad-row")
_OPINIONS = (*_DATA, "data.raters")
_CHOICES = {"OnBadRow": "error|skip", "Raters": "all|weight|filter"}
_PACKED = ("objective", "hyperparameters", "epochs", "rows", "optimizer.learning-rate", "lora.rank")
_RATE = ("policy-optimizer.learning-rate", "lora.rank")
_SAMPLED = ("iterations", "prompts", "samples", "sampling.max-new-tokens", *_RATE)
_MACHINE = ("mesh", "micro-batches", "seed")
_DO = ("where it starts and what it writes", "what it learns from", "how it learns", "the machine")

# By stage and group the paths of a dozen options; a test sees to it that there are such fields.
FIRST: dict[str, dict[str, tuple[str, ...]]] = {
    "sft": {_DO[0]: ("init", "out"), _DO[1]: _DATA, _DO[2]: _PACKED, _DO[3]: _MACHINE},
    "reward": {_DO[0]: ("init", "out"), _DO[1]: _OPINIONS, _DO[2]: (*_PACKED, "members"), _DO[3]: _MACHINE},
    "preference": {_DO[0]: ("policy", "out"), _DO[1]: (*_OPINIONS, "judge"), _DO[2]: _PACKED, _DO[3]: _MACHINE},
    "ppo": {
        _DO[0]: ("policy", "reward-model", "reward", "out"),
        _DO[1]: ("data.source", "judge"),
        _DO[2]: ("objective", *_SAMPLED, "kl.target", "max-kl"),
        _DO[3]: _MACHINE,
    },
    "group": {
        _DO[0]: ("policy", "reward-model", "reward", "out"),
        _DO[1]: ("data.source", "judge"),
        _DO[2]: ("objective", "hyperparameters", *_SAMPLED, "max-kl"),
        _DO[3]: _MACHINE,
    },
    "rounds": {
        _DO[0]: ("policy", "reference", "reward-model", "out", "rounds"),
        "what is compared": ("prompts", "samples", "earlier", "choose.random", "choose.disputed", "choose.hard"),
        "who says which is better": ("label", "judge", "heldout"),
        _DO[2]: ("old-pairs", "window", "retrain", "method", "reward.members", "ppo.iterations"),
        _DO[3]: ("mesh", "seed"),
    },
}

EXAMPLES = {
    "sft": "rlhf sft --data.source demos.jsonl --out runs/mine",
    "reward": "rlhf reward --data.source pairs.jsonl --init runs/mine --out runs/mine",
    "preference": "rlhf preference --data.source pairs.jsonl --policy runs/mine --out runs/mine",
    "ppo": "rlhf ppo --data.source prompts.jsonl --policy runs/mine --reward-model runs/mine --out runs/mine",
    "group": "rlhf group --data.source prompts.jsonl --policy runs/mine --reward mine.py:reward --out runs/mine",
}

_WIDTH = 100


def first_help(stage: str, default: Any, command: str = "") -> str:
    """Write the options of a stage that one needs first.

    Args:
        stage: its name.
        default: its config.
        command: the command that looks at the stage, as ``plan``; empty for the stage's own.
    """
    name = f"{command} {stage}".strip()
    count = len(list(leaves(default)))
    lines = [options_help(stage, default), *_wrapped(f"objectives: {objectives_line(stage)}", 0)]
    own = ["--objective", "--optimizer", "--tracker", *(["--judge"] if "judge" in vars(default) else [])]
    own += ["--reward"] if "reward" in vars(default) else []
    lines += ["", *_wrapped(f"Functions of your own, FILE.py:function: {', '.join(own)}.", 0)]
    more = "--config FILE.py takes the defaults from a Python file that defines `config`, as those in experiments/."
    more += " --config RUN/config.json goes on with a run, and with another --out does it again."
    lines += ["", *_wrapped(f"All {count} options: rlhf {name} --help-all. {more}", 0)]
    return "\n".join(lines)


def options_help(name: str, default: Any) -> str:
    """Write a command's first options in their groups.

    Args:
        name: a stage, or another command whose options are a config.
        default: its config.
    """
    lines: list[str] = []
    for group, paths in FIRST[name].items():
        lines += [f"{group}:", *(line for path in paths for line in _described(default, path)), ""]
    return "\n".join(lines)


def objectives_line(stage: str) -> str:
    """Write the objectives that a stage is for, ours and the form in which others are named."""
    from rlhf_jax.stages.fitting import objectives_of

    return f"{', '.join(objectives_of(stage))}; one of your own is FILE.py:function"


def _described(default: Any, path: str) -> list[str]:
    """Write a flag, what it takes and its default, and the first sentence of what its field says."""
    if path == "mesh":
        return ["  --mesh data=2,fsdp=2,tensor=2", *_wrapped("Devices; all of them share the batch by default.", 6)]
    owner, field, value = find(default, path)
    shown = f" (default: {_written(value)})" if _written(value) else ""
    takes = {"str": "TEXT", "int": "N", "float": "X"}.get(str(field.type), "")
    if "tuple" in str(field.type) or "dict" in str(field.type):
        takes = {"judge": "NAME=WHAT", "eval_tasks": "FILE"}.get(path.replace("-", "_"), "NAME VALUE")
    elif str(field.type) in _CHOICES:
        takes = _CHOICES[str(field.type)]
    return [f"  --{path} {takes}{shown}".rstrip(), *_wrapped(first_sentence(field_doc(owner, field.name)), 6)]


def _written(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) if value or value == 0 else ""


def _wrapped(text: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(text, _WIDTH, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)


def leaves(config: Any, above: str = "") -> Any:
    """List the paths of all options of a config, as flags without their dashes."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{above}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{path}.")
        else:
            yield path


def find(config: Any, path: str) -> tuple[type, dataclasses.Field[Any], Any]:
    """Find the field of a path: the class that has it, the field, and its value here.

    Raises:
        KeyError: when there is no such field.
    """
    *above, last = (part.replace("-", "_") for part in path.split("."))
    for part in above:
        config = vars(config)[part]
    fields = {field.name: field for field in dataclasses.fields(config)}
    return type(config), fields[last], vars(config)[last]


def field_doc(owner: type, name: str) -> str:
    """Find what a field says of itself: the text after it, or in the ``Args`` of its class, or in a base class."""
    for kind in owner.__mro__[:-1]:
        (body,) = (n for n in ast.parse(textwrap.dedent(inspect.getsource(kind))).body if isinstance(n, ast.ClassDef))
        for one, after in itertools.pairwise(body.body):
            named = isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and one.target.id == name
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return " ".join(str(after.value.value).split())
        if found := re.search(rf"^\s*{name}: (.*(?:\n\s{{8,}}.*)*)", inspect.getdoc(kind) or "", flags=re.M):
            return " ".join(found[1].split())
    return ""


def first_sentence(text: str) -> str:
    """Take the first sentence of a text.

    Example:
        >>> first_sentence("What is held out (e.g. a file). If empty, nothing.")
        'What is held out (e.g. a file).'
    """
    sentence = re.split(r"(?<=[^.][^.]\.) (?=[A-Z`])", text, maxsplit=1)[0]
    return sentence[:1].upper() + sentence[1:]
