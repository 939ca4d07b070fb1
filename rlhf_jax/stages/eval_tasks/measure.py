"""A model's figures on tasks: what it makes of every row, and perplexity, accuracy or exact match from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rlhf_jax import parallel
from rlhf_jax.data import DataError, Tokenizer
from rlhf_jax.evaluation.task_figures import Parts
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.rollout.responses import response_tokens
from rlhf_jax.runs.likelihood import Likelihood, Said, windows
from rlhf_jax.runs.policy import SAMPLED
from rlhf_jax.runs.sampling import make_engine
from rlhf_jax.stages.eval_tasks.rows import Kind, TaskFile, TaskRow
from rlhf_jax.types import Model, Params


class Outcome(NamedTuple):
    """What a model makes of a task."""

    kind: Kind
    parts: Mapping[str, Parts]  # by the figure's name
    groups: list[str]  # [n], what the rows are about

    def figures(self) -> dict[str, float]:
        """Compute the figures alone, for a log."""
        return {name: float(parts.figure()) for name, parts in self.parts.items()}


class Tasks:
    """Tasks that are encoded once, and measured for any parameters of one model.

    Args:
        tasks: from ``read_tasks``.
        model: the language model as pure functions.
        tokenizer: the model's.
        mesh: devices that share the rows; those of the parameters if None.

    Raises:
        DataError: when a row is longer than what the model reads, or a chat template refuses it.
    """

    def __init__(self, tasks: Sequence[TaskFile], model: Model, tokenizer: Tokenizer, mesh: Mesh | None = None):
        self._likelihood = Likelihood(model, tokenizer.pad_id, mesh)
        made = {"perplexity": self._perplexity, "multiple choice": self._choice, "exact match": self._exact}
        self._model, self._tokenizer, self._mesh = model, tokenizer, mesh
        self._measures: dict[str, Callable[[Params], Outcome]] = {}
        for task in tasks:
            self._measures[task.name] = made[task.kind](task)

    def __call__(self, params: Params) -> dict[str, Outcome]:
        """Measure a model of these parameters on every task; outcomes by the tasks' names."""
        return {name: measure(params) for name, measure in self._measures.items()}

    def _perplexity(self, task: TaskFile) -> Callable[[Params], Outcome]:
        said, documents, tokens = [], [], []
        for i, row in enumerate(task.rows):
            if row.prompt:
                before = self._encoded_prompt(row)
                ids = np.concatenate([before, unended(self._tokenizer, row.texts[0])])
            else:
                ids, before = text_tokens(self._tokenizer, row.texts[0]), np.zeros(1)
            tokens.append(len(ids) - len(before))
            for begin, end, start in windows(len(ids), self._likelihood.room, len(before)):
                said.append(Said(ids[begin:end], start))
                documents.append(i)
        texts = [row.texts[0] for row in task.rows]
        below = {
            "perplexity": np.array(tokens, np.float64),
            "word_perplexity": np.array([max(1, len(text.split())) for text in texts], np.float64),
            "bits_per_byte": np.array([len(text.encode()) for text in texts], np.float64),
        }

        def measure(params: Params) -> Outcome:
            nats = -np.bincount(documents, self._likelihood(params, said), len(texts))
            parts = {
                name: Parts(nats / np.log(2), below[name])
                if name == "bits_per_byte"
                else Parts(nats, below[name], exponential=True)
                for name in below
            }
            return Outcome(task.kind, parts, task.groups)

        return measure

    def _choice(self, task: TaskFile) -> Callable[[Params], Outcome]:
        said = [self._answered(row, text) for row in task.rows for text in row.texts]
        owners = np.repeat(np.arange(len(task.rows)), [len(row.texts) for row in task.rows])
        lengths = np.array([len(text) for row in task.rows for text in row.texts], np.float64)

        def measure(params: Params) -> Outcome:
            logprobs = self._likelihood(params, said)
            parts = {
                name: Parts(_picked(scores, owners, task.rows), np.ones(len(task.rows)))
                for name, scores in (("accuracy", logprobs), ("accuracy_by_length", logprobs / lengths))
            }
            return Outcome(task.kind, parts, task.groups)

        return measure

    def _answered(self, row: TaskRow, text: str) -> Said:
        """Encode a prompt and a choice, without the token that would end it."""
        prompt = self._encoded_prompt(row)
        tokens = np.concatenate([prompt, unended(self._tokenizer, text)])
        if len(tokens) > self._likelihood.room:
            raise DataError(
                f"{row.where}: a prompt and a choice of {len(tokens)} tokens: the model reads "
                f"{self._likelihood.room}; shorten the row"
            )
        return Said(tokens, len(prompt))

    def _encoded_prompt(self, row: TaskRow) -> np.ndarray:
        try:
            return self._tokenizer.encode_prompt(row.prompt)
        except DataError as error:
            raise DataError(f"{row.where}: {error}") from error

    def _exact(self, task: TaskFile) -> Callable[[Params], Outcome]:
        prompts = [self._encoded_prompt(row) for row in task.rows]
        answers = [len(self._tokenizer.encode(text)) for row in task.rows for text in row.texts]
        # A longer response matches no answer: other tokens than the usual ones, and white space, are all that is open.
        longest = 2 * max(answers) + 8
        by_stop: dict[tuple[str, ...], list[int]] = {}
        for i, row in enumerate(task.rows):
            by_stop.setdefault(row.stop, []).append(i)
        groups = [
            (np.array(rows), self._greedy([prompts[i] for i in rows], stop, longest, task.rows[rows[0]].where))
            for stop, rows in by_stop.items()
        ]

        def measure(params: Params) -> Outcome:
            right = np.zeros(len(prompts))
            for rows, greedy in groups:
                texts = greedy(params)
                right[rows] = [matches(text, task.rows[i].texts) for i, text in zip(rows, texts, strict=True)]
            return Outcome(task.kind, {"exact_match": Parts(right, np.ones(len(right)))}, task.groups)

        return measure

    def _greedy(
        self, prompts: Sequence[np.ndarray], stop: tuple[str, ...], longest: int, where: str
    ) -> Callable[[Params], list[str]]:
        """Make what answers prompts with the likeliest tokens."""
        sampling = SamplingConfig(max_new_tokens=longest, temperature=0.0, stop=stop)
        engine = make_engine(self._model, self._tokenizer, sampling)
        try:
            engine.check(prompts)
        except ValueError as error:
            raise DataError(f"{where}, and rows below: {error}") from error
        size, rows = min(SAMPLED, len(prompts)), None
        if self._mesh is not None:
            parts = parallel.axis_size(self._mesh, parallel.BATCH)
            size = -(-size // parts) * parts
            rows = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(parallel.BATCH))
        columns = max(map(len, prompts))

        def answer(params: Params) -> list[str]:
            texts: list[str] = []
            laid = engine.lay_out(params)
            for begin in range(0, len(prompts), size):
                part = list(prompts[begin : begin + size])
                filled = part + [part[-1]] * (size - len(part))  # so that one compiled program serves all
                ids = np.arange(begin, begin + size)
                sampled = engine(laid, filled, key=jax.random.key(0), prompt_ids=ids, bucket=columns, sharding=rows)
                answers = response_tokens(sampled)[: len(part)]
                texts += [self._tokenizer.decode_response(tokens, engine.config.stop) for tokens in answers]
            return texts

        return answer


def _picked(scores: np.ndarray, owners: np.ndarray, rows: Sequence[TaskRow]) -> np.ndarray:
    """Compute how far the choice with the highest score is a right one, [n]; equal scores share it."""
    first = np.searchsorted(owners, np.arange(len(rows)))
    best = np.maximum.reduceat(scores, first)
    found = np.zeros(len(rows))
    for i, row in enumerate(rows):
        among = scores[first[i] : first[i] + len(row.texts)] == best[i]
        found[i] = among[list(row.right)].sum() / max(1, among.sum())
    return found


def matches(response: str, answers: Sequence[str]) -> bool:
    """Whether a response is one of the answers, white space around it aside.

    Example:
        >>> matches(" Paris\\n", ("Paris",)), matches("paris", ("Paris",))
        (True, False)
    """
    return response.strip() in {answer.strip() for answer in answers}


def text_tokens(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Encode a text whose perplexity is measured: one token that begins it, which is not predicted, and its own.

    Args:
        tokenizer: where it has no token that begins a text, the one that ends a text stands there.
        text: any text.

    Returns:
        int32 [n_tokens + 1]; no token that ends the text, as that is none of its bytes.
    """
    tokens, _ = tokenizer.encode_text(text)
    begun = tokens[0] == tokenizer.bos_id
    return tokens[:-1] if begun else np.concatenate([tokens[-1:], tokens[:-1]])


def unended(tokenizer: Tokenizer, response: str) -> np.ndarray:
    """Encode a response as in training, up to the token that ends it: a choice is as likely whatever follows on it.

    Args:
        tokenizer: the model's.
        response: its text.

    Returns:
        int32 [n_tokens].
    """
    tokens = tokenizer.encode_response(response)
    ends = np.flatnonzero(tokens == tokenizer.eos_id)  # a chat template may write something behind it, or end nothing
    return tokens[: ends[-1]] if len(ends) else tokens
