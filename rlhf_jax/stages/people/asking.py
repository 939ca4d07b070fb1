"""Asking people about rows in the middle of a program: a page a round, which is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.compare.exporting import rows as said_rows
from rlhf_jax.compare.packages import check_packages
from rlhf_jax.compare.sessions import Session
from rlhf_jax.compare.settings import Settings
from rlhf_jax.compare.store import Store
from rlhf_jax.data import write_jsonl
from rlhf_jax.stages.people.config import CompareConfig
from rlhf_jax.stages.people.opening import open_store

_LOOK_EVERY = 0.5  # seconds


def ask_people(
    folder: str, raters: Sequence[str] = ("rater",), *, rubric: str = "", host: str = "127.0.0.1", seed: int = 0
) -> Callable[[int, list[dict[str, Any]]], list[dict[str, Any]]]:
    """Make a function that asks people about pairs and waits until all of them have answered.

    Each round has a store of its own, ``round-N.sqlite``, and links of its own, which are printed. What was said stays
    there: a round that is asked again with the same rows is answered at once, or goes on where it stood.

    Args:
        folder: where the rounds are kept.
        raters: names; each of them sees all pairs.
        rubric: a text file with what they are to look at; empty for none.
        host: address that the pages are served at.
        seed: in which order and on which side pairs are shown.

    Returns:
        (round, rows of ``prompt``, ``a``, ``b`` and perhaps ``clip_a``, ``clip_b``) -> rows of the export, an answer
        each; skipped pairs are not among them.

    Raises:
        ValueError: two names are the same, or there is none.
        ModuleNotFoundError: a package of the page is missing.
    """
    check_packages()
    CompareConfig(source="rows.jsonl", to="said.sqlite", raters=tuple(raters))  # names are checked before anybody waits

    def ask(at: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        asked, said = (Path(folder) / f"round-{at}.{kind}" for kind in ("jsonl", "sqlite"))
        asked.parent.mkdir(parents=True, exist_ok=True)
        again = said.exists()
        write_jsonl(asked, rows)  # again for a round that was asked before: other rows than the store holds are refused
        config = CompareConfig(
            source=str(asked),
            to=str(said),
            raters=tuple(raters),
            rubric=rubric,
            next="random",
            pairs=0,
            calibrate=0,
            hidden=0.0,
            round=at,
            host=host,
            seed=seed,
            new_links=again,
        )
        store, settings = open_store(config)
        if not _done(store, settings):
            _wait(store, settings, at)
        return list(said_rows(store))

    return ask


def _done(store: Store, settings: Settings) -> bool:
    """Whether nobody has a pair left."""
    session = Session(store, settings)
    return all((seen := session.progress(rater)).done >= seen.total for rater in store.raters())


def _wait(store: Store, settings: Settings, at: int) -> None:
    """Serve the page until everybody has answered everything; Ctrl-C ends the program and loses nothing."""
    from rlhf_jax.compare.serve import Server  # here, because it needs packages that only the page needs

    with Server(store, settings) as page:
        print(f"round {at}: {len(store.items):,} pairs to compare")
        for name, link in page.links.items():
            print(f"{name}: {link}", flush=True)
        while not _done(store, settings):
            time.sleep(_LOOK_EVERY)
