"""What can go wrong where people compare: a file that is no store of comparisons, a click on a pair that has gone."""

from __future__ import annotations


class CompareError(ValueError):
    """A store, a file of pairs or a setting that cannot be used; the message names it and says what to do."""


class StaleError(CompareError):
    """A click on a pair that this rater has not before them any more; the page shows the present one instead."""
