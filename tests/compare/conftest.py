"""A small store: 12 pairs whose first response is the better one, and 6 golden ones."""

import pytest
from good_and_bad import GOLDEN, ITEMS, prefer_good

from rlhf_jax.compare import Session, Settings, Store


@pytest.fixture
def make(tmp_path):
    """A store with these settings and raters, its session and its raters by name."""

    def made(*raters, items=ITEMS, golden=GOLDEN, **settings):
        settings = Settings(**settings)
        store = Store.create(tmp_path / "said.sqlite", items, golden, settings)
        known = {name: store.rater_of(store.add_rater(name)) for name in raters}
        return store, Session(store, settings), known

    return made


@pytest.fixture
def label():
    """Answer up to so many pairs, by a function of what is shown; all that are left if no number is given."""

    def labelled(session, rater, verdict=prefer_good, count=10**6):
        answered = []
        while len(answered) < count and (shown := session.next(rater)):
            session.answer(rater, shown.id, verdict(shown), 2, 4.0)
            answered.append(shown)
        return answered

    return labelled
