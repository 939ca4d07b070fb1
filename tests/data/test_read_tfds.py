import numpy as np
import pytest
import tensorflow_datasets as tfds

from rlhf_jax.data import DataError, parse_demonstration, parse_rated, read_tfds


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
    with pytest.raises(DataError, match="no_such_set: TFDS knows no data set of this name"):
        read_tfds("no_such_set", "train", parse_demonstration, data_dir=tmp_path)


def test_files_that_need_tensorflow_are_refused(tmp_path):
    read_tfds("mini_pairs", "train", parse_demonstration, "skip", fields=FIELDS, data_dir=tmp_path)
    info = tmp_path / "mini_pairs" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match=r"1\.0\.0: expected array_record files, found tfrecord"):
        read_tfds("mini_pairs", "train", parse_demonstration, "skip", fields=FIELDS, data_dir=tmp_path)
