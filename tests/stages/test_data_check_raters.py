"""What a check says of raters: those who agree have no findings, and each planted fault is found and named."""

import pytest
from planted_rows import Writer, checked, clean, found, names


def opinions(says, count=100):
    """The clean pairs, each labelled by every rater a minute after the one before."""
    rows = []
    for place, row in enumerate(clean(count)):
        for rater, opinion in says.items():
            given = opinion(place, row["preference"])
            rows.append(
                {**row, "preference": given, "rater": rater, "time": f"2026-11-27T{place // 60:02}:{place % 60:02}:00Z"}
            )
    return rows


def agrees(place, truth):
    return truth


def opposite(truth):
    return "b" if truth == "a" else "a"


def errs_at(*places):
    return lambda place, truth: opposite(truth) if place % 10 in places else truth


def test_raters_who_agree_give_no_findings(tmp_path):
    """Each errs in another tenth of the pairs, so each agrees with the others' majority in 80 to 100 of 100."""
    check = checked(tmp_path, opinions({"ann": errs_at(1), "bo": errs_at(2), "cy": errs_at(3)}))
    assert check.findings == []
    raters = next(section.figures for section in check.sections if section.name == "raters")
    assert (raters["pairs"], raters["several"]) == (100, 100)
    # Where ann errs the two others agree against her, and where bo or cy errs the others have no majority.
    assert raters["raters"]["ann"]["with_others"] == pytest.approx(70 / 80)
    assert len(raters["alpha_by_period"]) == 4


RATERS = {
    "poor_raters": (
        {"ann": agrees, "bo": agrees, "cy": errs_at(0, 1, 2, 3, 4, 6)},
        "cy: 40% with the majority of the others on 100 pairs",
    ),
    "one_sided_raters": (
        {"ann": agrees, "bo": agrees, "cy": lambda place, truth: "b" if place % 10 else truth},
        "cy: the second in",
    ),
    "drifting_raters": (
        {
            "ann": agrees,
            "bo": agrees,
            "cy": lambda place, truth: opposite(truth) if place >= 50 and place % 3 == 0 else truth,
        },
        "cy: 100% early on, 66% later",
    ),
    "low_agreement": ({"ann": errs_at(0, 1, 2, 3), "bo": errs_at(4, 5, 6), "cy": errs_at(7, 8, 9)}, None),
}


@pytest.mark.parametrize("name", RATERS)
def test_a_fault_of_raters_is_found(name, tmp_path):
    says, row = RATERS[name]
    check = checked(tmp_path, opinions(says))
    assert name in names(check)
    assert row is None or any(text.startswith(row) for text in found(check, name).rows)


def test_a_rater_who_is_asked_again_and_says_something_else(tmp_path):
    """Asked twice about 20 pairs, the second time in the other order: 8 answers are other ones."""
    rows = opinions({"ann": agrees})
    again = [
        {
            **row,
            "a": row["b"],
            "b": row["a"],
            "preference": row["preference"] if place < 8 else opposite(row["preference"]),
        }
        for place, row in enumerate(rows[:20])
    ]
    check = checked(tmp_path, [*rows, *({**row, "time": "2026-11-28T00:00:00Z"} for row in again)])
    assert found(check, "inconsistent_raters").rows == ("ann: the same answer in 60% of 20 repeats",)
    assert "contradictions" not in names(check)


def test_agreement_that_falls_is_said_with_both_figures(tmp_path):
    def later(place, truth):
        return opposite(truth) if place >= 75 and place % 2 else truth

    check = checked(tmp_path, opinions({"ann": agrees, "bo": later, "cy": agrees}, 120))
    assert "alpha was 1.00 in the first period" in found(check, "agreement_falls").text


def test_known_answers_measure_a_rater_and_are_in_no_part(tmp_path):
    rows = [
        {**row, "golden": opposite(row["preference"])} if place < 30 else row
        for place, row in enumerate(opinions({"ann": agrees}))
    ]
    check = checked(tmp_path, rows)
    assert found(check, "poor_raters").rows == ("ann: 0% with known answers on 30 pairs, below 70%",)
    assert next(section.figures for section in check.sections if section.name == "rows")["parts"]["train"] == 56


def test_ratings_without_names_have_an_agreement_too(tmp_path):
    """The ratings of an item are equal and differ between items, so alpha is 1; then they are shuffled among items."""
    rows = [{**row, "ratings": {"a": [4, 4], "b": [2, 2]}} for row in clean(40)]
    for row in rows:
        del row["preference"]
    raters = next(section for section in checked(tmp_path, rows).sections if section.name == "raters")
    assert raters.figures == {"alpha": 1.0, "several": 80}
    rows = [{**row, "ratings": {"a": [4, 2], "b": [2, 4]}} for row in rows]
    assert "low_agreement" in names(checked(tmp_path, rows))


def test_one_rating_a_row_is_gathered_by_response(tmp_path):
    """Two raters of 30 responses to a prompt each: the numbers are equal, so alpha is 1. Thumbs are 1 and 0."""
    write = Writer(5)
    rows = [{"prompt": write.text(8), "response": write.text(9), "rating": place % 5} for place in range(30)]
    both = [{**row, "rater": rater} for row in rows for rater in ("ann", "bo")]
    check = checked(tmp_path, both)
    figures = next(section.figures for section in check.sections if section.name == "raters")
    assert figures == {"alpha": 1.0, "several": 30}
    thumbs = [{"label": (row.pop("rating") + (row["rater"] == "bo")) % 2 == 0, **row} for row in both]
    assert "low_agreement" in names(checked(tmp_path, thumbs))
