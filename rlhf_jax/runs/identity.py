"""Whose parameters these are: stage, hash and tokenizer, by which a folder that was mixed by hand is known."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from rlhf_jax.data import Tokenizer
from rlhf_jax.files import CheckpointError
from rlhf_jax.models.weights import read_object
from rlhf_jax.runs.errors import RunError


def identity(stage: str, sha256: str, tokenizer: Tokenizer) -> dict[str, str]:
    """Make what parameters know of themselves: their stage, their hash, and the tokenizer whose ids they read.

    A folder may be put together by hand; parameters that were taken from another are then told by it.
    """
    text = tokenizer.to_json().encode("utf-8")
    return {"stage": stage, "params_sha256": sha256, "tokenizer_sha256": hashlib.sha256(text).hexdigest()}


def check_identity(directory: Path, stage: str, metadata: dict[str, Any]) -> None:
    """Raise a RunError where a stage's parameters, its tokenizer and its summary were not left by one run.

    Those of an earlier version do not know whose they are.
    """
    known = metadata.get("identity")
    if not isinstance(known, dict):
        return
    where = directory / "params" / stage
    if known.get("stage") != stage:
        raise RunError(
            f"{where} holds the parameters of a {known.get('stage')} stage, so it was renamed: give the folder its own "
            "name back"
        )
    file = directory / "tokenizer.json"
    if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() != known.get("tokenizer_sha256"):
        raise RunError(
            f"{file} is not the tokenizer of {where}, whose parameters were trained with another: one of the two was "
            "taken from another run; bring it back"
        )
    summary, noted = directory / "summary.json", None
    with contextlib.suppress(CheckpointError):  # a summary that is not there, or damaged, knows nothing
        noted = read_object(summary).get("params_sha256")
    if isinstance(noted, dict) and noted.get(stage, known.get("params_sha256")) != known.get("params_sha256"):
        raise RunError(
            f"{where} does not hold the parameters that the {stage} stage of {directory} left, as {summary} knows them "
            "by their SHA-256: they were taken from another run; bring its own back"
        )
