"""``rlhf data check``: what is in a file of rows, and what is wrong with it, before anything is trained on them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from tyro.conf import Positional

from rlhf_jax.cli.parsing import UsageError, parse
from rlhf_jax.targets import check_file

_STRICT = 1  # as `rlhf doctor` ends where something is not as it should be
_ABOUT = (
    "Say what is in a file of rows, and what is wrong with it, before anything is trained on them: as text, and as an "
    "HTML page. Ends with status 0 whatever it finds, unless --strict."
)


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """Options of the check."""

    source: Positional[str]
    """What is checked: a file, a folder, or any other source that `--data.source` of a stage takes."""
    split: str = ""
    """The split, where the source has several."""
    heldout: str = ""
    """What is held out to choose a checkpoint, as `--data.heldout` of a stage: a split, or another file or folder."""
    test: str = ""
    """What figures are reported on, as `--data.test` of a stage."""
    tokenizer: Path | None = None
    """A run folder, or a pretrained model's: lengths are then in its tokens, and rows that are too long are found."""
    max_length: int = 0
    """The most tokens of a row; 0 takes that of the run of --tokenizer, or a stage's default."""
    page: Path | None = None
    """The HTML page to write; by default its name is the source's with .check.html, and it lies beside it."""
    to: Path | None = None
    """The folder that the page is written into where --page names none."""
    json: Path | None = None
    """A .json file for the same figures and findings."""
    strict: bool = False
    """End with status 1 where there is an error or a warning; notes alone do not count."""
    show: int = 10
    """How many rows are listed for each finding, on the page and in --json."""


def check(argv: list[str]) -> None:
    """Print what is in a file of rows and what is wrong with it, and write the page; with ``--strict`` exit with 1."""
    o = parse(CheckOptions, "data check", argv, _ABOUT)
    if o.show < 1:
        raise UsageError(f"--show {o.show}: expected at least 1")
    if o.page is not None and o.to is not None:
        raise UsageError("--page names the file and --to the folder of the same page: give one of them")
    page = o.page or _beside(o.source, o.to)
    check_file(page, "--page")
    if o.json is not None:
        check_file(o.json, "--json")
    from rlhf_jax.data.config import DataConfig
    from rlhf_jax.report import write_check
    from rlhf_jax.runs.pretrained import checkpoint_tokenizer
    from rlhf_jax.stages.data_check import as_text, examine

    tokenizer = None
    if o.tokenizer is not None:
        if o.tokenizer.is_dir() and not (o.tokenizer / "tokenizer.json").is_file():
            raise UsageError(f"--tokenizer {o.tokenizer}: there is no tokenizer.json in it; name a run or a model")
        tokenizer = checkpoint_tokenizer(o.tokenizer)
    config = DataConfig(source=o.source, split=o.split, heldout=o.heldout, test=o.test)
    if longest := o.max_length or _max_length(o.tokenizer):
        config = dataclasses.replace(config, max_length=longest)
    found = examine(config, tokenizer=tokenizer, show=o.show)
    # Written before anything is printed, as a reader may go after a few lines.
    page.parent.mkdir(parents=True, exist_ok=True)
    write_check(found, page)
    if o.json is not None:
        o.json.parent.mkdir(parents=True, exist_ok=True)
        o.json.write_text(json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(as_text(found), "", *filter(None, (o.json, page)), sep="\n")
    if o.strict and any(finding.kind != "note" for finding in found.findings):
        raise SystemExit(_STRICT)


def _max_length(run: Path | None) -> int:
    """The most tokens of a row in any stage of a run; 0 where this is no run folder."""
    from rlhf_jax.runs.folder import read_record

    if run is None or not (run / "config.json").is_file():
        return 0
    try:
        record = read_record(run / "config.json")
    except ValueError:  # a model's config.json, which is nobody's record of stages
        return 0
    data = [stage.get("data") for stage in record.values() if isinstance(stage, dict)]
    return max((int(each["max_length"]) for each in data if isinstance(each, dict) and "max_length" in each), default=0)


def _beside(source: str, folder: Path | None) -> Path:
    """Name the page: beside a file or a folder, else in the working folder.

    Example:
        >>> _beside("rows/pairs.jsonl", None).as_posix(), _beside("hf:org/pairs", None).as_posix()
        ('rows/pairs.jsonl.check.html', 'org_pairs.check.html')
    """
    path = Path(source)
    there = path.exists() or path.suffix.lower() in (".jsonl", ".ndjson", ".json", ".gz", ".parquet")
    name = path.name if there and path.name else re.sub(r"[^\w.-]+", "_", source.removeprefix("hf:")).strip("_")
    return (folder or (path.parent if there else Path())) / f"{name or 'rows'}.check.html"
