"""``rlhf doctor``: what a run needs of its machines, tried out before one is started."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rlhf_jax.cli.parsing import UsageError, parse


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Options of the doctor."""

    out: Path = Path("runs")
    """Folder that runs are going to be in; in several processes one that all hosts share."""
    min_memory_gib: float = 2.0
    """Memory that has to be free on every host."""
    min_disk_gib: float = 5.0
    """Room that there has to be where --out is."""
    json: bool = False
    """Print one JSON object in place of lines."""


def doctor(argv: list[str]) -> None:
    """Print what is ok and what to do where it is not, and exit with 1 if there is any of the latter."""
    options = parse(DoctorOptions, "doctor", argv)
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out}: is not a folder")
    from rlhf_jax.stages.doctor import Needs, examine

    found = []
    for finding in examine(Needs(out=options.out, memory=options.min_memory_gib, disk=options.min_disk_gib)):
        found.append(finding)
        if not options.json:
            print(finding, flush=True)
    ok = all(finding.ok for finding in found)
    if options.json:
        print(json.dumps({"ok": ok, "findings": [finding._asdict() for finding in found]}, indent=1))
    if not ok:
        raise SystemExit(1)
