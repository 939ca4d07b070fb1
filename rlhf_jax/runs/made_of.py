"""What a stage of a run is made of, by content: rows, functions and models; and whether they are still the same.

RUN/made_of.json holds ``{stage: {"begun", "finished", "directory", "made_of": {name: ingredient}}}``; relative paths in
config.json are relative to ``directory``, in which the command was given. The folder of an earlier
version has none; what it was made of is not known, and nothing of it is compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_jax import __version__
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.parts import Parts
from rlhf_jax.runs.content import content_of
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.loading import model_digest

MADE_OF = "made_of.json"
# What a run may go on without: a reward whose fault was mended is another reward, and the policy stays the policy.
ACCEPTABLE = ("data", "prompts", "ptx", "objective", "reward", "judge", "tasks", "optimizer")
Ingredient = dict[str, Any]  # "is" in words; "sha256", empty where it cannot be known; more for a callable
Ingredients = dict[str, Ingredient]


def of_rows(source: str, parts: Parts) -> Ingredient:
    """Describe the rows that a stage reads of a data set; where they stand is no part of them.

    Args:
        source: names the data set in messages.
        parts: typed rows.

    Example:
        >>> from rlhf_jax.data import PromptRow
        >>> one, other = ([PromptRow("Hi.", f"{file}.jsonl:1")] for file in "ab")
        >>> of_rows("a", Parts(one, one, one))["sha256"] == of_rows("b", Parts(other, other, other))["sha256"]
        True
    """
    digest = hashlib.sha256()
    named = {"training": parts.train, "validation": parts.validation, "test": parts.test}
    for name, rows in {**named, **({"golden": parts.golden} if parts.golden else {})}.items():
        digest.update(f"{name} {len(rows)}\n".encode())
        for row in rows:
            text = json.dumps([type(row).__name__, _deciding(row)], sort_keys=True, default=_as_json)
            digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in named.items())
    return {"is": f"{source} ({counts} rows)", "sha256": digest.hexdigest()}


def _deciding(row: Any) -> dict[str, Any]:
    """The fields of a row that decide what is trained; without those of later versions where they say nothing."""
    fields = {key: value for key, value in row._asdict().items() if key != "where"}
    said = fields.pop("said", None)
    if fields.get("weight") == 1:
        del fields["weight"]
    if said is not None and (said.rater or said.golden is not None):
        fields["said"] = [said.rater, said.time, said.confidence, said.golden]
    return fields


def _as_json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return repr(value)


def of_callable(called: str, value: Any) -> Ingredient:
    """Describe a function, or anything else that can be called, by what it computes.

    Args:
        called: what messages call it; paths are not compared.
        value: the callable.
    """
    own, with_ours = content_of(value), content_of(value, ours=True)
    return {
        "is": called,
        "sha256": own.sha256,
        "python": ".".join(platform.python_version_tuple()[:2]),  # others compile the same source to other code
        "with_ours": with_ours.sha256,
        "rlhf_jax": __version__,
        "unknown": list(own.unknown),
    }


def of_model(path: str, stage: str = "") -> Ingredient:
    """Describe the model that a stage starts from or is scored by: a policy's path, or a folder with ``stage``."""
    return {"is": path, "sha256": model_digest(path, stage)}


def of_tokenizer(tokenizer: Tokenizer) -> Ingredient:
    """Describe a tokenizer."""
    text = tokenizer.to_json()
    return {"is": f"{tokenizer.vocab_size} tokens", "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest()}


def read_ingredients(record: Mapping[str, Any], where: str) -> Ingredients:
    """Take the ingredients out of what a stage noted of itself; empty where it noted none.

    Raises:
        RunError: when they are something else.
    """
    found = record.get("made_of", {}) if isinstance(record, dict) else None
    each = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(x, dict) and isinstance(x.get("is"), str) and isinstance(x.get("sha256"), str) for x in each):
        raise RunError(f"{where}: it does not say what the run is made of (found {found!r:.80}); bring it back")
    return dict(found or {})


def collect(makers: Mapping[str, Callable[[], Ingredient]]) -> Ingredients:
    """Make all ingredients, and say what could not be hashed."""
    found = {name: make() for name, make in sorted(makers.items())}
    for name, one in found.items():
        for what in one.get("unknown", ()):
            print(
                f"warning: {name}: {what} cannot be hashed, so a change in it will not be noticed when this run is "
                "continued",
                file=sys.stderr,
            )
    return found


def collect_again(makers: Mapping[str, Callable[[], Ingredient]]) -> Ingredients:
    """Make the ingredients of a finished stage, as far as they are still there, and say which are not."""
    found: Ingredients = {}
    for name, make in sorted(makers.items()):
        try:
            with _quiet():
                found[name] = make()
        except Exception as error:  # whatever files that are gone, or code of the user's own, raise
            print(f"warning: whether {name} is still the same cannot be told: {error}", file=sys.stderr)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what was said of these rows when they were trained on."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def changed(was: Ingredients, now: Ingredients, accepted: Sequence[str] = (), *, all_given: bool = True) -> list[str]:
    """List what is not the same, as far as both are known.

    Args:
        was: what the stage was begun with; empty where it is not known.
        now: what it would be made of now.
        accepted: names that may differ, without what stands behind a dot: ``judge`` is every judge.
        all_given: whether a judge that is not given now counts as gone; whoever asks for a result need not pass it.

    Returns:
        A phrase for each.

    Example:
        >>> changed({"data": {"is": "a.jsonl", "sha256": "00"}}, {"data": {"is": "b.jsonl", "sha256": "11"}})
        ['data was a.jsonl and is now other content, b.jsonl']
    """
    if not was:
        return []
    found = []
    for name in sorted({*was, *now}):
        if name.split(".")[0] in accepted:
            continue
        old, new = was.get(name), now.get(name)
        if old is None or new is None:
            # Judges and tasks are sets, so that one more or less is a change; other names come with newer versions.
            if name.startswith(("judge.", "tasks.")) and (all_given or old is None):
                found.append(f"{name} is {'new' if old is None else 'gone'}")
            continue
        if _differ(old, new):
            before, after = old["is"], new["is"]
            found.append(
                f"{name} is still called {before}, but holds something else now"
                if before == after
                else f"{name} was {before} and is now other content, {after}"
            )
    return found


def _differ(old: Ingredient, new: Ingredient) -> bool:
    if not old["sha256"] or not new["sha256"]:
        return False
    if ("python" in old) != ("python" in new):
        return True  # a model is no function
    if old.get("python") != new.get("python"):
        return False  # their code cannot be compared
    if old["sha256"] != new["sha256"]:
        return True
    return old.get("rlhf_jax") == new.get("rlhf_jax") and old.get("with_ours") != new.get("with_ours")
