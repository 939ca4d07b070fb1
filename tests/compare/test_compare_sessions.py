"""What raters see: calibration with what is right, hidden repeats and golden items, both sides alike, and how far."""

import pytest

from rlhf_jax.compare import Item, Session, Settings, Store


def test_a_rater_is_calibrated_first_and_told_what_is_right(make):
    _, session, raters = make("ann", calibrate=3)
    ann = raters["ann"]
    assert not session.progress(ann).calibrated
    told = []
    for verdict in ("good", "bad", "skip"):
        shown = session.next(ann)
        assert shown.kind == "calibration"
        side = verdict if verdict == "skip" else "left" if shown.left.startswith(verdict) else "right"
        told.append(session.answer(ann, shown.id, side, 1, 1.0))
    assert [one.correct for one in told] == [True, False, None]
    better = shown.left if shown.left.startswith("good") else shown.right
    assert told[2].explanation == f'Skipped: the better response is the one that begins "{better}". It counts.'
    after = session.next(ann)
    assert after.kind == "item"
    assert after.answered == told[2].explanation  # for a page that shows it above the next pair
    assert session.progress(ann).calibrated
    answered = session.answer(ann, after.id, "left", 1, 1.0)
    assert answered == (None, "")
    assert session.next(ann).answered is None


def test_a_calibration_answer_stands_since_its_truth_was_told(make, label):
    _, session, raters = make("ann", calibrate=2)
    label(session, raters["ann"], count=2)
    assert session.undo(raters["ann"]) is None
    label(session, raters["ann"], count=1)
    assert session.undo(raters["ann"]).kind == "item"
    assert session.undo(raters["ann"]) is None


def test_a_tie_is_what_a_golden_tie_wants_and_both_bad_is_one(tmp_path):
    settings = Settings(calibrate=2)
    golden = [Item(f"Question {i}?", f"good {i}", f"bad {i}", golden="tie") for i in range(2)]
    store = Store.create(tmp_path / "said.sqlite", [], golden, settings)
    session, ann = Session(store, settings), store.rater_of(store.add_rater("ann"))
    for verdict, correct in (("both_bad", True), ("left", False)):
        told = session.answer(ann, session.next(ann).id, verdict, 1, 1.0)
        assert told.correct is correct
        assert "the two are equally good" in told.explanation
    assert session.next(ann) is None


def test_hidden_repeats_and_golden_items_look_like_all_others(make, label):
    store, session, raters = make("ann", calibrate=2, hidden=0.4)
    shown = label(session, raters["ann"])
    kinds = [answer.kind for answer in store.labels()]
    assert {"fresh", "golden", "repeat"} == set(kinds[2:])
    assert [one.kind for one in shown] == ["calibration"] * 2 + ["item"] * (len(shown) - 2)
    assert len({one.id for one in shown}) == len(shown)
    assert kinds.count("fresh") == 12  # every pair once
    golden = [answer.item for answer in store.labels() if answer.kind in ("golden", "calibration")]
    assert len(golden) == len(set(golden))  # what was calibrated on does not come again


def test_a_repeat_comes_later_and_with_the_other_side_left(make, label):
    store, session, raters = make("ann", golden=[], hidden=0.5)
    shown = label(session, raters["ann"])
    said = store.labels()
    repeats = [place for place, answer in enumerate(said) if answer.kind == "repeat"]
    assert repeats
    for place in repeats:
        first = next(i for i, answer in enumerate(said) if answer.item == said[place].item)
        assert place - first >= 5
        assert (shown[place].left, shown[place].right) == (shown[first].right, shown[first].left)


def test_no_repeats_or_golden_items_where_none_are_wanted(make, label):
    store, session, raters = make("ann", calibrate=0, hidden=0.0)
    label(session, raters["ann"])
    assert [answer.kind for answer in store.labels()] == ["fresh"] * 12


def test_sides_and_order_are_blind(make):
    """Whichever response is better, it stands left half of the time, in another order for everybody."""
    items = [Item(f"Question {i}?", f"good {i}", f"bad {i}") for i in range(100)]
    names = [f"rater {i}" for i in range(4)]
    _, session, _ = make(*names, items=items, golden=[])
    choose = session._choosing
    from rlhf_jax.compare.records import History

    flipped, first = {}, {}
    for name in names:
        chosen = [choose._shown(name, item.id, "fresh").flipped for item in items]
        flipped[name], first[name] = chosen, choose(name, History([], {})).item
        assert 35 <= sum(chosen) <= 65  # three standard deviations of a fair coin
    assert 160 <= sum(map(sum, flipped.values())) <= 240
    assert len({tuple(one) for one in flipped.values()}) == 4
    assert len(set(first.values())) > 1


def test_the_same_seed_gives_the_same_order_and_another_one_another(tmp_path, make, label):
    _, session, raters = make("ann", calibrate=0)
    shown = [one[1:] for one in label(session, raters["ann"])]
    for seed, same in ((0, True), (1, False)):
        settings = Settings(calibrate=0, seed=seed)
        items = [item for item in session.store.items.values()]
        store = Store.create(
            tmp_path / f"{seed}.sqlite", [i for i in items if not i.golden], [i for i in items if i.golden], settings
        )
        rater = store.rater_of(store.add_rater("ann"))
        assert ([one[1:] for one in label(Session(store, settings), rater)] == shown) is same


def test_a_skip_is_done_and_its_pair_does_not_come_again(make, label):
    store, session, raters = make("ann", golden=[], hidden=0.5)
    label(session, raters["ann"], lambda shown: "skip")
    assert [answer.kind for answer in store.labels()] == ["fresh"] * 12  # what was skipped is not repeated


def test_so_many_raters_a_pair(make, label):
    store, session, raters = make("ann", "bo", "cy", golden=[], hidden=0.0, votes=2)
    held = session.next(raters["cy"])  # cy has a pair before her: it has one rater by now
    label(session, raters["ann"])
    label(session, raters["bo"])
    session.answer(raters["cy"], held.id, "left", 1, 1.0)
    assert session.next(raters["cy"]) is None
    counts = [sum(answer.item == name for answer in store.labels()) for name in store.items]
    assert counts == [2] * 12


def test_progress_counts_what_is_shown(make, label):
    _, session, raters = make("ann", "bo", calibrate=2, hidden=0.3)
    ann = raters["ann"]
    begun = session.progress(ann)
    assert (begun.done, begun.per_hour, begun.agreement, begun.alpha) == (0, 0.0, None, None)
    for done in range(1, 9):
        label(session, ann, count=1)
        assert session.progress(ann).done == done
    assert session.progress(ann).per_hour == pytest.approx(900.0)  # 4 seconds each
    label(session, ann)
    ended = session.progress(ann)
    assert ended.done == ended.total <= begun.total  # a hidden one for which there was nothing was a fresh one


def test_a_pause_does_not_make_a_rater_slow(make):
    _, session, raters = make("ann", golden=[])
    for seconds in (100.0, 30000.0):
        session.answer(raters["ann"], session.next(raters["ann"]).id, "left", 1, seconds)
    assert session.progress(raters["ann"]).per_hour == 18.0  # 400 seconds for two


def test_agreement_is_live(make, label):
    _, session, raters = make("ann", "bo", golden=[], hidden=0.0)
    label(session, raters["ann"])
    assert session.progress(raters["ann"]).agreement is None  # nobody else has said anything
    label(session, raters["bo"], count=3)
    assert session.progress(raters["ann"]).agreement == 1.0
    label(session, raters["bo"], lambda shown: "tie", count=1)
    assert session.progress(raters["bo"]).agreement == (3 + 0.5) / 4  # a tie against a preference is half
    assert session.progress(raters["ann"])[4:] == session.progress(raters["bo"])[4:]
