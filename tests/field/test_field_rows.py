"""Rows and tokenizers as other people have them, as tables: what goes in, and what is right."""

import gzip
import itertools
import json
import re

import numpy as np
import pytest
from chat_families import IM, IM_CONFIG, Family, chat, write_folder

from rlhf_jax.data import (
    DataConfig,
    DataError,
    Demonstration,
    Dialogue,
    Message,
    Tokenizer,
    chosen_first,
    equal,
    layouts,
    write_jsonl,
)
from rlhf_jax.data.encode import encode, encode_all
from rlhf_jax.data.one_file import read_rows
from rlhf_jax.data.parts import Parts, halve, hold_out, separate
from rlhf_jax.data.readers import huggingface
from rlhf_jax.data.reading import Source
from rlhf_jax.stages import opinions, sources

# 1. A tokenizer.json keeps what somebody's last call asked for.

STATES = {
    "texts are cut": lambda made: made.enable_truncation(8),
    "texts are cut on the left": lambda made: made.enable_truncation(4, direction="left"),
    "texts are filled up": lambda made: made.enable_padding(length=64, pad_id=0, pad_token="<|endoftext|>"),
    "BPE drops merges at random": lambda made: setattr(made.model, "dropout", 0.5),
}
LONG = "Hello there, how is the film? It is four. " * 4


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chatml")
    write_folder(folder, family(CHATML))
    return folder


@pytest.mark.parametrize("state", STATES)
def test_what_somebodys_last_call_left_in_the_file_is_left_out(state, chatml, tmp_path):
    import tokenizers

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((chatml / name).read_bytes())
    stored = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    STATES[state](stored)
    stored.save(str(tmp_path / "tokenizer.json"))
    clean, loaded = Tokenizer.load(chatml), Tokenizer.load(tmp_path)
    for encoded in (Tokenizer.encode_prompt, Tokenizer.encode_response, Tokenizer.encode):
        for _ in range(4):
            np.testing.assert_array_equal(encoded(loaded, LONG), encoded(clean, LONG))
    assert loaded.to_json() == clean.to_json()  # a run keeps none of it


# 3. What is trained is what is sampled.

OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + OPENS
EMPTY = "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
R1 = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}<|endoftext|>SHOWN<|im_end|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|endoftext|><think>\n{% endif %}"
)
TEMPLATES = {
    "as it was said": (CHATML, ""),
    "trimmed": (CHATML.replace("m.content", "m.content | trim"), ""),
    "trimmed on the right": (CHATML.replace("m.content", "m.content.rstrip()"), ""),
    "a line after the prompt": (CHATML.replace("{{ m.content", "{{ '\n' ~ m.content"), "\n"),
    "an empty thought (Qwen3)": (CHATML.replace("{{ m.content", EMPTY + "{{ m.content"), "<think>\n\n</think>\n\n"),
    "no generation prompt": (CHATML.removesuffix(OPENS), "<|im_start|>assistant\n"),
    "the prompt opens a thought (R1)": (R1.replace("SHOWN", "{{ m.content }}"), "\n</think>\n\n"),
    "and earlier thoughts go (R1)": (R1.replace("SHOWN", "{{ m.content.split('</think>')[-1] }}"), "\n</think>\n\n"),
    "and all is trimmed": (R1.replace("SHOWN", "{{ m.content.split('</think>')[-1] | trim }}"), "\n</think>\n\n"),
}
THOUGHTS = ("It is four.", "It is four.\n", "<think>\nTwo and two.\n</think>\n\nIt is four.")


def family(template, specials=IM):
    return Family(template, specials, IM_CONFIG, (), "")


@pytest.fixture(scope="module")
def tokenizers_by_template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("templates")
    made = {}
    for number, (name, (template, _)) in enumerate(TEMPLATES.items()):
        for special in (False, True):
            write_folder(
                folder / f"{number}{special}", family(template, (*IM, "<think>", "</think>")[: 5 if special else 3])
            )
            made[name, special] = Tokenizer.load(folder / f"{number}{special}")
    return made


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_both_row_forms_are_what_is_sampled(name, special, tokenizers_by_template):
    tokenizer = tokenizers_by_template[name, special]

    def shown(ids):
        return tokenizer._backend.decode(list(map(int, ids)), skip_special_tokens=False)

    for said in THOUGHTS:
        turns = chat("What is two and two?", said)
        asked, answer = tokenizer.encode_prompt(turns[:1]), tokenizer.encode_response(said)
        (row,) = encode_all(Demonstration("What is two and two?", said, "f:1"), tokenizer)
        (whole,) = encode_all(Dialogue(turns, "f:1"), tokenizer)
        assert row.tokens[0].tolist() == whole.tokens[0].tolist() == [*asked, *answer]
        assert row.starts == whole.starts == (len(asked),)  # the first target follows what is sampled from
        tokens, mask = tokenizer.encode_dialogue(turns)
        assert tokens[: len(asked)].tolist() == asked.tolist()
        assert tokens[mask].tolist() == answer.tolist()
        assert answer[-1] == tokenizer.eos_id
    lead = TEMPLATES[name][1]
    answer = tokenizer.encode_response("It is four.")
    assert shown(answer) == f"{lead}It is four.<|im_end|>"
    assert tokenizer.decode_response(answer) == "It is four."  # so a reward reads what a row would say
    again = tokenizer.encode_response(tokenizer.decode_response(tokenizer.encode_response(THOUGHTS[2])))
    if not special:  # a thought that the model wrote comes back as it was sampled
        assert again.tolist() == tokenizer.encode_response(THOUGHTS[2]).tolist()


def test_a_thought_is_trained_where_the_prompt_opens_it(tokenizers_by_template):
    tokenizer = tokenizers_by_template["and earlier thoughts go (R1)", False]
    asked, answer = tokenizer.encode_prompt("Two?"), tokenizer.encode_response(THOUGHTS[2])
    text = tokenizer._backend.decode([*asked, *answer], skip_special_tokens=False)
    assert text == "<|im_start|>Two?<|endoftext|><think>\nTwo and two.\n</think>\n\nIt is four.<|im_end|>"


def test_each_turn_is_taught_once_wherever_it_stands(tokenizers_by_template):
    turns = chat("a", "It is four.", "b", "It is six.", "c")
    for tokenizer in tokenizers_by_template.values():
        taught = []
        for example in encode_all(Dialogue(turns, "f:1"), tokenizer):
            mask, tokens = example.masks[0], example.tokens[0]
            groups = itertools.groupby(range(len(mask)), key=lambda i, mask=mask: bool(mask[i]))
            taught += [(places := list(part), tokens[places].tolist()) for is_target, part in groups if is_target]
            for places, _ in taught[-1:]:
                assert any(tokens[: places[0]].tolist() == tokenizer.encode_prompt(turns[:i]).tolist() for i in (1, 3))
        said = sorted(tokenizer.encode_response(turn.content).tolist() for turn in turns if turn.role == "assistant")
        assert sorted(ids for _, ids in taught) == said


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML.replace("assistant\n{% endif %}", "model\n{% endif %}"), r"it opens an answer with '.*model\\n' and"),
        ("{% if add_generation_prompt %}Think.{% endif %}" + CHATML, "something else before the user's turn"),
        (CHATML.replace("{{ m.content }}", "{{ m.content if m.role == 'user' }}"), "does not show what the assistant"),
    ],
)
def test_a_template_that_trains_what_is_not_sampled_is_refused(template, reason, tmp_path):
    write_folder(tmp_path, family(template))
    with pytest.raises(DataError, match=f"tokenizer.json: chat template: .*{reason}"):
        Tokenizer.load(tmp_path)
    assert Tokenizer.load(tmp_path, format="plain").format == "plain"


def test_a_template_that_drops_the_system_is_told_from_one_that_shows_it(tokenizers_by_template, tmp_path):
    turns = (Message("system", "Speak French."), *chat("Hi.", "So."))
    shown = tokenizers_by_template["as it was said", False]
    assert "Speak French." in shown.decode(shown.encode_prompt(turns[:2]))
    write_folder(
        tmp_path,
        family(
            CHATML.replace("<|im_start|>{{", "{% if m.role != 'system' %}<|im_start|>{{", 1).replace(
                "<|im_end|>\n{% endfor", "<|im_end|>\n{% endif %}{% endfor", 1
            )
        ),
    )
    dropped = Tokenizer.load(tmp_path)
    assert len(dropped.encode_prompt(turns[1:2]))
    for encoded in (lambda: dropped.encode_prompt(turns[:2]), lambda: dropped.encode_dialogue(turns)):
        with pytest.raises(DataError, match="it leaves out what the system says"):
            encoded()


def test_what_a_row_does_not_teach_is_no_target(chatml):
    turns = chat("Hi.", "Wrong.", "So?", "Good.")
    for format in ("chat", "plain"):
        tokenizer = Tokenizer.load(chatml, format=format)
        example = encode(Dialogue(turns, "f:1", unlearned=(1,)), tokenizer)
        assert tokenizer.decode(example.tokens[0][example.masks[0]]).strip() == "Good."
        assert "Wrong." in tokenizer.decode(example.tokens[0])


# 5. Fields that carry meaning are used, or refused by name.


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


FRENCH = ({"role": "system", "content": "Speak French."}, user("One?"))
ASKS = tuple(Message(turn["role"], turn["content"]) for turn in FRENCH)
HI, TWO = [user("Hi."), assistant("Hello!")], [user("One?"), assistant("Un."), user("Two?")]
PAIR = {"chosen": "Un.", "rejected": "One."}
SHARED = [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Un."}]
CHATS = {"chosen": [user("One?"), assistant("Un.")], "rejected": [user("One?"), assistant("One.")]}
VOTED = {"a": "Un.", "b": "One.", "preference": "a"}
SPOKEN = {side: f"\n\nHuman: One?\n\nAssistant: {said}" for side, said in PAIR.items()}
ANSWERS = {"chosen": [assistant("Un.")], "rejected": [assistant("One.")]}


def turns(chat):
    return tuple(Message(turn["role"], turn["content"]) for turn in chat)


@pytest.mark.parametrize(
    ("purpose", "row", "asks"),
    [
        # Alpaca
        ("demonstration", {"instruction": "One?", "input": "", "output": "Un.", "system": "Speak French."}, ASKS),
        ("demonstration", {"instruction": "Two?", "output": "Deux.", "history": [["One?", "Un."]]}, turns(TWO)),
        ("demonstration", {"instruction": "One?", "output": "Un.", "system": None, "history": []}, "One?"),
        ("comparison", {"instruction": "One", "input": "?", **PAIR}, "One\n\n?"),
        ("prompt", {"instruction": "Two?", "output": "Deux.", "history": [["One?", "Un."]]}, turns(TWO)),
        # ShareGPT and messages
        (
            "demonstration",
            {
                "system": "Speak French.",
                "conversations": [{"from": "human", "value": "One?"}, {"from": "gpt", "value": "Un."}],
            },
            ASKS,
        ),
        ("demonstration", {"system": "Speak French.", "messages": [*FRENCH, assistant("Un.")], "tools": "[]"}, ASKS),
        ("demonstration", {"messages": [{**FRENCH[0], "role": "developer"}, FRENCH[1], assistant("Un.")]}, ASKS),
        ("demonstration", {"prompt": "One?", "messages": [*FRENCH, assistant("Un.")]}, ASKS),  # as in no_robots
        ("demonstration", {"messages": [user([{"type": "text", "text": "Hi."}]), assistant("Hello!")]}, turns(HI[:1])),
        ("demonstration", {"messages": [user("Hi."), assistant("Hello!", tool_calls=[], weight=1)]}, turns(HI[:1])),
        # comparisons
        ("comparison", {"prompt": [*FRENCH], **CHATS}, ASKS),
        ("comparison", {"prompt": [*FRENCH], **ANSWERS}, ASKS),
        ("comparison", {"prompt": [FRENCH[0]], **CHATS}, ASKS),
        ("comparison", {"prompt": "One?", "system": "Speak French.", **CHATS}, ASKS),
        ("comparison", {"prompt": "One?", "system": "Speak French.", **PAIR}, ASKS),
        ("comparison", {"system": "Speak French.", "question": "One?", **PAIR}, ASKS),  # as in orca_dpo_pairs
        ("comparison", {"conversations": [*FRENCH], "chosen": assistant("Un."), "rejected": assistant("One.")}, ASKS),
        ("comparison", {"prompt": "One?", "messages": CHATS["chosen"], **CHATS}, ASKS[1:]),  # as in UltraFeedback
        ("comparison", {"prompt": "One?", "response": "Un.", **PAIR}, "One?"),
        (
            "comparison",
            {"prompt": "One?", "system_prompt": "Speak French.", "a": "Un.", "b": "One.", "preference": "a"},
            ASKS,
        ),
        ("comparison", {"prompt": "One?", **SPOKEN}, ASKS[1:]),  # dialogues as texts beside what they ask
        ("comparison", {"prompt": "\n\nHuman: One?\n\nAssistant:", **SPOKEN}, ASKS[1:]),
        ("comparison", {"prompt": "One?", "system": "Speak French.", **SPOKEN}, ASKS),
        ("prompt", {"prompt": "One?", **SPOKEN}, "One?"),
        ("labelled", {"prompt": "One?", "system": "Speak French.", "completion": "Un.", "label": True}, ASKS),
        # prompts
        ("prompt", {"prompt": "One?", "system": "Speak French.", "response": "Un."}, ASKS),
        ("prompt", {"messages": TWO}, turns(TWO)),
        ("prompt", {"messages": [*TWO, assistant("Deux.")]}, turns(TWO)),
        ("prompt", {"messages": [*FRENCH]}, ASKS),
        ("prompt", {"conversations": [*FRENCH]}, ASKS),
        ("prompt", {"prompt": [*FRENCH], "response": ""}, ASKS),
        ("prompt", {"instruction": "One", "input": "?", "output": ""}, "One\n\n?"),
        ("prompt", {"instruction": "One?", "system": "Speak French."}, ASKS),
    ],
)
def test_what_a_row_says_is_used(purpose, row, asks):
    found = getattr(layouts, purpose)(row, "f:1")
    asked = found.messages[:-1] if isinstance(found, Dialogue) else found.prompt
    assert asked == asks


@pytest.mark.parametrize(
    ("purpose", "row", "names"),
    [
        (
            "demonstration",
            {"messages": [user("Hi."), assistant("Hello!", tool_calls=[{"id": 1}])]},
            "messages[1].tool_calls",
        ),
        ("demonstration", {"messages": [user("Hi."), assistant("5", reasoning_content="2 + 3")]}, "reasoning_content"),
        (
            "demonstration",
            {"messages": [user("Hi."), assistant("Hello!", weight=0)]},
            "only user, assistant, of weight 0",
        ),
        ("demonstration", {"messages": [user("Hi."), assistant("Hello!", weight=0.5)]}, "messages[1].weight"),
        ("demonstration", {"messages": [user("Hi."), {"role": "tool", "content": "3"}]}, "messages[1].role"),
        (
            "demonstration",
            {"messages": [user([{"type": "image_url"}]), assistant("A cat.")]},
            "messages[0].content[0].type",
        ),
        ("demonstration", {"messages": HI, "images": ["cat.png"]}, "field 'images'"),
        ("demonstration", {"messages": HI, "tools": [{"name": "f"}]}, "field 'tools'"),
        ("demonstration", {"messages": [*FRENCH, assistant("Un.")], "system": "Speak German."}, "field 'system'"),
        ("demonstration", {"messages": HI, "prompt": "Something else"}, "field 'prompt'"),
        ("demonstration", {"messages": HI, "conversations": TWO}, "field 'messages'"),
        ("demonstration", {"prompt": "One", "input": "two", "response": "Un."}, "field 'input'"),
        ("demonstration", {"prompt": "Hi.", "response": "Hello!", "completion": "No."}, "field 'completion'"),
        ("demonstration", {"prompt": "Hi.", "response": "Hello!", "weight": 0}, "field 'weight'"),
        ("demonstration", {"instruction": "Hi.", "output": "Hello!", "history": "Ho."}, "field 'history[0]'"),
        ("demonstration", {"instruction": "Hi.", "output": "Hello!", "kto_tag": False}, "field 'kto_tag'"),
        ("demonstration", {"messages": HI, "label": False}, "field 'label'"),
        ("demonstration", {"instruction": "Hi.", "output": "No.", "label": False}, "field 'label'"),
        ("demonstration", {"messages": HI, "chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ("labelled", {"prompt": "Hi.", "response": "No.", "completion": "Hello!", "label": True}, "'completion'"),
        ("text", {"text": "Once.", "images": ["cat.png"]}, "field 'images'"),
        ("text", {"text": "Once.", "weight": 0}, "field 'weight'"),
        ("answered", {"prompt": "Hi.", "response": "", "images": ["cat.png"]}, "field 'images'"),
        ("answered", {"prompt": "Hi.", "response": "", "messages": TWO}, "field 'messages'"),
        ("prompt", {"messages": [*HI, FRENCH[0]]}, "the last turn to be the user's or the assistant's"),
        ("comparison", {"prompt": "Something else", **SPOKEN}, "fields 'prompt' and 'chosen'"),
        ("comparison", {"prompt": "Something else", **CHATS}, "fields 'prompt' and 'chosen'"),
        ("comparison", {"prompt": [user("Three?")], **CHATS}, "fields 'prompt' and 'chosen'"),
        ("comparison", {"prompt": "One?", **PAIR, "preference": 0.1}, "field 'preference'"),
        ("comparison", {"prompt": "One?", **PAIR, "margin": 2.0}, "field 'margin'"),
        ("comparison", {"prompt": "One?", "messages": TWO, **CHATS}, "field 'messages'"),
        ("judged", {"prompt": "Hi.", "response": "Hello!", "label": True, "ratings": [1]}, "field 'ratings'"),
        ("judged", {"prompt": "Hi.", "response": "Hello!", "ratings": [1], "system": "Be brief."}, "field 'system'"),
        ("prompt", {"prompt": "One?", "images": ["cat.png"]}, "field 'images'"),
        ("prompt", {"prompt": "One?", "history": [["a", "b"]]}, "field 'history'"),
        ("prompt", {"prompt": "One?", "conversations": TWO[1:]}, "field 'prompt'"),
        ("prompt", {"messages": [FRENCH[0]]}, "a turn before the assistant's answer"),
    ],
)
def test_what_a_row_says_and_nothing_reads_is_refused_by_name(purpose, row, names):
    with pytest.raises(DataError, match=re.escape(names)) as caught:
        getattr(layouts, purpose)(row, "f:1")
    assert str(caught.value).startswith("f:1: ")


@pytest.mark.parametrize("field", ["weight", "train", "training", "loss"])
def test_a_turn_of_weight_0_is_context(field, chatml):
    wrong, good = assistant("Wrong.", **{field: 0}), assistant("Good.", **{field: True})
    row = {"messages": [user("Hi."), wrong, user("So?"), good]}
    found = layouts.demonstration({**row, "system": "Be brief."}, "f:1")
    assert found.unlearned == (2,)
    (example,) = encode_all(found, Tokenizer.load(chatml))
    assert Tokenizer.load(chatml).decode(example.tokens[0][example.masks[0]]) == "Good."


@pytest.mark.parametrize("name", ["f.jsonl", "f.json"])
@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "One?", "prompt": "Two?", "response": "Un."}',
        '{"messages": [{"role": "user", "content": "Hi.", "content": "Ho."}]}',
    ],
)
def test_a_field_that_stands_there_twice_is_no_field(text, name, tmp_path):
    (tmp_path / name).write_text(f"[{text}]" if name == "f.json" else text)
    with pytest.raises(DataError, match=r"field '(prompt|content)': expected once, found 2 of that name"):
        read_rows(tmp_path / name, layouts.demonstration, "error")


def test_fields_that_nobody_knows_are_named_once_with_a_count(tmp_path, capsys):
    rows = [{"prompt": f"Say {i}.", "response": f"{i}", "source": "me", "id": i, "notes": None} for i in range(12)]
    rows[3]["response"] = [assistant("3", name="Bo")]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    source = Source(DataConfig(source=str(tmp_path / "rows.jsonl")))
    source.parts(layouts.demonstration, ())
    source.parts(layouts.prompt, ())
    said = capsys.readouterr().err
    named = "fields that mean nothing here are left alone: 'source' (12), 'id' (12), 'response[].name' (1)"
    assert said.count("left alone") == said.count(named) == 1


def test_what_a_policy_says_can_be_scored_even_where_it_says_nothing(tmp_path, chatml):
    rows = [{"prompt": [user("Hi.")], "response": text, "tokens": [2], "logprob": -0.1} for text in ("", "Hello!")]
    write_jsonl(tmp_path / "samples.jsonl", rows)
    found = read_rows(tmp_path / "samples.jsonl", layouts.answered, "error")
    assert [row.response for row in found] == ["", "Hello!"]
    tokenizer = Tokenizer.load(chatml)
    assert encode(found[0], tokenizer).tokens[0].tolist() == [*tokenizer.encode_prompt("Hi."), tokenizer.eos_id]


# 7. What is held out is a share of the rows.


def rows_of(*sizes):
    return [
        Demonstration(f"Prompt {prompt}.", f"answer {row}", f"f:{prompt}.{row}")
        for prompt, size in enumerate(sizes)
        for row in range(size)
    ]


@pytest.mark.parametrize(
    ("sizes", "held"),
    [
        ((1000, 20), 102),  # the large one would be a part of its own
        ((1000, 20, 20), 104),
        ((500, 500), 100),
        ((1000,), 100),
        ((30, 30, 30), 9),
        ((8,) * 100, 80),
        ((1,) * 100, 10),
        ((900, *(1,) * 100), 25),  # the others fill the parts, and some of them are trained on
    ],
)
def test_what_is_held_out_is_counted_in_rows(sizes, held):
    train, validation, test = hold_out("f", rows_of(*sizes))
    assert (len(validation), len(test)) == (held, held)
    assert len(train) == sum(sizes) - 2 * held
    again = separate(Parts(train, validation, test))
    assert [len(part) for part in again[:3]] == [len(train), held, held]  # nothing is moved back
    prompts = [{row.prompt for row in part} for part in again[:3]]
    shared = (prompts[0] & prompts[1]) | (prompts[0] & prompts[2]) | (prompts[1] & prompts[2])
    assert bool(shared) == bool(again.notes)  # a prompt in two parts is said
    assert {row.where for part in again[:3] for row in part} == {row.where for row in rows_of(*sizes)}


def test_a_prompt_that_most_rows_share_is_not_moved_out_of_training():
    rows = rows_of(1000, 20)
    held = [rows[3], Demonstration("Another.", "x", "h:1"), Demonstration("And one.", "x", "h:2")]
    parts = separate(Parts(rows, held[:2], held[2:]))
    assert [len(part) for part in parts[:3]] == [1020, 2, 1]
    (note,) = parts.notes
    assert note.startswith("the prompt 'prompt 0' has 1,001 of 1,023 rows, too many to be in one part alone")


def test_halves_of_what_is_held_out_are_halves_of_the_rows():
    for sizes in ((9, 1, 1, 1, 1, 1, 1, 1, 1, 1), (100, 2), (3, 3, 2), (1, 1)):
        one, other = halve(rows_of(*sizes))
        assert abs(len(one) - len(other)) <= max(2, sum(sizes) // 4)
        assert len(one) + len(other) == sum(sizes)


def test_the_counts_of_all_parts_are_printed(tmp_path, capsys):
    write_jsonl(tmp_path / "f.jsonl", [{"prompt": row.prompt, "response": row.response} for row in rows_of(1000, 20)])
    parts = Source(DataConfig(source=str(tmp_path / "f.jsonl"))).parts(layouts.demonstration, ())
    said = capsys.readouterr().err
    assert "f.jsonl: 816 rows to train on, 102 to choose the best checkpoint on and 102 for the final figures" in said
    assert "has 1,000 of 1,020 rows" in said
    assert len(parts.notes) == 1


# 12. Pairs are compared as tokens.


def pairs_of(*pairs):
    return [{"prompt": "Say one.", "chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]


@pytest.fixture(scope="module")
def trimming(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trimming")
    write_folder(folder, family(TEMPLATES["trimmed"][0]))
    return Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("rows", "kept", "says"),
    [
        (pairs_of(("One.", " One."), ("One.", "Two.")), [1], "1 pair is left out: both responses are the same tokens"),
        (pairs_of(("One.", "One.\n"), ("One.", "Two.")), [1], "1 pair is left out: both"),
        (pairs_of(("a", "b"), ("b", "a"), ("a", "c")), [2], "2 pairs are left out: others say the opposite"),
        (pairs_of(("a", "b "), ("b", " a"), ("a", "c")), [2], "2 pairs are left out: others say the opposite"),
        (pairs_of(("a", "b"), ("a", "b"), ("b", "a")), [0, 1, 2], "3 pairs contradict each other"),
        (pairs_of(("a", "b"), ("a", "b"), ("a", "c")), [0, 1, 2], ""),
    ],
)
def test_equal_pairs_say_nothing(rows, kept, says, trimming):
    examples = [encode(layouts.comparison(row, "f:1"), trimming) for row in rows]
    places, notes = equal.telling(examples)
    assert places == kept
    assert any(note.startswith(says) for note in notes) or not says
    assert len(notes) == bool(says)
    for example in examples:
        if equal.same_tokens(example):
            assert example.votes[0, 1] == example.votes[1, 0]  # nobody can have preferred one of them
            assert chosen_first(example, 0.5) is None


def test_labels_that_contradict_each_other_say_nothing(trimming):
    rows = [{"prompt": "Hi.", "response": text, "label": up} for text, up in (("a", True), ("a ", False), ("b", True))]
    places, notes = equal.telling([encode(layouts.labelled(row, "f:1"), trimming) for row in rows])
    assert (places, len(notes)) == ([2], 1)


# 24. Data that teaches nothing is said, or refused, before anything is trained.


def votes(i, *, even=False):
    return {"prompt": f"Say {i}.", "a": f"{i}", "b": f"not {i}", "preference": "tie" if even else "ab"[i % 2]}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([votes(i, even=True) for i in range(40)], "every comparison to train on is a tie"),
        (
            [{"prompt": f"Say {i}.", "chosen": "One.", "rejected": "One. "} for i in range(40)],
            "none of 32 rows says which",
        ),
        ([{"prompt": f"Say {i // 4}.", "response": f"{i}", "ratings": [3]} for i in range(80)], "every comparison"),
    ],
)
def test_opinions_that_prefer_nothing_are_refused(rows, says, trimming, tmp_path):
    write_jsonl(tmp_path / "f.jsonl", rows)
    with pytest.raises(DataError, match=says):
        opinions.comparisons(DataConfig(source=str(tmp_path / "f.jsonl")), trimming, group_size=2, seed=0)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [{"prompt": f"Say {i}.", "response": f"{i}", "label": True} for i in range(40)],
            "all 32 labels to train on are thumbs up",
        ),
        ([{"prompt": "Say one.", "chosen": "One.", "rejected": "Two."}] * 40, "all 40 rows are the same"),
        ([votes(i % 3) for i in range(40)], "37 of 40 rows repeat another row"),
        ([*pairs_of(("One.", " One.")), *map(votes, range(39))], "1 pair is left out"),
    ],
)
def test_data_that_teaches_little_is_said(rows, says, trimming, tmp_path, capsys):
    write_jsonl(tmp_path / "f.jsonl", rows)
    found = opinions.preferences(DataConfig(source=str(tmp_path / "f.jsonl")), trimming, min_share=0.5, seed=0)
    if not isinstance(found, opinions.Labels):
        found.heldout(1), found.test(1)
    assert says in capsys.readouterr().err


def test_pairs_without_the_majority_asked_for_are_counted(trimming, tmp_path, capsys):
    shares = [0.5, 0.55, 1.0, 0.0]
    write_jsonl(tmp_path / "f.jsonl", [{**votes(i), "preference": shares[i % 4]} for i in range(60)])
    config = DataConfig(source=str(tmp_path / "f.jsonl"))
    found = opinions.preferences(config, trimming, min_share=0.6, seed=0)
    trained = len(found.epoch(0))
    assert f"{48 - trained} of 48 pairs to train on have no majority of at least min_share" in capsys.readouterr().err
    assert found.rows() == {"trained": trained, "held_out": 6, "test": 6, "left_out": 48 - trained}
    assert any("min_share" in note for note in found.warnings)
    rated = [{"prompt": f"Say {i // 4}.", "response": f"{i}", "ratings": [[1, 1, 2, 3][i % 4]]} for i in range(80)]
    write_jsonl(tmp_path / "f.jsonl", rated)
    found = opinions.preferences(config, trimming, min_share=0.5, seed=0)
    assert "pairs to train on in the first epoch have no majority" in capsys.readouterr().err
    assert found.rows()["trained"] == 64  # a response in an even pair is in another one in the next epoch


def test_rated_prompts_are_one_domain_and_their_equal_responses_no_pair(trimming, tmp_path):
    rows = [{"prompt": f"Say {i // 2}.", "response": f"{i}", "ratings": [i % 2]} for i in range(300)]
    write_jsonl(tmp_path / "f.jsonl", [*rows, *({**row, "response": f"{row['response']} "} for row in rows)])
    found = opinions.comparisons(DataConfig(source=str(tmp_path / "f.jsonl")), trimming, group_size=2, seed=0)
    held = found.heldout(4)
    assert set(held.domains) == {"all"}
    assert len(held.pairs)
    for i, j in held.pairs.tolist():
        assert held.sequences[i].tolist() != held.sequences[j].tolist()


# 10. Text in which the chat template has been applied already.

ONE = "<|im_start|>user\nTwo and two?<|im_end|>\n<|im_start|>assistant\n"
TALK = f"{ONE}It is four.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nIt is.<|im_end|>\n"


def test_a_templated_text_has_the_tokens_of_its_chat(chatml):
    tokenizer = Tokenizer.load(chatml)
    templated = tokenizer.templated()
    np.testing.assert_array_equal(templated.encode_prompt(ONE), tokenizer.encode_prompt("Two and two?"))
    for answer in ("It is four.", "It is four.<|im_end|>", "It is four.<|im_end|>\n"):
        np.testing.assert_array_equal(templated.encode_response(answer), tokenizer.encode_response("It is four."))
    ((tokens, mask),) = tokenizer.encode_turns(chat("Two and two?", "It is four.", "Sure?", "It is."))
    text, targets = templated.encode_text(TALK)
    assert text.tolist() == tokens.tolist()
    assert targets.tolist() == mask.tolist()
    with pytest.raises(DataError, match=r"f:1: data.templated: expected text with .*, found a list of messages"):
        encode(Dialogue(chat("Hi.", "So."), "f:1"), templated)
    assert tokenizer.templated().format == tokenizer.format == "chat"  # what a run keeps is the chat's tokenizer


@pytest.mark.parametrize("templated", [False, True])
def test_templated_rows_are_warned_of_with_a_count_and_the_remedy(templated, chatml, tmp_path, capsys):
    rows = [{"prompt": ONE if i else "Two and two?", "response": f"It is {i}."} for i in range(20)]
    write_jsonl(tmp_path / "f.jsonl", [*rows, *([{"text": TALK}] if templated else [])])
    config = DataConfig(source=str(tmp_path / "f.jsonl"), templated=templated)
    tokenizer = Tokenizer.load(chatml)
    found = sources.demonstrations(config)
    sources.encode_demonstrations([*found.train, *found.validation, *found.test], tokenizer, config)
    said = capsys.readouterr().err
    warned = (
        "19 of 20 rows spell special tokens ('<|im_start|>'), which are text here, character by character; where the"
    )
    assert (warned in said) == (not templated)
    assert ("pass --data.templated" in said) == (not templated)


def test_a_text_begins_with_itself_where_no_token_begins_a_text(chatml, tmp_path):
    """The tokenizer of a chat model without a token for the beginning: an end of turn is none."""
    tokenizer = Tokenizer.load(chatml)
    (example,) = encode_all(layouts.text({"text": "Hello there."}, "f:1"), tokenizer)
    assert example.tokens[0].tolist() == [*tokenizer.encode("Hello there."), tokenizer.eos_id]
    assert example.starts == (1,)  # nothing stands before the first token, so nobody can be asked for it
    write_folder(
        tmp_path, family(CHATML, ("<s>", *IM))._replace(config={**IM_CONFIG, "bos_token": "<s>", "add_bos_token": True})
    )
    begun = Tokenizer.load(tmp_path)
    (example,) = encode_all(layouts.text({"text": "Hello there."}, "f:1"), begun)
    assert example.tokens[0].tolist() == [begun.bos_id, *begun.encode("Hello there."), begun.eos_id]


# 14. Files by their names, and the real cause of what cannot be read.


@pytest.mark.parametrize(
    "name",
    ["f.ndjson", "f.JSONL", "f.NdJson", "f.json", "f.JSON", "f.json.gz", "f.jsonl.gz", "f.ndjson.gz", "f.JSONL.GZ"],
)
@pytest.mark.parametrize("listed", [False, True])
def test_a_file_of_json_is_read_whatever_its_name(name, listed, tmp_path):
    rows = [{"prompt": f"Say {i}.", "response": str(i)} for i in range(12)]
    text = json.dumps(rows) if listed else "".join(json.dumps(row) + "\n" for row in rows)
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in (tmp_path / name, folder / f"train{name[1:]}"):
        file.write_bytes(gzip.compress(text.encode()) if name.lower().endswith(".gz") else text.encode())
    for source in (tmp_path / name, folder):
        parts = Source(DataConfig(source=str(source))).parts(layouts.demonstration, ())
        assert sum(map(len, parts[:3])) == 12
    assert len(read_rows(tmp_path / name, layouts.prompt, "error")) == 12


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("f.csv", "load_dataset('csv'"),
        ("f.jsonl.zst", "unpack it first"),
        ("f.zip", "unpack it first"),
        ("f.pkl", "a pickle may run code"),
        ("f.txt", '{"prompt": ..., "response": ...}'),
        ("f.data", "name it after what it holds"),
    ],
)
def test_other_files_get_the_advice_that_fits(name, says, tmp_path):
    (tmp_path / name).write_bytes(b"prompt,response\nHi.,Hello!\n")
    with pytest.raises(DataError, match=re.escape(says)):
        Source(DataConfig(source=str(tmp_path / name))).parts(layouts.demonstration, ())


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (ImportError("To support decoding images, please install 'Pillow'."), "pip install pillow"),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL.Image"), "pip install pillow"),
        (ModuleNotFoundError("No module named 'soundfile'", name="soundfile"), "pip install soundfile"),
        (OSError(24, "Too many open files"), "this machine's state, not the file's"),
        (PermissionError(13, "Permission denied"), "this machine's state, not the file's"),
        (ValueError("Couldn't deserialize thrift"), "the file may be incomplete"),
    ],
)
def test_only_content_is_called_incomplete(cause, says, tmp_path):
    def rows():
        yield {"prompt": "Hi."}
        raise RuntimeError("while decoding") from cause

    with pytest.raises(DataError, match=re.escape(says)) as caught:
        list(huggingface._numbered(rows(), "f.parquet", "f.parquet"))
    assert ("may be incomplete" in str(caught.value)) == (says == "the file may be incomplete")
