import numpy as np
import pytest
import tensorflow_datasets as tfds

from rlhf_jax.data import DataError, parse_demonstration, parse_rated, read_tfds
from rlhf_jax.data.readers.tfds import splits


class MiniPairs(tfds.core.GeneratorBasedBuilder):
    """Rows as any TFDS data set has them: bytes, arrays, nested features."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "document": tfds.features.Text(),
            "response": tfds.features.Text(),
            "ratings": tfds.features.Sequence(np.float32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for n in range(6):
            yield n, {"document": f"prompt {n}", "response": "" if n == 3 else f"café {n}", "ratings": [n, n + 1]}


FIELDS = {"prompt": "document"}


def test_rows_are_those_that_jsonl_would_give(tmp_path):
    rows, bad = read_tfds("mini_pairs", "train", parse_rated, "skip", fields=FIELDS, data_dir=tmp_path)
    assert sorted(row.response for row in rows) == [f"café {n}" for n in (0, 1, 2, 4, 5)]
    for row in rows:
        assert row.prompt.removeprefix("prompt ") == row.response.removeprefix("café ")
        np.testing.assert_array_equal(row.ratings, [int(row.prompt[-1]), int(row.prompt[-1]) + 1])
    assert len(bad) == 1
    assert bad[0].startswith("mini_pairs[train] row ")
    assert "field 'response': expected non-empty text, found '' (str)" in bad[0]
    with pytest.raises(DataError, match=r"row \d: field 'response'"):
        read_tfds("mini_pairs", "train", parse_demonstration, fields=FIELDS, data_dir=tmp_path)


def test_the_package_s_own_data_set_is_known(miniature):
    rows, bad = read_tfds(
        "human_sentiment", "test", lambda row, where: (row["id"], row["text"], where), data_dir=miniature
    )
    assert rows
    assert bad == []
    assert all(isinstance(text, str) and where.startswith("human_sentiment[test] row ") for _, text, where in rows)


def test_an_unknown_name_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no_such_set: no such file or folder, and TFDS knows no data set of this name"):
        read_tfds("no_such_set", "train", parse_demonstration, data_dir=tmp_path)
    for name in ("org/pairs", "pairs.csv", "./pairs", "mini_pairs/large", "mini_pairs:9.9.9"):
        with pytest.raises(DataError, match=f"TFDS knows no .* write hf:{name} for a name on the Hugging Face hub"):
            read_tfds(name, "train", parse_demonstration, data_dir=tmp_path)


def test_splits_are_named(tmp_path, miniature):
    assert splits("mini_pairs", data_dir=tmp_path) == ["train"]
    assert sorted(splits("human_sentiment", data_dir=miniature)) == ["test", "train", "validation"]


@pytest.mark.parametrize("split", ["validation", "train[", "train[:x%]", ""])
def test_a_split_that_is_not_there_is_an_error(tmp_path, split):
    with pytest.raises(DataError, match=r"mini_pairs: there is no split '.*'; it has train and parts of them"):
        read_tfds("mini_pairs", split, parse_demonstration, fields=FIELDS, data_dir=tmp_path)


def test_a_part_of_a_split_can_be_read(tmp_path):
    parts = [
        read_tfds("mini_pairs", part, parse_rated, "skip", fields=FIELDS, data_dir=tmp_path)[0]
        for part in ("train[:2]", "train[2:]", "train")
    ]
    assert [row.response for row in parts[0] + parts[1]] == [row.response for row in parts[2]]


def test_files_that_need_tensorflow_are_refused(tmp_path):
    read_tfds("mini_pairs", "train", parse_demonstration, "skip", fields=FIELDS, data_dir=tmp_path)
    info = tmp_path / "mini_pairs" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match=r"1\.0\.0: expected array_record files, found tfrecord"):
        read_tfds("mini_pairs", "train", parse_demonstration, "skip", fields=FIELDS, data_dir=tmp_path)
