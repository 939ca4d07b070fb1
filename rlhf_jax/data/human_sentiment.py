"""The data set ``human_sentiment``: 23,703 sentences of four domains, each with every single rating people gave it.

A TFDS builder (``tfds.builder("human_sentiment")`` works once this module is imported) and ``load``, which stages use.
Files are array_record and nothing here needs TensorFlow.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds

from rlhf_jax.data import hutto
from rlhf_jax.data.hutto import PROMPTS, Sentence
from rlhf_jax.data.preparing import prepared

SPLITS = ("train", "validation", "test")


class HumanSentiment(tfds.core.GeneratorBasedBuilder):
    """Sentences of movie reviews, product reviews, tweets and editorials, rated from -4 to 4 by 15 to 99 people."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "23,703 sentences, 536,520 ratings; splits by the hash of the id."}  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        # TFDS constructs builders with its own keywords (data_dir, config, version, ...); only the format is ours.
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentences of four domains with the sentiment ratings of every single rater.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "domain": tfds.features.ClassLabel(names=list(PROMPTS)),
                    "text": tfds.features.Text(),
                    "ratings": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                }
            ),
            homepage="https://github.com/cjhutto/vaderSentiment",
            license="MIT",
            citation="Hutto & Gilbert, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media "
            "Text, ICWSM 2014",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict]]]:
        sdist = hutto.obtain(dl_manager.download_dir, sha256=hutto.SDIST_SHA256)
        sentences = list(hutto.read_sentences(sdist, counts=hutto.COUNTS))
        return {split: self._generate_examples(sentences, split) for split in SPLITS}

    def _generate_examples(self, sentences: list[Sentence], split: str) -> Iterator[tuple[str, dict]]:
        for sentence in sentences:
            if hutto.split_of(sentence.id) == split:
                yield sentence.id, sentence._asdict()


def prepare(data_dir: str | os.PathLike[str] | None = None) -> HumanSentiment:
    """Prepare the data set where it is not prepared yet; interrupted or run twice, it leaves nothing half-done.

    Args:
        data_dir: the TFDS data directory; TFDS's own default if None.

    Returns:
        The builder, ready to be read.

    Raises:
        DataError: if the source cannot be obtained or read; the text says which file to put where.
    """
    return prepared(lambda: HumanSentiment(data_dir=data_dir))


def load(split: str, data_dir: str | os.PathLike[str] | None = None) -> list[Sentence]:
    """Load one split, prepared on first use, sorted by id.

    Args:
        split: "train", "validation" or "test".
        data_dir: the TFDS data directory; TFDS's own default if None.

    Returns:
        The sentences with their ratings.

    Raises:
        ValueError: for an unknown split.
        DataError: if the data set is not prepared and its source cannot be obtained.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(SPLITS)}")
    return list(_read(str(prepare(data_dir).data_path), split))


@functools.lru_cache(maxsize=len(SPLITS))
def _read(folder: str, split: str) -> tuple[Sentence, ...]:
    """Read a split once a process: every stage of a run and its baselines ask for it, and reading takes seconds."""
    domains = list(PROMPTS)

    def sentence(record: dict[str, Any]) -> Sentence:
        domain, ratings = domains[int(record["domain"])], np.asarray(record["ratings"], np.int32)
        ratings.flags.writeable = False  # several callers hold it
        return Sentence(_text(record["id"]), domain, _text(record["text"]), ratings)

    rows = grain.MapDataset.source(tfds.builder_from_directory(folder).as_data_source(split)).map(sentence)
    # By index: iterating would start a pool of threads, which takes five times as long for rows as small as these.
    return tuple(sorted((rows[i] for i in range(len(rows))), key=lambda row: row.id))


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value
