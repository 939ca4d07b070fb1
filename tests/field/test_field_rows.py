"""Rows and tokenizers as other people have them, as tables: what goes in, and what is right."""

import itertools

import numpy as np
import pytest
from chat_families import IM, IM_CONFIG, Family, chat, write_folder

from rlhf_jax.data import DataError, Demonstration, Dialogue, Tokenizer
from rlhf_jax.data.encode import encode, encode_all

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


def test_what_a_row_does_not_teach_is_no_target(chatml):
    turns = chat("Hi.", "Wrong.", "So?", "Good.")
    for format in ("chat", "plain"):
        tokenizer = Tokenizer.load(chatml, format=format)
        example = encode(Dialogue(turns, "f:1", unlearned=(1,)), tokenizer)
        assert tokenizer.decode(example.tokens[0][example.masks[0]]).strip() == "Good."
        assert "Wrong." in tokenizer.decode(example.tokens[0])
