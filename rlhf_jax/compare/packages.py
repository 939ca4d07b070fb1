"""The packages that only the page needs, and what to do where they are missing."""

from __future__ import annotations

import importlib.util

from rlhf_jax.compare.errors import CompareError


def check_packages() -> None:
    """Check that the page could be served, before anything is sampled for it.

    Raises:
        CompareError: a package is missing; the message says how it is had.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise CompareError(
            f"the page on which people compare needs {' and '.join(missing)}: pip install starlette uvicorn, or in a "
            "clone pip install -e '.[compare]'"
        )
