import collections
import sys

import numpy as np
import pytest

from rlhf_jax.data import DataError, HumanSentiment, human_sentiment, hutto


def test_prepares_once_and_loads_every_sentence_in_one_split(miniature):
    loaded = {split: human_sentiment.load(split, miniature) for split in human_sentiment.SPLITS}
    (miniature / "downloads" / hutto.SDIST).unlink()
    human_sentiment._read.cache_clear()  # as in another process
    again = human_sentiment.load("train", miniature)  # reads what is prepared: the source is not needed any more
    assert [s.id for s in again] == [s.id for s in loaded["train"]]
    sentences = [s for split in loaded.values() for s in split]
    assert collections.Counter(s.domain for s in sentences) == hutto.COUNTS
    assert len({s.id for s in sentences}) == len(sentences)
    for split, rows in loaded.items():
        assert rows
        assert [s.id for s in rows] == sorted(s.id for s in rows)
        assert {hutto.split_of(s.id) for s in rows} == {split}
    assert "tensorflow" not in sys.modules


def test_what_is_loaded_is_what_was_read(miniature):
    source = {s.id: s for s in hutto.read_sentences(miniature / "downloads" / hutto.SDIST, counts=hutto.COUNTS)}
    for sentence in human_sentiment.load("test", miniature):
        expected = source[sentence.id]
        assert sentence._replace(ratings=None) == expected._replace(ratings=None)
        assert sentence.ratings.dtype == np.int32
        np.testing.assert_array_equal(sentence.ratings, expected.ratings)


def test_an_interrupted_preparation_leaves_no_data_set(miniature, monkeypatch):
    def stop(self, sentences, split):
        yield sentences[0].id, sentences[0]._asdict()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HumanSentiment, "_generate_examples", stop)
        with pytest.raises(KeyboardInterrupt):
            human_sentiment.load("train", miniature)
    assert not HumanSentiment(data_dir=miniature).is_prepared()
    assert len(human_sentiment.load("train", miniature)) > 10


def test_two_processes_may_prepare_at_once(miniature, monkeypatch):
    original = HumanSentiment._split_generators
    calls = []

    def overtaken(self, dl_manager):
        calls.append(self)
        if len(calls) == 1:  # while this one prepares, another begins and finishes
            HumanSentiment(data_dir=miniature).download_and_prepare()
        return original(self, dl_manager)

    monkeypatch.setattr(HumanSentiment, "_split_generators", overtaken)
    assert len(human_sentiment.load("train", miniature)) > 10
    assert len(calls) == 2
    leftovers = [path.name for path in (miniature / "human_sentiment").iterdir()]
    assert leftovers == ["1.0.0"]


def test_an_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match="split 'dev': expected one of train, validation, test"):
        human_sentiment.load("dev", tmp_path)


def test_the_real_data_set_has_the_published_counts():
    try:
        loaded = {split: human_sentiment.load(split) for split in human_sentiment.SPLITS}
    except DataError as error:
        pytest.skip(f"the real data set cannot be obtained here: {error}")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 18_988, "validation": 2_373, "test": 2_342}
    sentences = [s for rows in loaded.values() for s in rows]
    assert collections.Counter(s.domain for s in sentences) == hutto.COUNTS
    sizes = [len(s.ratings) for s in sentences]
    assert (sum(sizes), min(sizes), max(sizes)) == (536_520, 15, 99)
    first = next(s for s in sentences if s.id == "movie/3")
    assert first.text == "Effective but too tepid biopic"
    assert first.ratings.mean() == pytest.approx(-0.6)
