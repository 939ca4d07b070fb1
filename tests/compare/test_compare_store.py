"""The file in which people's answers are kept: what is in it, whose it is, and what is no such file."""

import gc
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest
from good_and_bad import GOLDEN, ITEMS

from rlhf_jax.compare import CompareError, Item, Rater, Session, Settings, StaleError, Store


def test_what_was_put_in_is_read_again(make):
    chat = (("system", "Be brief."), ("user", "Hi."))
    from rlhf_jax.data.rows import Message

    item = Item(tuple(Message(*turn) for turn in chat), "Hello!", "No.", gap=0.5, spread=0.25, model_a="one")
    store, _, _ = make(items=[item, *ITEMS])
    assert list(Store.open(store.path).items.values()) == [*GOLDEN, item, *ITEMS]
    assert store.settings() == Settings()


def test_the_file_is_in_wal_mode_and_holds_no_token(make):
    store, _, _ = make()
    token = store.add_rater("ann")
    with sqlite3.connect(store.path) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert token not in "".join(db.iterdump())
    db.close()
    assert store.rater_of(token) == Rater(1, "ann")
    assert store.rater_of(token + "x") is None
    assert store.rater_of("") is None


def test_a_new_token_ends_the_old_one(make):
    store, _, _ = make()
    old = store.add_rater("ann")
    new = store.new_token("ann")
    assert store.rater_of(old) is None
    assert store.rater_of(new).name == "ann"
    with pytest.raises(CompareError, match="no rater 'bo'"):
        store.new_token("bo")
    with pytest.raises(CompareError, match="a rater 'ann' already"):
        store.add_rater("ann")
    with pytest.raises(CompareError, match="printable"):
        store.add_rater("a\nb")


def test_a_pair_is_handed_out_until_it_is_answered_also_after_a_restart(make):
    store, session, raters = make("ann")
    shown = session.next(raters["ann"])
    assert session.next(raters["ann"]) == shown
    again = Session(Store.open(store.path), store.settings())
    assert again.next(raters["ann"]) == shown


def test_a_click_that_is_sent_twice_counts_once_as_it_was_first(make):
    store, session, raters = make("ann", golden=[])
    shown = session.next(raters["ann"])
    session.answer(raters["ann"], shown.id, "tie", 1, 3.0)
    session.answer(raters["ann"], shown.id, "both_bad", 3, 5.0)
    assert [(one.verdict, one.strength, one.seconds) for one in store.labels()] == [("tie", 1, 3.0)]


def test_nobody_answers_for_somebody_else(make):
    store, session, raters = make("ann", "bo")
    shown = session.next(raters["ann"])
    with pytest.raises(StaleError):
        session.answer(raters["bo"], shown.id, "left", 1, 1.0)
    with pytest.raises(StaleError):
        session.answer(raters["bo"], "no such showing", "left", 1, 1.0)
    assert store.labels() == []


@pytest.mark.parametrize(
    ("verdict", "strength", "seconds", "named"),
    [
        ("a", 1, 1.0, "verdict 'a'"),
        ("left", 4, 1.0, "strength 4"),
        ("left", True, 1.0, "strength True"),
        ("left", 1, float("nan"), "seconds nan"),
        ("left", 1, -1.0, "seconds -1.0"),
    ],
)
def test_an_answer_that_is_none_is_refused(make, verdict, strength, seconds, named):
    store, session, raters = make("ann")
    shown = session.next(raters["ann"])
    with pytest.raises(CompareError, match=named):
        session.answer(raters["ann"], shown.id, verdict, strength, seconds)
    assert store.labels() == []


def test_undo_shows_the_pair_again_and_the_answer_stays_marked(make):
    store, session, raters = make("ann", golden=[], hidden=0.0)
    ann = raters["ann"]
    first = session.next(ann)
    session.answer(ann, first.id, "left", 1, 1.0)
    before = session.next(ann)  # is before ann when she goes back
    undone = session.undo(ann)
    assert (undone.prompt, undone.left, undone.right) == (first.prompt, first.left, first.right)
    assert undone.id != first.id
    assert session.next(ann) == undone
    for gone in (first, before):  # the tab that still shows one of these is told so
        with pytest.raises(StaleError):
            session.answer(ann, gone.id, "right", 1, 1.0)
    session.answer(ann, undone.id, "right", 1, 1.0)
    assert len(store.labels()) == 1
    with sqlite3.connect(store.path) as db:
        assert db.execute("SELECT count(*), count(undone) FROM answers").fetchone() == (2, 1)
    db.close()
    assert session.next(ann).prompt == before.prompt  # it comes next, as it would have


def test_undo_goes_back_one_by_one_to_the_beginning(make, label):
    store, session, raters = make("ann", golden=[], hidden=0.0)
    shown = label(session, raters["ann"], count=3)
    back = [session.undo(raters["ann"]).prompt for _ in range(3)]
    assert back == [one.prompt for one in reversed(shown)]
    assert session.undo(raters["ann"]) is None
    assert store.labels() == []


def test_many_threads_of_two_raters_lose_nothing_and_say_nothing_twice(make):
    """Each rater has four tabs open, which all ask and answer at once."""
    store, session, raters = make("ann", "bo", golden=[], hidden=0.0)

    def tab(rater):
        while shown := session.next(rater):
            try:
                session.answer(rater, shown.id, "left", 1, 1.0)
            except StaleError:
                raise AssertionError("nothing was undone") from None

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tab, [raters[name] for name in ("ann", "bo") for _ in range(4)]))
    said = [(answer.rater, answer.item) for answer in store.labels()]
    assert sorted(said) == sorted((name, item.id) for name in ("ann", "bo") for item in ITEMS)


def test_a_store_is_never_made_over_another(make):
    store, _, _ = make()
    with pytest.raises(CompareError, match="is there already"):
        Store.create(store.path, ITEMS, [], Settings())


@pytest.mark.parametrize(
    ("items", "golden", "named"),
    [
        ([], [], "no pair"),
        ([ITEMS[0], ITEMS[0]], [], "there twice"),
        ([GOLDEN[0]], [], "belongs among the golden"),
        ([], [ITEMS[0]], "no known answer"),
    ],
)
def test_pairs_that_make_no_store_leave_no_file(tmp_path, items, golden, named):
    with pytest.raises(CompareError, match=named):
        Store.create(tmp_path / "said.sqlite", items, golden, Settings())
    assert list(tmp_path.iterdir()) == []


def test_what_sqlite_says_names_the_file(make):
    store, _, _ = make("ann")
    with sqlite3.connect(store.path) as db:
        db.execute("DROP VIEW standing")
    db.close()
    with pytest.raises(CompareError, match=r"said\.sqlite cannot be used: no such table: standing"):
        store.labels()


def test_what_is_no_store_is_named(tmp_path, make):
    make()
    path, other, text = (tmp_path / name for name in ("said.sqlite", "other.sqlite", "rows.jsonl"))
    text.write_text('{"prompt": "Hi."}\n' * 100)
    (tmp_path / "empty.sqlite").touch()
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE items (id)")
    db.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    named = {other: "of another program", text: "no store of comparisons", path: "version 3"}
    named |= {tmp_path / "nothing.sqlite": "no such file", tmp_path / "empty.sqlite": "of another program"}
    for file, found in named.items():
        with pytest.raises(CompareError, match=found) as error:
            Store.open(file)
        assert str(file) in str(error.value)
    assert text.read_text() == '{"prompt": "Hi."}\n' * 100


def test_a_damaged_store_is_named(tmp_path, make):
    make()
    gc.collect()  # closes its connection, and so the log is in the file
    path = tmp_path / "said.sqlite"
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000)
    with pytest.raises(CompareError, match=r"said\.sqlite is no store of comparisons, or damaged"):
        Store.open(path)
