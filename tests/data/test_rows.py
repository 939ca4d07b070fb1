from rlhf_jax.data import Message, parse_prompt, prompt_field, prompt_text
from rlhf_jax.data.rows import roles

ASKED = (Message("system", "s"), Message("user", "u"))
SEVERAL = (Message("user", "a"), Message("assistant", "b"), Message("system", "c"), Message("user", "d"))


def test_a_chat_as_text_has_every_turn_and_opens_the_answer():
    assert prompt_text(" P ") == " P "
    assert prompt_text(ASKED) == "s\n\nHuman: u\n\nAssistant:"
    assert prompt_text(SEVERAL) == "\n\nHuman: a\n\nAssistant: b\n\nc\n\nHuman: d\n\nAssistant:"


def test_a_prompt_in_a_file_is_read_back():
    for prompt in (" P ", ASKED, SEVERAL):
        assert parse_prompt({"prompt": prompt_field(prompt)}, "f:1").prompt == prompt


def test_the_speakers_of_a_chat_are_named():
    assert roles(SEVERAL) == "user, assistant, system, user"
    assert roles(()) == "no messages"
