"""From a data config to rows: which split is trained on, which is held out, and what becomes of chats."""

import json
import typing
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
import tiny_task

from rlhf_jax import data, stages
from rlhf_jax.data import DataError, Demonstration, write_jsonl
from rlhf_jax.data.parts import hold_out
from rlhf_jax.data.rows import Dialogue, Message
from rlhf_jax.stages import DataConfig, opinions, sources

SAMPLES = Path(__file__).parent / "samples"


def raw(name):
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def write(folder, **splits):
    """A folder with a .jsonl file a split."""
    for name, rows in splits.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return str(folder)


def numbered(name, count=3):
    return [{"prompt": f"{name} {i}", "response": "c", "chosen": "c", "rejected": "d"} for i in range(count)]


def asked(rows):
    return [row.prompt for row in rows]


@pytest.fixture
def tokenizer(sft_run):
    return sft_run.tokenizer


# ---- splits ---------------------------------------------------------------------------------------------------------


def test_ultrafeedback_has_splits_for_each_purpose(tmp_path):
    names = [f"{part}_{use}" for part in ("train", "test") for use in ("prefs", "sft", "gen")]
    config = DataConfig(source=write(tmp_path, **{name: numbered(name) for name in names}))
    shown = sources.demonstrations(config)
    assert asked(shown.train) == [f"train_sft {i}" for i in range(3)]
    assert sorted(asked([*shown.validation, *shown.test])) == [f"test_sft {i}" for i in range(3)]
    found = sources.prompts(config)
    assert asked(found.train) == [f"train_prefs {i}" for i in range(3)]
    assert sorted(asked([*found.validation, *found.test])) == [f"test_prefs {i}" for i in range(3)]
    named = DataConfig(source=config.source, split="train_gen", heldout="test_prefs", test="test_gen")
    shown = sources.demonstrations(named)
    assert [asked(part)[0] for part in shown[:3]] == ["train_gen 0", "test_prefs 0", "test_gen 0"]


@pytest.mark.parametrize(
    ("splits", "held"),
    [
        (("train", "validation", "test"), "validation test"),
        (("train", "validation"), "validation"),
        (("train", "test"), "test"),
        (("pairs", "test"), None),  # which of them to train on?
        (("train",), ""),
        (("pairs",), ""),
    ],
)
def test_validation_and_test_are_held_out_or_one_of_them_halved_or_two_tenths(tmp_path, splits, held):
    config = DataConfig(source=write(tmp_path, **{name: numbered(name, 20) for name in splits}))
    if held is None:
        with pytest.raises(
            DataError, match=r"which split to train on\? It has pairs, test; name one with --data\.split"
        ):
            sources.demonstrations(config)
        return
    train, validation, test, notes, *_ = sources.demonstrations(config)
    assert not notes
    if " " in held:
        assert [asked(part) for part in (validation, test)] == [[f"{n} {i}" for i in range(20)] for n in held.split()]
    elif held:
        assert asked(train) == [f"train {i}" for i in range(20)]
        assert (len(validation), len(test)) == (10, 10)
        assert {*asked(validation), *asked(test)} == {f"{held} {i}" for i in range(20)}
    else:
        assert (len(train), len(validation), len(test)) == (16, 2, 2)
        assert {*asked(train), *asked(validation), *asked(test)} == {f"{splits[0]} {i}" for i in range(20)}


class ManyOrFewSplits(tfds.core.GeneratorBasedBuilder):
    """A TFDS data set in several configs, each with splits of its own."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: typing.ClassVar = [
        tfds.core.BuilderConfig(name=name) for name in ("train", "train_test", "train_validation_test", "pairs_test")
    ]

    def _info(self):
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in numbered("")[0]})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in self.builder_config.name.split("_")}

    def _generate_examples(self, split):
        yield from enumerate(numbered(split, 20))


@pytest.mark.parametrize(
    ("splits", "split", "held"),
    [
        ("train_validation_test", "", "validation test"),
        ("train_validation_test", "validation", "test"),
        ("train_validation_test", "train[:10]+validation", "test"),
        ("train_test", "", "test"),
        ("train", "", ""),
        ("pairs_test", "pairs", "test"),
    ],
)
def test_of_tfds_the_same_is_held_out(tmp_path, monkeypatch, splits, split, held):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    config = DataConfig(source=f"many_or_few_splits/{splits}", split=split)
    train, validation, test, *_ = sources.demonstrations(config)
    assert not {*asked(train)} & {*asked(validation), *asked(test)}
    assert not {*asked(validation)} & {*asked(test)}
    if held:
        assert {*asked(validation), *asked(test)} == {f"{name} {i}" for name in held.split() for i in range(20)}
    else:
        assert {*asked(train), *asked(validation), *asked(test)} == {f"train {i}" for i in range(20)}
        folder = write(tmp_path, train=numbered("train", 20))
        assert {*asked(test)} == {*asked(sources.demonstrations(DataConfig(source=folder)).test)}


def test_of_tfds_a_split_has_to_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"which split to train on\? It has pairs, test; name one with --data\.split"):
        sources.demonstrations(DataConfig(source="many_or_few_splits/pairs_test"))
    with pytest.raises(DataError, match="there is no split 'dev'; it has train"):
        sources.demonstrations(DataConfig(source="many_or_few_splits/train", heldout="dev"))


def test_what_is_held_out_of_a_folder_is_what_is_held_out_of_the_file(tmp_path):
    """By hash of the prompt, wherever the rows are."""
    folder = write(tmp_path, train=numbered("P", 30))
    by_folder = sources.demonstrations(DataConfig(source=folder))
    by_file = sources.demonstrations(DataConfig(source=str(tmp_path / "train.jsonl")))
    assert [asked(part) for part in by_folder[:3]] == [asked(part) for part in by_file[:3]]


def test_what_is_held_out_may_be_elsewhere(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, train=numbered(name))
    write(tmp_path, three=numbered("three"))
    file, other = tmp_path / "one" / "train.jsonl", tmp_path / "two"
    for source in (file, file.parent):
        for heldout in (other, other / "train.jsonl"):
            parts = sources.demonstrations(DataConfig(source=str(source), heldout=str(heldout)))
            assert asked(parts.train)[0] == "one 0"
            assert sorted(asked([*parts.validation, *parts.test])) == ["two 0", "two 1", "two 2"]
            more = DataConfig(source=str(source), heldout=str(heldout), test=str(tmp_path / "three.jsonl"))
            parts = sources.demonstrations(more)
            assert [asked(part)[0] for part in parts[:3]] == ["one 0", "two 0", "three 0"]
    with pytest.raises(
        DataError, match=r"data\.heldout validation: expected a \.jsonl, \.json or \.parquet file or a folder"
    ):
        sources.demonstrations(DataConfig(source=str(file), heldout="validation"))


def test_a_split_that_is_not_there_is_named_with_those_that_are(tmp_path):
    folder = write(tmp_path, train=numbered("P"), test=numbered("Q"))
    for change in ({"split": "training"}, {"heldout": "validation"}):
        with pytest.raises(DataError, match=r"there is no split '(training|validation)'; it has test, train"):
            sources.demonstrations(DataConfig(source=folder, **change))
    with pytest.raises(ValueError, match=r"data\.test a\.jsonl is data\.heldout too"):
        DataConfig(source="b.jsonl", heldout="a.jsonl", test="a.jsonl")
    for name in ("heldout", "test"):
        with pytest.raises(ValueError, match=rf"data\.{name} a\.jsonl: human_sentiment has validation and test splits"):
            DataConfig(**{name: "a.jsonl"})
    for source in ("human_sentiment", "pairs.jsonl"):
        with pytest.raises(ValueError, match=r"data\.split train: .* has no splits to choose from"):
            DataConfig(source=source, split="train")


def test_the_hub_is_asked_for_names_with_hf(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="pip install 'datasets>=4.0'")
    asked_for = []

    def load_dataset(name, config):
        asked_for.append((name, config))
        return datasets.DatasetDict(train_sft=datasets.Dataset.from_list(raw("messages")))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    train, validation, test, *_ = sources.demonstrations(DataConfig(source="hf:org/chats:small"))
    assert (len(train), len(validation), len(test)) == (4, 1, 1)
    assert set(asked_for) == {("org/chats", "small")}


# ---- layouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["hh", "ultrafeedback", "tldr_comparisons", "tldr_preference", "shp"])
def test_comparisons_of_every_layout_become_pairs_the_preferred_response_first(sample, tokenizer):
    config = DataConfig(source=str(SAMPLES / f"{sample}.jsonl"), max_length=1024)
    drawn = opinions.preferences(config, tokenizer, min_share=0.5, seed=0)
    kept = drawn.epoch(0)
    held = [drawn.heldout(1), drawn.test(1)]
    assert [len(part.pairs) for part in held] == [1, 1]
    ties = sample == "ultrafeedback" and not any(0.5 in part.share for part in held)  # no pair to train on
    assert len(kept) == len(raw(sample)) - 2 - ties
    given = {tuple(sorted(texts(row))): texts(row)[0] for row in raw(sample)}
    for example in kept:
        good, bad = (tokenizer.decode_response(t[s:]) for t, s in zip(example.tokens, example.starts, strict=True))
        assert given[tuple(sorted((good, bad)))] == good


def texts(row):
    """The better and the worse response of a row of any of the samples, taken apart by hand."""
    if "summaries" in row:
        both = [one["text"].strip() for one in row["summaries"]]
        return both if row["choice"] == 0 else both[::-1]
    if "history" in row:
        return [row[f"human_ref_{side}"] for side in ("AB" if row["labels"] else "BA")]
    sides = [row["chosen"], row["rejected"]]
    if isinstance(sides[0], list):
        return [side[-1]["content"] for side in sides]
    # The space that such data sets put before a response is the one that the tokenizer puts there.
    return [side.split("Assistant: ")[-1].strip() if "prompt" not in row else side.removeprefix(" ") for side in sides]


@pytest.mark.parametrize("sample", ["hh", "sharegpt", "messages", "alpaca", "tldr_preference"])
def test_demonstrations_of_every_layout_are_encoded(sample, tokenizer):
    config = DataConfig(source=str(SAMPLES / f"{sample}.jsonl"), max_length=1024)
    rows = sources.demonstrations(config)
    assert {type(row) for part in rows[:3] for row in part} <= {Demonstration, Dialogue}
    examples = sources.encode_demonstrations(rows.train, tokenizer, config)
    for row, example in zip(rows.train, examples, strict=True):
        whole = tokenizer.decode(example.tokens[0])
        said = [turn.content for turn in row.messages] if isinstance(row, Dialogue) else [row.response]
        assert all(text in whole for text in said)


def test_the_tokenizer_learns_from_chats(tmp_path):
    chat = (Message("user", "zebra zebra"), Message("assistant", "quokka quokka"))
    rows = [Dialogue(chat, "x"), Demonstration(chat[:1], "quokka", "x"), Demonstration("zebra", "quokka", "x")]
    for row in rows:
        made = sources.tokenizer(tmp_path, [row] * 20, 320)
        for word in ("zebra", "quokka"):
            assert len(made.encode(" " + word)) < 4  # seven bytes and more without having seen it


def test_rows_of_one_chat_are_held_out_together():
    def turns(*said):
        return tuple(Message(("user", "assistant")[i % 2], text) for i, text in enumerate(said))

    rows = [Dialogue(turns(f"Q{i}", f"A{j}"), f"{i}.{j}") for i in range(10) for j in range(3)]
    train, held = hold_out("chats", rows, count=1)
    assert len(held) == 3
    assert len({row.messages[0] for row in held}) == 1
    # A longer prompt that opens with the same question belongs to it too.
    pairs = [
        Demonstration(turns(*[f"Q{i}", "a", "b"][: 1 + 2 * j]), "r", f"{i}.{j}") for i in range(10) for j in range(2)
    ]
    held = hold_out("chats", pairs, count=1)[1]
    assert [row.where[0] for row in held] == [held[0].where[0]] * 2
    assert len(train) == 27


# ---- once -----------------------------------------------------------------------------------------------------------


def test_a_source_is_read_once_whatever_for_and_its_bad_rows_are_listed_once(tmp_path, monkeypatch, capsys):
    from rlhf_jax.data import reading

    opened = []

    def read_jsonl(path, parse, on_bad_row):
        opened.append(path)
        return data.read_jsonl(path, parse, on_bad_row)

    monkeypatch.setattr(reading, "read_jsonl", read_jsonl)
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in numbered("P", 20)) + "no JSON\n")
    config = DataConfig(source=str(file), on_bad_row="skip")
    task = sources.find_task(config)
    for _ in range(2):
        assert len(sources.prompts(config, task).train) == 16
        assert len(task.opinions(config).train) == 16
    assert opened == [str(file)]
    said = capsys.readouterr().err
    assert said.count("left out 1 bad rows:") == 1
    assert said.count(f"{file}:21: expected a JSON object") == 1


def test_what_is_moved_between_files_is_said_once(tmp_path, capsys):
    names = {"train": ["a", "b", "c"], "held": ["c", "d", "e", "f"]}
    for name, prompts in names.items():
        write(tmp_path, **{name: [{"prompt": prompt, "response": "r"} for prompt in prompts]})
    config = DataConfig(source=str(tmp_path / "train.jsonl"), heldout=str(tmp_path / "held.jsonl"))
    task = sources.find_task(config)
    for _ in range(2):
        parts = sources.demonstrations(config, task)
    assert asked(parts.train) == ["a", "b"]
    assert sorted(asked([*parts.validation, *parts.test])) == ["c", "c", "d", "e", "f"]
    said = capsys.readouterr().err
    assert said.count("1 train rows were moved to the validation or test rows") == 1
    assert str(tmp_path / "train.jsonl") in said


def test_fewer_held_out_rows_are_spread_over_those_of_each_part(tmp_path):
    folder = write(tmp_path, **{name: numbered(name, 20) for name in ("train", "validation", "test")})
    parts = sources.demonstrations(DataConfig(source=folder, heldout_limit=4))
    assert [len(part) for part in parts[:3]] == [20, 4, 4]
    assert asked(parts.test) == ["test 0", "test 6", "test 12", "test 19"]


def test_a_policy_is_trained_on_chats_from_a_folder(tmp_path, one_device):
    """Multi-turn chats, a folder with splits, from the row to the loss."""
    (tmp_path / "chats").mkdir()
    others = raw("messages")
    for row in others:  # the same questions would stay with those of the other file
        row["messages"][0]["content"] += " Tell me."
        row["prompt"] = row["messages"][0]["content"]
    write(tmp_path / "chats", train=raw("sharegpt"), test=others)
    config = tiny_task.sft_config(tmp_path, tmp_path / "run", epochs=1, row_length=512, rows=2)
    config = stages.SFTConfig(**{**vars(config), "data": DataConfig(source=str(tmp_path / "chats"), max_length=512)})
    run = stages.sft(config, mesh=one_device)
    assert run.summary["training_rows"] == len(raw("sharegpt"))
    assert 0 < run.summary["heldout_loss"] < 10


def test_comparisons_from_a_folder_of_parquet_are_those_of_the_file(tmp_path, tokenizer):
    datasets = pytest.importorskip("datasets", reason="pip install 'datasets>=4.0'")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(raw("hh")).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    drawn = [
        opinions.comparisons(DataConfig(source=str(source), max_length=1024), tokenizer, group_size=2, seed=0).epoch(0)
        for source in (tmp_path, SAMPLES / "hh.jsonl")
    ]
    for one, other in zip(*drawn, strict=True):
        assert [t.tolist() for t in one.tokens] == [t.tolist() for t in other.tokens]
