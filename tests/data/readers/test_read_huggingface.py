"""Hugging Face data sets in every form they have on disk, and what is said of those that cannot be read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.data import DataError, layouts, read_jsonl
from rlhf_jax.data.readers.huggingface import is_huggingface, read_huggingface, splits

datasets = pytest.importorskip("datasets", reason="pip install 'datasets>=4.0'")

SAMPLES = Path(__file__).parents[1] / "samples"
READ = {
    "hh": layouts.comparison,
    "ultrafeedback": layouts.comparison,
    "tldr_comparisons": layouts.comparison,
    "tldr_preference": layouts.comparison,
    "shp": layouts.comparison,
    "alpaca": layouts.demonstration,
    "sharegpt": layouts.demonstration,
    "messages": layouts.demonstration,
    "kto": layouts.labelled,
    "kto_chat": layouts.labelled,
}


def raw(name):
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def table(name):
    return datasets.Dataset.from_list(raw(name))


def same(found, want):
    """The same rows but for where they stand."""
    assert len(found) == len(want)
    for one, other in zip(found, want, strict=True):
        assert type(one) is type(other)
        for name, a, b in zip(one._fields, one, other, strict=True):
            if isinstance(a, np.ndarray):
                np.testing.assert_array_equal(a, b)
            else:
                assert name == "where" or a == b


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("sample", sorted(READ))
def test_a_layout_says_the_same_as_parquet_on_disk_and_as_jsonl(tmp_path, sample):
    want, _ = read_jsonl(SAMPLES / f"{sample}.jsonl", READ[sample])
    table(sample).to_parquet(str(tmp_path / "rows.parquet"))
    table(sample).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "train.jsonl").write_bytes((SAMPLES / f"{sample}.jsonl").read_bytes())
    (tmp_path / "rows.json").write_text(json.dumps(raw(sample)))
    for source in ("rows.parquet", "saved", "lines", "rows.json"):
        rows, bad = read_huggingface(tmp_path / source, "train", READ[sample])
        assert not bad
        same(rows, want)


def test_a_saved_dictionary_has_its_splits(tmp_path):
    whole = table("ultrafeedback")
    parts = {"train_prefs": whole.select(range(6)), "test_prefs": whole.select(range(6, 10))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert splits(tmp_path / "saved") == ["train_prefs", "test_prefs"]
    rows, _ = read_huggingface(tmp_path / "saved", "test_prefs", layouts.comparison)
    assert [row.where for row in rows] == [f"{tmp_path / 'saved'}[test_prefs] row {i}" for i in range(4)]
    want, _ = read_jsonl(SAMPLES / "ultrafeedback.jsonl", layouts.comparison)
    same(rows, want[6:])
    with pytest.raises(DataError, match=r"saved: there is no split 'train'; it has train_prefs, test_prefs"):
        read_huggingface(tmp_path / "saved", "train", layouts.comparison)


def test_a_table_saved_in_numpy_s_format_gives_plain_rows(tmp_path):
    table("shp").with_format("numpy").save_to_disk(str(tmp_path / "saved"))
    rows, _ = read_huggingface(tmp_path / "saved", "train", lambda row, where: row)
    assert rows == raw("shp")


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["train.parquet", "test.parquet"], {"test": 1, "train": 1}),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train": 2}),
        (["data/train_prefs-00000-of-00001.parquet", "data/test_gen-00000-of-00001.parquet"],
         {"test_gen": 1, "train_prefs": 1}),
        (["data/train-00000-of-00002-a09b74b3ef9c3b56.parquet", "data/train-00001-of-00002-13be0f5a2d5dd1a3.parquet"],
         {"train": 2}),
        (["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"], {"test": 1, "train": 2}),
        (["train.jsonl", "validation.jsonl"], {"train": 1, "validation": 1}),
        (["train.parquet", "train.jsonl", "dataset_infos.json"], {"train": 1}),
        (["alpaca_data.json", "dataset_info.json"], {"alpaca_data": 1}),
        (["train.jsonl.gz"], {"train": 1}),
    ],
    ids=["files", "shards", "ultrafeedback", "fingerprints", "numbered", "lines", "two kinds", "json", "zipped"],
)  # fmt: skip
def test_a_folder_has_its_splits_in_its_file_names(tmp_path, files, found):
    for number, name in enumerate(files):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        rows = [{"prompt": f"P{number}-{i}", "response": "r"} for i in range(2)]
        if "dataset_info" in name:
            path.write_text("{}")
        elif path.suffix == ".parquet":
            datasets.Dataset.from_list(rows).to_parquet(str(path))
        elif path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            compression = "gzip" if path.suffix == ".gz" else None
            datasets.Dataset.from_list(rows).to_json(str(path), compression=compression)
    assert splits(tmp_path) == list(found)
    prompts = set()
    for split, count in found.items():
        rows, _ = read_huggingface(tmp_path, split, layouts.demonstration)
        assert len(rows) == 2 * count
        prompts |= {row.prompt for row in rows}
    assert len(prompts) == 2 * sum(found.values())


def test_a_bad_row_names_the_line_or_the_row(tmp_path):
    rows = [{"prompt": "P", "response": "r"}, {"prompt": "P", "response": " "}]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    with pytest.raises(DataError, match=r"rows\.parquet row 1: field 'response': expected non-empty text, found ' '"):
        read_huggingface(tmp_path / "rows.parquet", "train", layouts.demonstration)
    good, bad = read_huggingface(tmp_path / "rows.parquet", "train", layouts.demonstration, "skip")
    assert (len(good), len(bad)) == (1, 1)
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "train.jsonl").write_text('{"prompt": "P", "response": "r"}\n{"prompt"\n')
    with pytest.raises(DataError, match=r"train\.jsonl:2: expected a JSON object"):
        read_huggingface(tmp_path / "lines", "train", layouts.demonstration)


def test_a_file_of_another_kind_says_how_to_write_it_anew(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt,response\nP,r\n")
    with pytest.raises(DataError, match=r"rows\.csv: expected a \.parquet, .*load_dataset\('csv', .*to_json"):
        read_huggingface(tmp_path / "rows.csv", "train", layouts.demonstration)


def test_a_folder_without_data_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        DataError, match=r"expected a data set written by save_to_disk, or \.parquet, .* check the path"
    ):
        splits(tmp_path)
    for config in ("helpful", "harmless"):
        (tmp_path / config / "more").mkdir(parents=True)
        (tmp_path / config / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"name one of the folders in it \(harmless, helpful\)"):
        splits(tmp_path)
    with pytest.raises(DataError, match=r"none: no such file or folder"):
        splits(tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"a text of another kind"])
def test_a_broken_parquet_file_is_named(tmp_path, content):
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"train\.parquet: cannot be read: .*copy it again"):
        read_huggingface(tmp_path, "train", layouts.demonstration)


def test_a_file_that_was_cut_off_is_named(tmp_path):
    table("shp").to_parquet(str(tmp_path / "rows.parquet"))
    whole = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"rows\.parquet: cannot be read"):
        read_huggingface(tmp_path / "rows.parquet", "train", layouts.comparison)
    table("shp").save_to_disk(str(tmp_path / "saved"))
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:100])
    with pytest.raises(DataError, match="saved: cannot be read"):
        read_huggingface(tmp_path / "saved", "train", layouts.comparison)
    (tmp_path / "rows.json").write_text('[{"prompt": "P", ')
    with pytest.raises(DataError, match=r"rows\.json: cannot be read"):
        read_huggingface(tmp_path / "rows.json", "train", layouts.demonstration)


# ---- the hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """What a test says the hub answers, and what it was asked."""
    asked, answers = [], []

    def load_dataset(*args, **options):
        asked.append((*args, options))
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked, answers


def test_a_name_on_the_hub_may_have_a_config(hub):
    asked, answers = hub
    answers += [datasets.DatasetDict(train=table("hh")), datasets.DatasetDict(train=table("shp"), test=table("shp"))]
    rows, _ = read_huggingface("hf:org/pairs", "train", layouts.comparison)
    assert rows[3].where == "hf:org/pairs[train] row 3"
    assert splits("hf:org/pairs:askculinary") == ["train", "test"]
    assert asked == [("org/pairs", None, {}), ("org/pairs", "askculinary", {})]  # no trust_remote_code


def test_a_data_set_with_a_script_is_read_from_its_parquet_copy(hub):
    asked, answers = hub
    answers += [
        RuntimeError("Dataset scripts are no longer supported, but found tldr.py"),
        datasets.DatasetDict(train=table("tldr_comparisons")),
    ]
    rows, _ = read_huggingface("hf:org/tldr:comparisons", "train", layouts.comparison)
    assert len(rows) == 9
    assert asked[1] == ("org/tldr", {"data_dir": "comparisons", "revision": "refs/convert/parquet"})


def test_a_config_may_be_a_folder_of_the_data_set(hub):
    asked, answers = hub
    answers += [ValueError("BuilderConfig 'helpful-base' not found."), datasets.DatasetDict(test=table("hh"))]
    assert splits("hf:Anthropic/hh-rlhf:helpful-base") == ["test"]
    assert asked[1] == ("Anthropic/hh-rlhf", {"data_dir": "helpful-base"})


def test_datasets_itself_finds_the_splits_of_such_folders(tmp_path):
    """What the two above rely on: ``data_dir`` picks one part, whose splits are files or folders."""
    for part in ("one", "two"):
        (tmp_path / "repository" / part / "train").mkdir(parents=True)
        table("hh").to_parquet(str(tmp_path / "repository" / part / "train" / "0000.parquet"))
        (tmp_path / "repository" / part / "test").mkdir()
        table("hh").select(range(2)).to_parquet(str(tmp_path / "repository" / part / "test" / "0000.parquet"))
    where = {"cache_dir": str(tmp_path / "cache")}
    with pytest.raises(ValueError, match="BuilderConfig 'one' not found"):
        datasets.load_dataset(str(tmp_path / "repository"), "one", **where)
    loaded = datasets.load_dataset(str(tmp_path / "repository"), data_dir="one", **where)
    assert {name: len(part) for name, part in loaded.items()} == {"train": 10, "test": 2}


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'org/pairs' on the Hub"),
        ValueError("Config name is missing."),
        RuntimeError("no"),
    ],
)
def test_what_was_tried_and_what_to_do_is_said_when_the_hub_cannot_be_read(hub, error):
    hub[1].append(error)
    with pytest.raises(DataError) as caught:
        splits("hf:org/pairs")
    said = str(caught.value)
    assert said.startswith(f"hf:org/pairs: datasets.load_dataset('org/pairs', None) failed: {type(error).__name__}")
    assert str(error) in said
    for advice in ("check the name", "hf:org/name:config", "datasets.load_dataset('org/pairs').save_to_disk(FOLDER)"):
        assert advice in said


def test_offline_is_an_error_that_says_so(tmp_path):
    """Really, and without a wait: in a process of its own, which is told that there is no network."""
    code = """
from rlhf_jax.data.readers.huggingface import splits
from rlhf_jax.data import DataError
try:
    splits("hf:org/no-such-pairs")
except DataError as error:
    print(error)
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("hf:org/no-such-pairs: datasets.load_dataset('org/no-such-pairs', None) failed: ")
    assert "offline" in done.stdout.lower()


def test_without_the_package_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    table("shp").to_parquet(str(tmp_path / "rows.parquet"))
    table("shp").save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "train.jsonl").write_bytes((SAMPLES / "shp.jsonl").read_bytes())
    (tmp_path / "rows.json").write_text(json.dumps(raw("shp")))
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source in (tmp_path / "rows.parquet", tmp_path / "saved", "hf:org/pairs"):
        with pytest.raises(DataError, match=r"needs the package datasets: pip install 'datasets>=4\.0'"):
            read_huggingface(source, "train", layouts.comparison)
    for source in (tmp_path / "lines", tmp_path / "rows.json"):  # they need nothing
        assert len(read_huggingface(source, "train", layouts.comparison)[0]) == 10


def test_which_sources_are_hugging_face_s(tmp_path):
    (tmp_path / "a.csv").write_text("")
    for source in ("hf:org/name", "a.parquet", "b/a.json", "a.jsonl.gz", str(tmp_path), str(tmp_path / "a.csv")):
        assert is_huggingface(source)
    for source in ("org/name", "human_sentiment", "a.jsonl", str(tmp_path / "none")):
        assert not is_huggingface(source)
