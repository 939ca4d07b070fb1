"""A check of rows: a clean file has no findings, and each planted fault is found, named, and found alone."""

import json

import pytest
from planted_rows import ROWS, Writer, checked, clean, found, names

from rlhf_jax import cli
from rlhf_jax.data import DataConfig, train_tokenizer, write_jsonl
from rlhf_jax.report import write_check
from rlhf_jax.stages.data_check import as_text, examine


def test_a_clean_file_has_no_findings(tmp_path):
    check = checked(tmp_path, clean())
    assert check.findings == []
    assert as_text(check).startswith(f"{tmp_path}/pairs.jsonl: 100 rows, no findings.\n")
    assert [section.name for section in check.sections] == [
        *("rows", "repeats", "leakage", "prompts", "preferences", "lengths")
    ]
    by_name = {section.name: section.figures for section in check.sections}
    assert by_name["rows"]["parts"] == {"train": 80, "validation": 10, "test": 10}
    assert by_name["prompts"]["distinct"] == ROWS
    assert (
        by_name["preferences"]["longer_preferred"]["share"] == by_name["preferences"]["first_preferred"]["share"] == 0.5
    )


def prefer_first(rows):
    return [{**row, "preference": "a"} for row in rows[:60]] + rows[60:]


def prefer_longer(rows):
    return [{**row, "preference": "a" if len(row["a"]) > len(row["b"]) else "b"} for row in rows]


def crowded(rows):
    """One prompt has a third of the rows."""
    return [{**row, "prompt": "Say anything."} if place % 3 == 0 else row for place, row in enumerate(rows)]


def opened(rows):
    return [{**row, "a": f"As an AI {row['a']}", "b": f"As an AI {row['b']}"} for row in rows]


def joined(rows):
    """The responses of one row have run together: both are long, so length tells nothing."""
    text = " ".join(row["a"] for row in rows)
    return [*rows[:-1], {**rows[-1], "a": text, "b": text[::-1]}]


FAULTS = {
    "bad_rows": (
        lambda rows: [*rows, "{", {"prompt": "x", "a": "", "b": "y", "preference": "a"}],
        "2 rows of 102",
        ":102: field 'a'",
    ),
    "duplicates": (lambda rows: [*rows, rows[4], rows[4]], "2 rows repeat an earlier row word for word", ":101"),
    "near_duplicates": (
        lambda rows: [*rows, {**rows[4], "prompt": rows[4]["prompt"].upper(), "a": rows[4]["a"].replace(" ", "  ")}],
        "1 row repeats an earlier one but for case",
        ":101",
    ),
    "contradictions": (
        lambda rows: [*rows, {**rows[4], "a": rows[4]["b"], "b": rows[4]["a"]}],
        "2 rows say the opposite of another row",
        ":5",
    ),
    "equal_pairs": (
        lambda rows: [*rows, {"prompt": "Vi?", "a": "Quite so!", "b": "quite  so", "preference": "tie"}],
        "In 1 pair both responses are the same but for form",
        ":101",
    ),
    "largest_prompt": (crowded, "One prompt has 34% of the rows: 'say anything'", ":1"),
    "response_openings": (opened, "100% of the responses open with 'as an ai'", None),
    "length_bias": (prefer_longer, "The longer response is preferred in 100%", None),
    "position_bias": (prefer_first, "The first response of a row is preferred in 80% (71 to 87) of 100 pairs", None),
    "all_ties": (lambda rows: [{**row, "preference": "tie"} for row in rows], "Every pair is a tie", None),
    "many_ties": (
        lambda rows: [{**row, "preference": "tie"} if place < 40 else row for place, row in enumerate(rows)],
        "40% of the pairs are ties",
        None,
    ),
    "very_long": (joined, "1 row is more than 20 times as long as the median", ":100: 14"),
    "empty": (
        lambda rows: [*rows, {**rows[0], "prompt": "Zu?", "a": "...", "b": "Vi."}],
        "In 1 row a prompt or a response",
        ":101",
    ),
    "skewed_source": (
        lambda rows: [{**row, "source": "judge" if place else "person"} for place, row in enumerate(rows)],
        "99% of the rows have source 'judge'",
        None,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(name, tmp_path):
    plant, says, where = FAULTS[name]
    check = checked(tmp_path, plant(clean()))
    assert names(check) == {name}
    finding = found(check, name)
    assert says in finding.text
    assert finding.advice
    assert where is None or any(where in row for row in finding.rows)
    assert says in " ".join(as_text(check).split())


def test_prompts_that_are_nearly_the_same_leak_from_one_part_into_another(tmp_path):
    """Rows of one prompt are never cut apart, but its variants are: every prompt is there with a word more."""
    rows = clean(60)
    write = Writer(1)
    again = [{**row, "prompt": f"{row['prompt']} Please.", "a": write.text(11), "b": write.text(9)} for row in rows]
    again = [{**row, "preference": "ab"[place // 2 % 2]} for place, row in enumerate(again)]
    check = checked(tmp_path, [*rows, *again])
    assert {"leaked_near_duplicates", "similar_prompts"} <= names(check)
    assert "120 of 120 prompts are nearly another one (100%)" in found(check, "similar_prompts").text


def test_a_held_out_file_with_prompts_and_responses_of_the_training_file(tmp_path):
    rows = clean(120)
    held = tmp_path / "held.jsonl"
    write_jsonl(held, [rows[0], {**rows[1], "prompt": "Quite another question?"}, *rows[100:]])
    check = checked(tmp_path, rows[:100], heldout=str(held))
    assert (
        found(check, "leaked_prompts").text
        == "The prompts of 1 held-out row stand in the train rows too (4.5% of the held-out rows)."
    )
    assert found(check, "leaked_prompts").rows == (f"{held}:1",)
    assert any(
        f"{held}:2" in row for finding in check.findings if finding.name == "leaked_responses" for row in finding.rows
    )


def test_what_does_not_apply_is_not_shown(tmp_path):
    write = Writer(2)
    prompts = checked(tmp_path, [{"prompt": write.text(8)} for _ in range(40)])
    assert prompts.findings == []
    assert [section.name for section in prompts.sections] == ["rows", "repeats", "leakage", "prompts", "lengths"]
    text = checked(tmp_path, [{"text": write.text(40)} for _ in range(40)])
    assert text.findings == []
    assert [section.name for section in text.sections] == ["rows", "repeats", "leakage", "lengths"]
    assert checked(tmp_path, [{"prompt": "Hi.", "response": "Hello!"}]).findings == []  # too few to be cut


def test_rows_for_evaluation_alone_are_called_so(tmp_path):
    chosen = {"prompt": "A colour?", "chosen": ["Red."], "rejected": ["A dog.", "Seven."]}
    marked = {"prompt": "A colour?", "responses": ["A dog.", "Red."], "best": 1}
    file = tmp_path / "bench.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (chosen, marked)))
    found = examine(DataConfig(source=str(file)))
    assert {finding.name for finding in found.findings} == {"best_of", "no_rows"}


def test_labels_of_one_side_and_of_unequal_sides(tmp_path):
    write = Writer(3)
    rows = [{"prompt": write.text(8), "response": write.text(10), "label": True} for _ in range(40)]
    assert names(checked(tmp_path, rows)) == {"one_label"}
    rows[0]["label"] = False
    assert names(checked(tmp_path, rows)) == {"skewed_labels"}
    both = [{**row, "label": place % 2 == 0} for place, row in enumerate(rows)]
    assert names(checked(tmp_path, [*both, {**both[0], "label": False}])) == {"contradictions"}
    pairs = clean(40)
    assert "mixed_kinds" in names(checked(tmp_path, [*both, *pairs]))


def test_rated_responses_are_paired_within_their_prompt(tmp_path):
    """The longer of two has the higher rating in every prompt: each response stands in one pair at most."""
    write = Writer(4)
    rows = []
    for _ in range(30):
        prompt = write.text(8)
        rows += [{"prompt": prompt, "response": write.text(words), "ratings": [words, words + 1]} for words in (9, 11)]
    check = checked(tmp_path, rows)
    preferences = next(section for section in check.sections if section.name == "preferences")
    assert preferences.figures["longer_preferred"] == {
        "share": 1.0,
        "n": 30,
        "ci": pytest.approx([0.886, 1.0], abs=1e-3),
    }
    assert names(check) == {"length_bias"}


def test_tokens_are_counted_as_a_stage_counts_them(tmp_path):
    rows = clean(60)
    tokenizer = train_tokenizer([row["prompt"] for row in rows], 300)
    file = tmp_path / "pairs.jsonl"
    write_jsonl(file, rows)
    lengths = [
        len(tokenizer.encode_prompt(row["prompt"])) + max(len(tokenizer.encode_response(row[x])) for x in "ab")
        for row in rows
    ]
    longest = max(lengths) - 1
    check = examine(DataConfig(source=str(file), max_length=longest), tokenizer=tokenizer)
    assert names(check) == {"too_long"}
    above = sum(length > longest for length in lengths)
    number = "1 row has" if above == 1 else f"{above} rows have"
    assert found(check, "too_long").text.startswith(f"{number} more than {longest} tokens")
    assert found(check, "too_long").kind == "error"


def test_the_page_escapes_rows_and_stands_alone(tmp_path):
    rows = [
        {**row, "a": row["a"] if place else "<script>alert(1)</script> & co " * 400}
        for place, row in enumerate(clean(40))
    ]
    rows += [{"prompt": "<b>bold</b>", "a": 3, "b": "x", "preference": "a"}]
    page = write_check(checked(tmp_path, [*rows, rows[3]]), tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "http://" not in page.replace("http-equiv", "")
    assert page.count('src="data:image/svg+xml;base64,') == 1
    assert "field &#39;a&#39;: expected non-empty text, found 3" in page


def test_what_rows_hold_cannot_steer_a_terminal(tmp_path):
    rows = [{**row, "prompt": "\x1b[2J\x1b[31mred \u202e"} if place % 2 else row for place, row in enumerate(clean(40))]
    text = as_text(checked(tmp_path, rows))
    assert "(50%): ?[2j?[31mred ?" in text
    assert all(letter.isprintable() or letter == "\n" for letter in text)


def test_figures_are_json(tmp_path):
    check = checked(tmp_path, clean())
    figures = json.loads(json.dumps(check.to_json()))
    assert figures["rows"] == {**figures["rows"], "usable": ROWS, "bad": 0, "by_kind": {"comparisons": ROWS}}
    assert figures["findings"] == []
    assert figures["source"].endswith("pairs.jsonl")


def test_the_command_prints_writes_and_ends_with_a_status(tmp_path, capsys):
    file, figures = tmp_path / "pairs.jsonl", tmp_path / "new" / "figures.json"
    write_jsonl(file, [*clean(40), clean(1)[0]])
    assert cli.run(["data", "check", str(file), "--json", str(figures)]) == 0
    out = capsys.readouterr().out
    assert "WARNING  1 row repeats an earlier row word for word (2.4%)." in out
    assert out.endswith(f"{figures}\n{file}.check.html\n")
    assert json.loads(figures.read_text())["findings"][0]["name"] == "duplicates"
    with pytest.raises(SystemExit, match="1"):
        cli.run(["data", "check", str(file), "--strict", "--to", str(tmp_path / "pages")])
    assert (tmp_path / "pages" / "pairs.jsonl.check.html").is_file()
    write_jsonl(file, clean(40))
    assert cli.run(["data", "check", str(file), "--strict"]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--tokenizer", "."], "--tokenizer .: there is no tokenizer.json in it; name a run or a model"),
        (["--page", "a.html", "--to", "b"], "--page names the file and --to the folder of the same page"),
        (["--show", "0"], "--show 0: expected at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_mistakes_in_its_options_are_named(words, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "pairs.jsonl", clean(4))
    assert cli.run(["data", "check", "pairs.jsonl", *words]) == 2
    assert says in capsys.readouterr().err
    assert cli.run(["data", "check", "none.jsonl"]) == 2
    assert not list(tmp_path.glob("*.html"))
