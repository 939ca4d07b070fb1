"""The one error that this package raises about data, so that callers can catch it by name, and what a bad row does."""

from __future__ import annotations

from typing import Literal

OnBadRow = Literal["error", "skip"]  # a bad row stops the run, or is skipped, counted and listed


class DataError(ValueError):
    """Data that cannot be used: the text says where it is, what was found and what to do.

    Example:
        >>> raise DataError("pairs.jsonl:12: field 'chosen': expected non-empty text, found 3 (int)")
        Traceback (most recent call last):
        ...
        rlhf_jax.data.errors.DataError: pairs.jsonl:12: field 'chosen': expected non-empty text, found 3 (int)
    """
