"""Every layout by small samples with its exact columns: what its rows say, and what is said of bad ones."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.data import DataError, layouts, read_jsonl
from rlhf_jax.data.layouts.table import LAYOUTS, recognise
from rlhf_jax.data.layouts.turns import answers, messages, spoken
from rlhf_jax.data.rows import Comparison, Demonstration, Dialogue, Message, prompt_text

SAMPLES = Path(__file__).parents[1] / "samples"
WON, LOST, EVEN = [[0, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0.5], [0.5, 0]]


def raw(name):
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def rows(name, parse):
    found, bad = read_jsonl(SAMPLES / f"{name}.jsonl", parse)
    assert not bad
    assert [row.where for row in found] == [f"{SAMPLES / name}.jsonl:{n}" for n in range(1, len(found) + 1)]
    return found


def user(text):
    return Message("user", text)


def assistant(text):
    return Message("assistant", text)


@pytest.mark.parametrize(
    ("sample", "layout"),
    [
        ("hh", "hh-rlhf"),
        ("ultrafeedback", "UltraFeedback"),
        ("tldr_comparisons", "TL;DR comparisons"),
        ("tldr_preference", "pairs"),
        ("shp", "SHP"),
        ("alpaca", "Alpaca"),
        ("sharegpt", "ShareGPT"),
        ("messages", "messages"),
        ("kto", "KTO labels"),
        ("kto_chat", "KTO labels"),
    ],
)
def test_every_row_of_a_sample_is_recognised_by_its_columns(sample, layout):
    assert {recognise(row).name for row in raw(sample)} == {layout}


@pytest.mark.parametrize(
    ("columns", "layout"),
    [
        (["prompt", "response"], "demonstrations"),
        (["prompt", "response", "label"], "labels"),
        (["prompt", "response", "ratings"], "ratings"),
        (["prompt", "a", "b", "preference"], "pairs with votes"),
        (["prompt", "a", "b", "ratings"], "pairs with votes"),
        (["prompt", "completion"], "completions"),
        (["prompt"], "prompts"),
        (["text", "source"], "text"),
        (["instruction", "input", "output", "text"], "Alpaca"),
    ],
)
def test_our_own_rows_are_layouts_too(columns, layout):
    assert recognise(columns).name == layout


def test_columns_that_nothing_fits_are_listed_with_the_layouts_that_are_known():
    with pytest.raises(DataError) as caught:
        layouts.comparison({"question": "Why?", "answer": "So."}, "qa.jsonl:1")
    said = str(caught.value)
    assert said.startswith("qa.jsonl:1: no layout fits the fields 'answer', 'question'; rename them")
    for layout in LAYOUTS:
        assert f"{layout.name} ({', '.join(layout.columns)})" in said
    with pytest.raises(DataError, match=r"^no layout fits the fields \(none\)"):
        recognise([])


# ---- comparisons ----------------------------------------------------------------------------------------------------


def test_hh_rlhf_the_shared_turns_are_the_prompt():
    found = rows("hh", layouts.comparison)
    one, two = found[0], found[1]
    assert one.prompt == (user("How do I keep basil alive on a windowsill?"),)
    assert one.responses == (
        "Give it five hours of sun, water when the top of the soil is dry, and pinch off the flowers.",
        "Plants are hard.",
    )
    assert two.prompt == (
        user("Why does bread go stale?"),
        assistant(
            "The starch slowly turns back into crystals and pushes its water out, so the crumb gets firm.",
        ),
        user("Does a fridge help?"),
    )
    assert two.responses == (
        "No, the cold makes the starch crystallise faster; freeze it instead.",
        "Yes, always put bread in the fridge.",
    )
    for row, given in zip(found, raw("hh"), strict=True):
        assert row.votes.tolist() == WON
        # Nothing is lost: written out again, it is the text that was read.
        for response, field in zip(row.responses, ("chosen", "rejected"), strict=True):
            assert f"{prompt_text(row.prompt)} {response}" == given[field]


def test_hh_rlhf_dialogues_that_part_earlier_share_the_turns_before():
    row = {
        "chosen": "\n\nHuman: A?\n\nAssistant: b\n\nHuman: C?\n\nAssistant: d\n\nHuman: E?\n\nAssistant: f",
        "rejected": "\n\nHuman: A?\n\nAssistant: b\n\nHuman: C?\n\nAssistant: x",
    }
    found = layouts.comparison(row, "hh:1")
    assert found.prompt == (user("A?"), assistant("b"), user("C?"))
    assert found.responses == ("d\n\nHuman: E?\n\nAssistant: f", "x")
    # They part at a question: the answer before it is not theirs alone, but a response begins with the assistant.
    row = {
        "chosen": "\n\nHuman: A?\n\nAssistant: b\n\nHuman: C?\n\nAssistant: d",
        "rejected": "\n\nHuman: A?\n\nAssistant: b\n\nHuman: X?\n\nAssistant: d",
    }
    found = layouts.comparison(row, "hh:1")
    assert found.prompt == (user("A?"),)
    assert found.responses == ("b\n\nHuman: C?\n\nAssistant: d", "b\n\nHuman: X?\n\nAssistant: d")
    # One is the beginning of the other: the last answer that both have is the response.
    row = {
        "chosen": "\n\nHuman: A?\n\nAssistant: b",
        "rejected": "\n\nHuman: A?\n\nAssistant: b\n\nHuman: C?\n\nAssistant: d",
    }
    assert layouts.comparison(row, "hh:1").responses == ("b", "b\n\nHuman: C?\n\nAssistant: d")


def test_hh_rlhf_with_the_line_ends_of_windows_says_the_same():
    row = {key: f"\n\nHuman: A?\n\nAssistant: {answer}" for key, answer in (("chosen", "b"), ("rejected", "c"))}
    windows = {key: text.replace("\n", "\r\n") for key, text in row.items()}
    assert layouts.comparison(windows, "hh:1")[:2] == layouts.comparison(row, "hh:1")[:2]


def test_a_dialogue_as_a_prompt_is_a_chat():
    """So Dahoas/full-hh-rlhf has the same data: dialogues that open an answer, and answers that begin with a space."""
    asked = "\n\nHuman: A?\n\nAssistant: b\n\nHuman: C?\n\nAssistant:"
    row = {"prompt": asked, "response": " d", "chosen": " d", "rejected": " e"}
    whole = {"chosen": f"{asked} d", "rejected": f"{asked} e"}
    found = layouts.comparison(row, "hh:1")
    assert found[:2] == layouts.comparison(whole, "hh:1")[:2]
    assert layouts.prompt(row, "hh:1").prompt == found.prompt == (user("A?"), assistant("b"), user("C?"))
    assert prompt_text(found.prompt) == asked
    for text in ("Human: A?", "Say 'Human: A?'\n\nAssistant:", "\n\nHuman: A?\n\nAssistant: b"):
        assert layouts.prompt({"prompt": text}, "x").prompt == text  # text that opens no answer, or is no dialogue


def test_two_responses_that_are_the_same_are_half_a_vote_each():
    same = {"chosen": "\n\nHuman: A?\n\nAssistant: b", "rejected": "\n\nHuman: A?\n\nAssistant: b"}
    for row in (same, {"prompt": "A?", "chosen": "b", "rejected": "b"}):
        assert layouts.comparison(row, "x").votes.tolist() == EVEN


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chosen": "\n\nHuman: A?"}, "field 'chosen': expected the last turn to be the assistant's, found the user's"),
        (
            {"rejected": "\n\nHuman: A?\n\nAssistant: b\n\nHuman: C?"},
            "field 'rejected': expected the last turn to be the assistant's, found the user's",
        ),
        (
            {"rejected": "\n\nHuman: A?\n\nAssistant:"},
            "field 'rejected[1]': expected non-empty text, found '' (str)",
        ),
        (
            {"chosen": "A? b"},
            "field 'chosen': expected a dialogue that begins with 'Human:' or 'Assistant:', found 'A? b'",
        ),
        ({"chosen": 3}, 'field \'chosen\': expected a list of {"role": ..., "content": ...}, found 3 (int)'),
        ({"rejected": None}, "field 'rejected': expected a dialogue that begins with"),
        (
            {"rejected": "\n\nHuman: Z?\n\nAssistant: b"},
            "fields 'chosen' and 'rejected': expected the same turns before the assistant's answer, "
            "found 'A?' and 'Z?'",
        ),
    ],
    ids=["no answer", "ends with a question", "empty answer", "no turns", "number", "null", "nothing shared"],
)
def test_hh_rlhf_a_bad_row_names_its_field(change, says):
    row = {"chosen": "\n\nHuman: A?\n\nAssistant: b", "rejected": "\n\nHuman: A?\n\nAssistant: c", **change}
    with pytest.raises(DataError, match=re.escape(f"hh.jsonl:7: {says}")) as caught:
        layouts.comparison(row, "hh.jsonl:7")
    assert "fix the row or pass --on-bad-row skip" in str(caught.value)


def test_ultrafeedback_scores_decide_and_even_ones_are_half_a_vote_each():
    found, given = rows("ultrafeedback", layouts.comparison), raw("ultrafeedback")
    assert found[0].prompt == (user("How do I keep basil alive on a windowsill?"),)
    assert found[0].responses == tuple(given[0][field][-1]["content"] for field in ("chosen", "rejected"))
    assert [row.votes.tolist() for row in found] == [EVEN if i == 7 else WON for i in range(10)]
    with pytest.raises(DataError, match=r"uf:1: fields 'score_chosen' and 'score_rejected': .* found 1 below 2.5"):
        layouts.comparison({**given[0], "score_chosen": 1}, "uf:1")
    with pytest.raises(DataError, match="finite numbers"):
        layouts.comparison({**given[0], "score_chosen": "high"}, "uf:1")


def test_ultrafeedback_without_its_prompt_column_says_the_same():
    for row, found in zip(raw("ultrafeedback"), rows("ultrafeedback", layouts.comparison), strict=True):
        bare = {key: row[key] for key in ("chosen", "rejected", "score_chosen", "score_rejected")}
        again = layouts.comparison(bare, "x")
        assert again[:2] == found[:2]
        np.testing.assert_array_equal(again.votes, found.votes)
        # Nor does it matter whether the answers come without the question, or the prompt is a list of messages.
        answer = {key: row[key][-1:] for key in ("chosen", "rejected")}
        for prompt in (row["prompt"], row["chosen"][:1]):
            assert layouts.comparison({"prompt": prompt, **answer}, "x")[:2] == found[:2]
        texts = {key: row[key][-1]["content"] for key in ("chosen", "rejected")}
        assert layouts.comparison({"prompt": row["chosen"][:1], **texts}, "x")[:2] == found[:2]


def test_tldr_the_post_is_put_as_in_the_paper_and_the_choice_says_who_won():
    found, given = rows("tldr_comparisons", layouts.comparison), raw("tldr_comparisons")
    info = given[0]["info"]
    assert found[0].prompt == (
        f"SUBREDDIT: r/relationships\n\nTITLE: My flatmate [23M] eats my food\n\nPOST: {info['post']}\n\nTL;DR:"
    )
    assert found[0].responses[1] == "My friend likes cheese a lot."
    assert [row.votes.tolist() for row in found] == [[WON, LOST][row["choice"]] for row in given]
    assert {tuple(map(tuple, row.votes.tolist())) for row in found} == {tuple(map(tuple, v)) for v in (WON, LOST)}
    # News has an article in place of a post.
    assert found[8].prompt.startswith("The footbridge over the harbour opened")
    assert found[8].prompt.endswith("took all winter.\n\nTL;DR:")
    # The other form in which the same posts are published, one column a field.
    for ours, theirs in zip(found[:8], rows("tldr_preference", layouts.comparison), strict=True):
        best = ours.responses[int(ours.votes[1, 0])]
        assert (ours.prompt, best) == (theirs.prompt, theirs.responses[0].strip())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"choice": 2}, "field 'choice': expected 0 or 1, found 2 (int)"),
        ({"choice": None}, "field 'choice': expected 0 or 1, found None"),
        ({"summaries": [{"text": "One."}]}, "field 'summaries': expected two objects with 'text'"),
        ({"summaries": [{"text": "One."}, {"text": " "}]}, "field 'text': expected non-empty text, found ' '"),
        (
            {"info": {"post": "P", "title": None, "subreddit": "s"}},
            "field 'title': expected non-empty text, found None",
        ),
        ({"info": "P"}, "field 'info': expected an object with the post"),
    ],
)
def test_tldr_a_bad_row_names_its_field(change, says):
    with pytest.raises(DataError, match=re.escape(says)):
        layouts.comparison({**raw("tldr_comparisons")[0], **change}, "tldr:1")


def test_tldr_summaries_may_come_as_lists_of_fields():
    """So TFDS gives a sequence of objects."""
    for row, found in zip(raw("tldr_comparisons"), rows("tldr_comparisons", layouts.comparison), strict=True):
        turned = {key: [one[key] for one in row["summaries"]] for key in ("text", "policy", "note")}
        assert layouts.comparison({**row, "summaries": turned}, "x")[:2] == found[:2]


def test_shp_label_one_means_that_a_is_preferred():
    found, given = rows("shp", layouts.comparison), raw("shp")
    for row, data in zip(found, given, strict=True):
        assert row.prompt == data["history"]
        assert row.responses == (data["human_ref_A"], data["human_ref_B"])
        assert row.votes.tolist() == (WON if data["labels"] else LOST)
    assert {row["labels"] for row in given} == {0, 1}
    level = {**given[0], "score_B": given[0]["score_A"]}
    assert layouts.comparison(level, "x").votes.tolist() == EVEN
    without = {key: given[1][key] for key in ("history", "human_ref_A", "human_ref_B", "labels")}
    assert layouts.comparison(without, "x").votes.tolist() == LOST
    with pytest.raises(DataError, match=r"shp:1: fields 'score_A' and 'score_B': .* found 4 below 20"):
        layouts.comparison({**given[0], "labels": 0}, "shp:1")
    with pytest.raises(DataError, match=r"field 'labels': expected 1 where A is preferred, or 0, found 'A'"):
        layouts.comparison({**given[0], "labels": "A"}, "shp:1")


def test_our_own_pairs_are_read_as_before():
    plain = layouts.comparison({"prompt": "P", "chosen": "c", "rejected": "r"}, "x")
    assert (*plain[:2], plain.votes.tolist()) == ("P", ("c", "r"), WON)
    shared = layouts.comparison({"prompt": "P", "a": "c", "b": "r", "preference": 0.25}, "x")
    assert shared.votes.tolist() == [[0, 0.25], [0.75, 0]]
    # A table fills what a row does not have with null, where its rows are of two kinds.
    row = {"prompt": "P", "chosen": None, "rejected": None, "a": "c", "b": "r", "preference": "b", "ratings": None}
    assert layouts.comparison(row, "x").votes.tolist() == LOST
    for field in ("chosen", "rejected"):
        with pytest.raises(DataError, match=f"field '{field}': expected non-empty text, found None"):
            layouts.comparison({"prompt": "P", "chosen": "c", "rejected": "r", field: None}, "x")
    with pytest.raises(DataError, match="field 'rejected': expected it to be there"):
        layouts.comparison({"prompt": "P", "chosen": "c"}, "x")


def test_data_without_comparisons_is_named():
    with pytest.raises(DataError, match="expected comparisons, found the layout Alpaca, which gives demonstrations"):
        layouts.comparison(raw("alpaca")[0], "alpaca.jsonl:1")
    with pytest.raises(DataError, match="expected comparisons, ratings or labels, found the layout messages"):
        layouts.judged(raw("messages")[0], "x")


# ---- demonstrations, prompts, labels --------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["hh", "ultrafeedback", "tldr_comparisons", "tldr_preference", "shp"])
def test_what_people_prefer_is_a_demonstration_and_what_they_were_asked_a_prompt(sample):
    pairs = rows(sample, layouts.comparison)
    imitated, asked = rows(sample, layouts.demonstration), rows(sample, layouts.prompt)
    for pair, shown, prompt in zip(pairs, imitated, asked, strict=True):
        best = 1 if pair.votes[1, 0] > pair.votes[0, 1] else 0
        assert shown == Demonstration(pair.prompt, pair.responses[best], pair.where)
        assert prompt == (pair.prompt, pair.where)


def test_alpaca_has_two_fields_of_instruction_and_one_of_response():
    found, given = rows("alpaca", layouts.demonstration), raw("alpaca")
    for row, data in zip(found, given, strict=True):
        assert row.response == data["output"]
        asked = row.prompt
        assert data["instruction"] in asked
        assert data["input"] in asked
    assert [row.prompt for row in rows("alpaca", layouts.prompt)] == [row.prompt for row in found]
    for nothing in ("", " \n", None):
        assert layouts.demonstration({**given[0], "input": nothing}, "x").prompt == given[0]["instruction"]
    with pytest.raises(DataError, match=r"field 'input': expected non-empty text, found 3 \(int\)"):
        layouts.demonstration({**given[0], "input": 3}, "x")
    with pytest.raises(DataError, match="field 'output': expected non-empty text"):
        layouts.demonstration({**given[0], "output": ""}, "x")


def test_sharegpt_is_a_dialogue_and_its_prompt_ends_before_the_last_answer():
    found, asked = rows("sharegpt", layouts.demonstration), rows("sharegpt", layouts.prompt)
    assert found[0].messages == (
        Message("system", "You answer in one short sentence."),
        user("How do I keep basil alive on a windowsill?"),
        assistant("Give it five hours of sun, water when the top of the soil is dry, and pinch off the flowers."),
    )
    assert asked[0].prompt == found[0].messages[:2]
    assert [turn.role for turn in found[1].messages] == ["user", "assistant"] * 2
    assert asked[1].prompt == found[1].messages[:3]
    # An empty system message says nothing; a question that nobody answered stays where it is.
    assert [turn.role for turn in found[6].messages] == ["user", "assistant", "user"]
    assert asked[6].prompt == found[6].messages  # and where prompts are asked for, it is what is to be answered


def test_messages_are_a_dialogue():
    found = rows("messages", layouts.demonstration)
    assert all(isinstance(row, Dialogue) for row in found)
    for row, data in zip(found, raw("messages"), strict=True):
        assert row.messages == tuple(Message(m["role"], m["content"]) for m in data["messages"])
    assert [row.prompt for row in rows("messages", layouts.prompt)] == [row.messages[:3] for row in found]


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([], 'field \'conversations\': expected a list of {"role": ..., "content": ...}, found [] (list)'),
        ("hi", "field 'conversations': expected a list of {\"role\": ..., \"content\": ...}, found 'hi' (str)"),
        (
            [{"from": "human", "value": "Hi."}],
            "field 'conversations': expected at least one turn of the assistant, found only user",
        ),
        (
            [{"from": "tool", "value": "Hi."}],
            "field 'conversations[0].from': expected one of 'assistant', 'system', 'user', found 'tool' (str)",
        ),
        (
            [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": None}],
            "field 'conversations[1].value': expected non-empty text, found None",
        ),
        (
            [{"speaker": "a", "said": "b"}],
            "field 'conversations[0]': expected {\"role\": ..., \"content\": ...}, found {'speaker'",
        ),
        (["Hi."], "field 'conversations[0]': expected {\"role\": ..., \"content\": ...}, found 'Hi.' (str)"),
    ],
)
def test_a_bad_chat_names_the_turn(turns, says):
    with pytest.raises(DataError, match=re.escape(says)):
        layouts.demonstration({"conversations": turns}, "chats:1")


def test_a_chat_of_the_assistant_alone_has_no_prompt():
    row = {"conversations": [{"from": "gpt", "value": "Hello!"}, {"from": "human", "value": "Hi."}]}
    assert len(layouts.demonstration(row, "x").messages) == 2
    assert layouts.prompt(row, "x").prompt == (assistant("Hello!"), user("Hi."))
    for purpose in (layouts.prompt, layouts.answered):
        with pytest.raises(DataError, match="expected a turn before the assistant's answer"):
            purpose({"conversations": row["conversations"][:1]}, "x")


def test_kto_labels_are_single_responses():
    found, given = rows("kto", layouts.labelled), raw("kto")
    for row, data in zip(found, given, strict=True):
        assert row == (data["prompt"], data["completion"], data["label"], row.where, None)
        assert isinstance(row.label, bool)
    assert [row.prompt for row in rows("kto", layouts.prompt)] == [row["prompt"] for row in given]
    chats, given = rows("kto_chat", layouts.labelled), raw("kto_chat")
    for row, data in zip(chats, given, strict=True):
        assert row.prompt == tuple(Message(m["role"], m["content"]) for m in data["prompt"])
        assert (row.response, row.label) == (data["completion"][0]["content"], data["label"])
    assert [len(row.prompt) for row in chats] == [1, 3] * 3
    assert layouts.labelled({"prompt": "P", "response": "r", "label": False}, "x") == ("P", "r", False, "x", None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": "good"}, "field 'label': expected true or false, found 'good' (str)"),
        ({"label": None}, "field 'label': expected true or false, found None"),
        ({"completion": ""}, "field 'completion': expected non-empty text"),
        ({"completion": [{"role": "user", "content": "x"}]}, "field 'completion': expected one turn, the assistant's"),
        ({"prompt": 3}, "field 'prompt': expected non-empty text, found 3 (int)"),
    ],
)
def test_a_bad_label_names_its_field(change, says):
    with pytest.raises(DataError, match=re.escape(f"kto:1: {says}")):
        layouts.labelled({"prompt": "P", "completion": "c", "label": True, **change}, "kto:1")


def test_thumbs_down_is_nothing_to_imitate():
    with pytest.raises(DataError, match="expected demonstrations, found the layout KTO labels, which gives labelled"):
        layouts.demonstration(raw("kto")[1], "x")


def test_our_own_rows_keep_their_complaints():
    with pytest.raises(DataError, match="d:1: field 'response': expected it to be there, found only 'prompt'"):
        layouts.demonstration({"prompt": "P"}, "d:1")
    with pytest.raises(DataError, match="d:1: field 'response': expected it to be there"):
        layouts.labelled({"prompt": "P"}, "d:1")
    with pytest.raises(DataError, match="expected prompts, found the layout text"):
        layouts.prompt({"text": "Once."}, "d:1")
    assert layouts.demonstration({"prompt": "P", "response": "r", "ratings": [1]}, "d:1") == ("P", "r", "d:1")
    assert layouts.demonstration({"prompt": "P", "completion": "r"}, "d:1") == ("P", "r", "d:1")
    assert layouts.text({"text": "Once.", "prompt": "P", "response": "r"}, "d:1") == ("", "Once.", "d:1")


# ---- responses to score ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["hh", "ultrafeedback", "tldr_comparisons", "tldr_preference", "shp"])
def test_a_comparison_is_scored_as_it_is(sample):
    for pair, other in zip(rows(sample, layouts.answered), rows(sample, layouts.comparison), strict=True):
        assert pair[:2] == other[:2]
        first, second = layouts.preferred_first(pair)
        assert {first, second} == set(pair.responses)
        votes = dict(zip(pair.responses, pair.votes.sum(axis=1), strict=True))
        assert votes[first] > votes[second] or (first, second) == pair.responses


@pytest.mark.parametrize("sample", ["alpaca", "sharegpt", "messages", "kto", "kto_chat"])
def test_of_other_rows_the_last_answer_is_scored(sample):
    for row, asked, given in zip(
        rows(sample, layouts.answered), rows(sample, layouts.prompt), raw(sample), strict=True
    ):
        assert row.prompt == asked.prompt[: len(row.prompt)]  # what is to be answered may come after an answer
        turns = given.get("conversations") or given.get("messages") or []
        said = [
            t.get("value") or t.get("content") for t in turns if (t.get("from") or t["role"]) in ("gpt", "assistant")
        ]
        last = said[-1] if turns else given.get("output") or given["completion"]
        assert row.response == (last if isinstance(last, str) else last[0]["content"])


def test_ratings_do_not_hinder_scoring_and_a_text_without_a_prompt_does():
    assert layouts.answered({"prompt": "P", "response": "r", "ratings": [1]}, "x") == Demonstration("P", "r", "x")
    with pytest.raises(DataError, match="expected a response to a prompt, found the layout text"):
        layouts.answered({"text": "Once."}, "x")
    with pytest.raises(DataError, match="x: field 'response': expected it to be there, found only 'prompt'"):
        layouts.answered({"prompt": "P"}, "x")


# ---- turns ----------------------------------------------------------------------------------------------------------


def test_a_spoken_dialogue_is_cut_at_its_speakers_only():
    text = "\n\nHuman: He said:\nHuman: no.\n\nI asked Assistant: why?\n\nAssistant: So.\n\nTwo paragraphs."
    assert spoken(text, "chosen", "x") == (
        user("He said:\nHuman: no.\n\nI asked Assistant: why?"),
        assistant("So.\n\nTwo paragraphs."),
    )
    assert spoken(text.lstrip(), "chosen", "x") == spoken(text, "chosen", "x")


def test_the_prompt_of_two_dialogues_always_leaves_a_response():
    same = (user("A?"), assistant("b"), user("C?"), assistant("d"))
    assert answers(same, same, "x") == (same[:3], ("d", "d"))
    longer = (*same, user("E?"), assistant("f"))
    assert answers(same, longer, "x") == (same[:3], ("d", "d\n\nHuman: E?\n\nAssistant: f"))


def test_the_same_messages_in_any_of_their_forms():
    want = (user("Hi."), assistant("Hello!"))
    for given in (
        [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello!"}],
        [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello!"}],
        {"role": ["user", "assistant"], "content": ["Hi.", "Hello!"]},
        [{"role": "User", "content": "Hi.", "from": None}, {"role": "Assistant", "content": "Hello!", "from": None}],
    ):
        assert messages(given, "messages", "x") == want


def test_every_comparison_of_the_samples_has_two_responses():
    for name in ("hh", "ultrafeedback", "tldr_comparisons", "tldr_preference", "shp"):
        assert all(isinstance(r, Comparison) and len(r.responses) == 2 for r in rows(name, layouts.judged))


def test_the_layout_of_a_row_is_recognised_once_even_where_it_does_not_fit(monkeypatch):
    from rlhf_jax.data.layouts import table

    seen = []
    monkeypatch.setattr(table, "recognise", lambda row, where="": (seen.append(where), recognise(row, where))[1])
    assert layouts.comparison({"prompt": "Hi.", "chosen": "Hello!", "rejected": "No."}, "good").responses
    with pytest.raises(DataError, match="the layout Alpaca, which gives demonstrations"):
        layouts.comparison({"instruction": "Say hello.", "output": "Hello!"}, "bad")
    assert seen == ["good", "bad"]
