"""A language model of ours that is asked: log-probabilities of its first tokens are its answers, it writes nothing."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import models
from rlhf_jax.data import Tokenizer
from rlhf_jax.data.rows import Prompt
from rlhf_jax.judges.answer_tokens import AnswerTokens, answer_tokens
from rlhf_jax.judges.asking import LETTERS
from rlhf_jax.rollout.generate import ROOM
from rlhf_jax.runs.policy import Policy
from rlhf_jax.types import Array, Params

ROWS = 64  # questions at once
TOKENS = 2**13  # tokens at once, where questions are long
BUCKET = 32
_RARELY = 0.01  # the probability of all answers together, below which a model does not answer what it is asked


class LanguageModel:
    """A language model that answers questions.

    Args:
        config: its sizes.
        params: its weights.
        tokenizer: its tokenizer, whose format says how questions are written.
        called: what messages call it.

    Example:
        >>> model = LanguageModel.load("runs/mine:ppo")  # doctest: +SKIP
        >>> model.choose([pair_question("Hi.", "Hello!", "No.")], ("A", "B"))  # doctest: +SKIP
        array([[0.61, 0.39]], dtype=float32)
    """

    cost = 0.0
    """What answers have cost: nothing."""

    def __init__(self, config: models.ModelConfig, params: Params, tokenizer: Tokenizer, called: str = "the judge"):
        self.config, self.params, self.tokenizer, self.called = config, params, tokenizer, called
        self._answers: dict[tuple[tuple[str, ...], bool], AnswerTokens] = {}

    @classmethod
    def load(cls, path: Path | str) -> LanguageModel:
        """Load a policy of a run, or a pretrained language model.

        Args:
            path: as ``Policy.load`` takes it.

        Raises:
            RunError: when there is none.
        """
        policy = Policy.load(path)
        return cls(policy.config, policy.params, policy.tokenizer, str(path))

    def choose(self, questions: Sequence[Prompt], answers: Sequence[str]) -> np.ndarray:
        """Answer questions by how likely each answer is among those that are allowed.

        ``P(answer | question) / sum of P over all answers``

        Args:
            questions: n chats, written in the tokenizer's format; or texts, which the answer continues as they are.
            answers: A words.

        Returns:
            float32 [n, A]; NaN in a row where the question is longer than what the model reads, or the model says
            nothing finite.

        Raises:
            DataError: when the chat template refuses a question.
            ValueError: when the tokenizer writes two of the answers with the same tokens.
        """
        shares = np.full((len(questions), len(answers)), np.nan, np.float32)
        for as_text, tokenizer in ((True, self._plain), (False, self.tokenizer)):
            rows = [i for i, question in enumerate(questions) if isinstance(question, str) == as_text]
            tree = self._as_tokens(tuple(answers), as_text)
            asked = [np.append(tokenizer.encode_prompt(questions[i]), tree.opening).astype(np.int32) for i in rows]
            longest = (self.config.max_length or ROOM) - max(map(len, tree.paths))
            fit = [i for i, tokens in enumerate(asked) if len(tokens) <= longest]
            if fit:
                shares[[rows[i] for i in fit]] = self._shares([asked[i] for i in fit], tree, answers)
        return shares

    def _shares(self, asked: Sequence[np.ndarray], tree: AnswerTokens, answers: Sequence[str]) -> np.ndarray:
        logprobs: dict[tuple[int, ...], np.ndarray] = {}
        for path in tree.paths:
            logprobs.update(self._read(asked, path, tree))
        found = tree.probabilities(logprobs)
        heard = found.sum(-1, keepdims=True)
        self._warn_where_unheard(float(heard.mean()), answers)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(np.isfinite(heard) & (heard > 0), found / heard, np.nan)

    def order(self, questions: Sequence[Prompt], count: int) -> np.ndarray:
        """Put responses in order by how likely each is named first.

        ``P(i > j) = p_i / (p_i + p_j)``, as Plackett and Luce have it

        Args:
            questions: n chats or texts.
            count: K, how many responses each shows.

        Returns:
            float32 [n, K, K].
        """
        p = np.maximum(self.choose(questions, LETTERS[:count]).astype(np.float64), 1e-12)
        return (p[:, :, None] / (p[:, :, None] + p[:, None, :])).astype(np.float32)

    @functools.cached_property
    def _plain(self) -> Tokenizer:
        return self.tokenizer.with_format("plain")

    def _as_tokens(self, answers: tuple[str, ...], as_text: bool) -> AnswerTokens:
        """Write the answers as they are said, without what ends them."""
        if (answers, as_text) not in self._answers:
            tokenizer = self._plain if as_text else self.tokenizer
            said = [tokenizer.encode_response(answer).tolist() for answer in answers]
            ends = [len(tokens) - 1 - tokens[::-1].index(tokenizer.eos_id) for tokens in said]
            found = answer_tokens([tokens[:end] for tokens, end in zip(said, ends, strict=True)])
            self._answers[answers, as_text] = found
        return self._answers[answers, as_text]

    def _read(
        self, asked: Sequence[np.ndarray], path: tuple[int, ...], tree: AnswerTokens
    ) -> dict[tuple[int, ...], np.ndarray]:
        """Read all places on a path: the log-probabilities of each one's tokens, [n, T]."""
        places = {after: place for after, place in tree.places.items() if path[: len(after)] == after}
        tokens = np.asarray(sorted({token for place in places.values() for token in place.tokens}), np.int32)
        sequences = [np.append(question, path).astype(np.int32) for question in asked]
        ends = np.asarray([len(question) - 1 for question in asked], np.int32)
        said = self._logprobs(sequences, ends[:, None] + np.asarray([*map(len, places)], np.int32), tokens)
        columns = {after: np.searchsorted(tokens, place.tokens) for after, place in places.items()}
        return {after: said[:, row][:, columns[after]] for row, after in enumerate(places)}

    def _logprobs(self, sequences: Sequence[np.ndarray], at: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Log-probabilities of tokens behind places of sequences: float32 [n, W, T], in blocks of like length."""
        out = np.zeros((len(sequences), at.shape[1], len(tokens)), np.float32)
        lengths = np.asarray([len(s) for s in sequences])
        order = np.argsort(lengths, kind="stable")
        # A power of two: one that followed from the longest question would be another program for every call.
        most = max(1, min(ROWS, TOKENS // int(lengths.max())))
        size = min(1 << (most.bit_length() - 1), 1 << (len(order) - 1).bit_length())
        # From the longest down: the rows that fill up the last block are short.
        for end in range(len(order), 0, -size):
            rows = order[max(0, end - size) : end]
            width = -(-int(lengths[rows].max()) // BUCKET) * BUCKET
            block, places = np.zeros((size, width), np.int32), np.zeros((size, at.shape[1]), np.int32)
            for row, i in enumerate(rows):
                block[row, : lengths[i]] = sequences[i]
            filled = np.zeros(size, np.int32)
            filled[: len(rows)], places[: len(rows)] = lengths[rows], at[rows]
            out[rows] = np.asarray(self._run(self.params, block, filled, places, tokens))[: len(rows)]
        return out

    @functools.cached_property
    def _run(self) -> Callable[..., Any]:
        model = models.build(self.config)

        def run(params: Params, tokens: Array, lengths: Array, at: Array, wanted: Array) -> Array:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            segments = (positions < lengths[:, None]).astype(jnp.int32)
            hidden = model.apply(params, tokens, positions, segments)
            read = jnp.take_along_axis(hidden, at[:, :, None], axis=1)
            # Logits [rows, places, vocabulary] alone: those of whole questions would be a hundred times as large.
            return jax.nn.log_softmax(model.logits(params, read))[..., wanted]

        return jax.jit(run)

    def _warn_where_unheard(self, heard: float, answers: Sequence[str]) -> None:
        if heard < _RARELY:
            warnings.warn(
                f"{self.called} answers {', '.join(answers)} with a probability of {heard:.1g} only, as if it were not "
                "asked: its votes say little. Judge with a model that follows instructions",
                stacklevel=3,
            )
