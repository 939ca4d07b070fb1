"""Self-contained HTML pages about a run folder, with figures, curves, tables and samples, and about a file of rows."""

from __future__ import annotations

from rlhf_jax.report.data_check import write_check
from rlhf_jax.report.page import write_report
from rlhf_jax.report.run_folder import ReportError, RunFolder, read_run
from rlhf_jax.stages.verdicts import Verdict, alarm_verdicts, verdicts

__all__ = [
    "ReportError",
    "RunFolder",
    "Verdict",
    "alarm_verdicts",
    "read_run",
    "verdicts",
    "write_check",
    "write_report",
]
