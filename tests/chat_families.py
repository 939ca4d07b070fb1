"""Small chat templates in the manner of the families, what they must make of a chat, and tokenizers to go with them.

In ``shown`` the assistant's turns that stand there as they would be sampled, the token that ends each included, stand
between « and ».
"""

import json
from typing import NamedTuple

import tokenizers

from rlhf_jax.data import Message

TEXTS = [
    "system user assistant model Human Assistant INST You are brief. What is two and two? It is four.",
    " And three and three? It is six. I think of it. Be brief, please. You are a helpful model.",
    "\n\nuser\nsystem\nassistant\nIt is\n\n\nThe good film is bad, the bad film is good. Thank you!\n",
] * 4


class Family(NamedTuple):
    """A template, the special tokens it needs, and a chat with its exact rendering."""

    template: str
    specials: tuple[str, ...]
    config: dict
    chat: tuple[Message, ...]
    shown: str
    prefix_stable: bool = True
    kind: str = "bytes"


def chat(*turns: str, system: str = "") -> tuple[Message, ...]:
    first = (Message("system", system),) if system else ()
    return (*first, *(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(turns)))


TALK = ("What is two and two?", "It is four.", "And three and three?", "It is six.")
SPACED = ("What is two and two?\n", " It is four.", " And three and three?", "It is six. ")

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful model.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = """{{ bos_token }}
{%- if messages[0].role == 'system' -%}
    {%- set about = messages[0].content ~ '\n\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set about = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for m in turns -%}
    {%- if (m.role == 'user') != (loop.index0 is even) -%}
        {{- raise_exception('user and assistant have to take turns') -}}
    {%- endif -%}
    {%- if m.role == 'user' -%}
        {{- '[INST] ' ~ (about if loop.first else '') ~ m.content ~ ' [/INST]' -}}
    {%- else -%}
        {{- ' ' ~ m.content ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}"""
LLAMA2 = (
    "{% set about = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if about else messages) %}{% if m.role == 'user' %}"
    "{% set asked = '<<SYS>>\n' ~ about ~ '\n<</SYS>>\n\n' ~ m.content if about and loop.first else m.content %}"
    "{{ bos_token ~ '[INST] ' ~ asked.strip() ~ ' [/INST]' }}{% else %}{{ ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}"
    "{% endif %}{% endfor %}"
)
GEMMA = """{{ bos_token }}
{%- if messages[0].role == 'system' -%}{{- raise_exception('there is no system role') -}}{%- endif -%}
{%- for m in messages -%}
    {{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' ~ m.content.strip() }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}<start_of_turn>model
{% endif -%}"""
ZEPHYR = """{% for m in messages %}
{{ '<|' ~ m.role ~ '|>\n' ~ m.content ~ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
"""
TULU = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% else %}{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# Shows the reasoning of what follows the user's last turn only, and writes an empty one where there is none.
QWEN3 = """{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
    {{- '<|im_start|>' ~ m.role ~ '\n' -}}
    {%- set said = m.content.split('</think>')[-1].lstrip('\n') -%}
    {%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in m.content else '' -%}
    {%- if m.role != 'assistant' -%}
        {{- m.content -}}
    {%- elif loop.index0 > ns.last -%}
        {{- '<think>\n' ~ thought ~ '\n</think>\n\n' ~ said -}}
    {%- else -%}
        {{- said -}}
    {%- endif -%}
    {{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""
GENERATION = """{% for m in messages %}
{% if m.role == 'assistant' %}
<|im_start|>assistant
{% generation %}
{{- m.content }}<|im_end|>
{% endgeneration %}
{% else %}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}
{% if loop.index > 99 %}{% break %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""

IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
IM_CONFIG = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "bos_token": "<|im_start|>"}
FAMILIES = {
    "chatml": Family(
        CHATML,
        IM,
        IM_CONFIG,
        chat(*TALK),
        "<|im_start|>system\nYou are a helpful model.<|im_end|>\n"
        "<|im_start|>user\nWhat is two and two?<|im_end|>\n<|im_start|>assistant\n«It is four.<|im_end|>»\n"
        "<|im_start|>user\nAnd three and three?<|im_end|>\n<|im_start|>assistant\n«It is six.<|im_end|>»\n",
    ),
    "llama3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        chat(*SPACED, system="You are brief."),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is two and two?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«It is four.<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nAnd three and three?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«It is six.<|eot_id|>»",
        kind="llama3",
    ),
    "mistral": Family(
        MISTRAL,
        ("<unk>", "<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        chat(*TALK, system="You are brief."),
        "<s>[INST] You are brief.\n\nWhat is two and two? [/INST]« It is four.</s>»"
        "[INST] And three and three? [/INST]« It is six.</s>»",
        kind="sentencepiece",
    ),
    "llama2": Family(
        LLAMA2,
        ("<unk>", "<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        chat(*SPACED, system="You are brief."),
        "<s>[INST] <<SYS>>\nYou are brief.\n<</SYS>>\n\nWhat is two and two? [/INST]« It is four. </s>»"
        "<s>[INST] And three and three? [/INST]« It is six. </s>»",
        kind="sentencepiece",
    ),
    "gemma": Family(
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
        chat(*SPACED),
        "<bos><start_of_turn>user\nWhat is two and two?<end_of_turn>\n"
        "<start_of_turn>model\n«It is four.<end_of_turn>»\n"
        "<start_of_turn>user\nAnd three and three?<end_of_turn>\n<start_of_turn>model\n«It is six.<end_of_turn>»\n",
        kind="gemma",
    ),
    "zephyr": Family(
        ZEPHYR,
        ("<unk>", "<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"},
        chat(*TALK, system="You are brief."),
        "<|system|>\nYou are brief.</s>\n<|user|>\nWhat is two and two?</s>\n<|assistant|>\n«It is four.</s>»\n"
        "<|user|>\nAnd three and three?</s>\n<|assistant|>\n«It is six.</s>»\n",
        kind="sentencepiece",
    ),
    "tulu": Family(
        TULU,
        ("<|endoftext|>", "<|pad|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
        chat(*TALK),
        "<|endoftext|><|user|>\nWhat is two and two?\n<|assistant|>\n«It is four.<|endoftext|>»\n"
        "<|user|>\nAnd three and three?\n<|assistant|>\n«It is six.<|endoftext|>»",
    ),
    "qwen3": Family(
        QWEN3,
        IM,
        {**IM_CONFIG, "bos_token": None},
        chat(TALK[0], "<think>\nI think.\n</think>\n\nIt is four.", TALK[2], "<think>\nYou.\n</think>\n\nIt is six."),
        "<|im_start|>user\nWhat is two and two?<|im_end|>\n<|im_start|>assistant\nIt is four.<|im_end|>\n"
        "<|im_start|>user\nAnd three and three?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nYou.\n</think>\n\nIt is six.<|im_end|>»\n",
        prefix_stable=False,
        kind="qwen",
    ),
    "qwen3 without a thought": Family(
        QWEN3,
        IM,
        {**IM_CONFIG, "bos_token": None},
        chat(*TALK),
        "<|im_start|>user\nWhat is two and two?<|im_end|>\n<|im_start|>assistant\nIt is four.<|im_end|>\n"
        "<|im_start|>user\nAnd three and three?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\n\n</think>\n\nIt is six.<|im_end|>»\n",
        prefix_stable=False,
        kind="qwen",
    ),
    "generation tags": Family(
        GENERATION,
        IM,
        {**IM_CONFIG, "bos_token": None},
        chat(*TALK),
        "<|im_start|>user\nWhat is two and two?<|im_end|>\n<|im_start|>assistant\n«It is four.<|im_end|>»\n"
        "<|im_start|>user\nAnd three and three?<|im_end|>\n<|im_start|>assistant\n«It is six.<|im_end|>»\n",
    ),
}


def backend(specials: tuple[str, ...], kind: str = "bytes") -> tokenizers.Tokenizer:
    """A small tokenizer with the parts that those of the families have."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if kind in ("sentencepiece", "gemma"):
        made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        replace, strip = normalizers.Replace(" ", "▁"), []
        made.normalizer = replace
        if kind == "sentencepiece":
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
            strip = [decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
        alphabet = sorted({c for text in TEXTS for c in text} | set("▁[/]<|>_0123456789:+'"))
        first = [*specials, *(f"<0x{n:02X}>" for n in range(256))]
        # Only to learn from: like SentencePiece's trainer, which keeps words and line ends apart.
        parts = [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split(Regex("\n+"), "isolated")]
        made.pre_tokenizer = pre_tokenizers.Sequence(parts)
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=first, initial_alphabet=alphabet, show_progress=False
        )
        made.train_from_iterator(TEXTS, trainer)
        fields = json.loads(made.to_str())
        fields["pre_tokenizer"] = None
        fields["added_tokens"] = [token for token in fields["added_tokens"] if token["content"] in specials]
        return tokenizers.Tokenizer.from_str(json.dumps(fields))
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind in ("llama3", "qwen"):
        words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(words), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    made.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in specials])
    made.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    if kind == "llama3":
        bos = specials[0]
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return made


def write_folder(folder, family: Family) -> None:
    """Writes the files of a Hugging Face tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    backend(family.specials, family.kind).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": family.template, **family.config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
