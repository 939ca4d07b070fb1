import collections

import numpy as np
import pytest

from rlhf_jax.data import DataError, hutto

COUNTS = {"movie": 60, "amazon": 12, "tweets": 12, "nyt": 12}


def test_reads_every_sentence_and_joins_by_id(sdist):
    sentences = list(hutto.read_sentences(sdist(), counts=COUNTS))
    assert collections.Counter(s.domain for s in sentences) == COUNTS
    by_id = {s.id: s for s in sentences}
    assert len(by_id) == sum(COUNTS.values())
    for domain, n in (("movie", 7), ("amazon", 7), ("amazon", 12)):  # the two files of amazon are in opposite order
        np.testing.assert_array_equal(by_id[f"{domain}/{n}"].ratings, [n % 5, -(n % 4), n % 3])
        assert by_id[f"{domain}/{n}"].text == f"Sentence {n} of {domain}, café & more."
    assert by_id["tweets/1"].text == "It\u2019s café time"  # not UTF-8
    assert not any("\r" in s.text or "\ufeff" in s.id for s in sentences)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tweets_GroundTruth.txt", b"1\t0.5\tHello", r"tweets_GroundTruth.txt: expected 12 sentences.* found 1 and 12"),
        ("tweets_GroundTruth.txt", b"1\t0.5\tA\n1\t0.5\tB", r"tweets_GroundTruth.txt:2: id '1' comes twice"),
        (
            "tweets_GroundTruth.txt",
            b"1\t0.5\tA\n77\t0.5\tB",
            r"tweets_GroundTruth.txt:2: id '77' has no row in tweets_anon",
        ),
        ("tweets_GroundTruth.txt", b"1\t0.5\t ", r"tweets_GroundTruth.txt:1: expected a sentence, found no text"),
        ("tweets_GroundTruth.txt", b"1\t0.5", r"tweets_GroundTruth.txt:1: expected 3 fields between tabs, found 2"),
        (
            "tweets_anonDataRatings.txt",
            b"1\t0\t1\t[1, 9]",
            r"anonDataRatings.txt:1: expected whole numbers from -4 to 4",
        ),
        ("tweets_anonDataRatings.txt", b"1\t0\t1\t[1,", r"tweets_anonDataRatings.txt:1: expected a list of ratings"),
    ],
)
def test_what_cannot_be_read_is_named(sdist, file, content, message):
    with pytest.raises(DataError, match=message):
        list(hutto.read_sentences(sdist({file: content}), counts=COUNTS))


def test_a_file_put_there_by_hand_is_used_and_checked(sdist):
    path = sdist()
    with pytest.raises(
        DataError, match=rf"{hutto.SDIST}: expected SHA-256 {hutto.SDIST_SHA256}, found .*put the right file there"
    ):
        hutto.obtain(path.parent)


def test_without_a_registry_the_error_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=rf"put {hutto.SDIST} into {tmp_path / 'downloads'} and run again"):
        hutto.obtain(tmp_path / "downloads")
    assert list((tmp_path / "downloads").iterdir()) == []


def test_splits_are_80_10_10_and_depend_on_the_id_only():
    shares = collections.Counter(hutto.split_of(f"movie/{n}") for n in range(20_000))
    assert shares["train"] / 20_000 == pytest.approx(0.8, abs=0.01)
    assert shares["validation"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert shares["test"] / 20_000 == pytest.approx(0.1, abs=0.01)
