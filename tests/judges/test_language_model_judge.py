"""A language model that is asked: what it answers is what its own logits say, token by token."""

import copy
import functools

import chat_families
import jax
import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.data import Tokenizer
from rlhf_jax.feedback.judges import judged
from rlhf_jax.feedback.rubrics import Criterion
from rlhf_jax.judges import AskingJudge, LanguageModel, language_model
from rlhf_jax.judges.answer_tokens import answer_tokens
from rlhf_jax.judges.asking import SCORES, pair_question, ranking_question, score_question
from rlhf_jax.judges.voting import always

TONE = Criterion(
    "It is positive.", completion="Text: {response}\nSentiment:", answers=("negative", "positive"), name="tone"
)
LONGEST = 512  # tokens


@pytest.fixture(autouse=True)
def one_shape(monkeypatch):
    """Compile one program for all questions: blocks of 4 rows of the same length."""
    monkeypatch.setattr(language_model, "BUCKET", LONGEST)
    monkeypatch.setattr(language_model, "ROWS", 4)


pytestmark = pytest.mark.filterwarnings("ignore:tiny answers")  # it was taught nothing
NUMBERS = tuple(map(str, SCORES))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    chat_families.write_folder(folder, chat_families.FAMILIES["llama3"])
    tokenizer = Tokenizer.load(folder)
    config = models.ModelConfig(
        vocab_size=tokenizer.vocab_size, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, d_ff=32,
        max_length=LONGEST,
    )  # fmt: skip
    params = jax.tree.map(lambda x: x * 4.0, jax.jit(models.build(config).init)(jax.random.key(0)))
    return LanguageModel(config, params, tokenizer, "tiny")


@functools.cache
def whole(config):
    """The log-probabilities of all tokens of a padded sequence, compiled once."""
    return jax.jit(lambda params, tokens, mask: jax.nn.log_softmax(models.logits(config, params, tokens, mask)))


def logprob(model, question, answer):
    """Log-probability of an answer, from the logits of the whole sequence."""
    prompt, said = model.tokenizer.encode_prompt(question), model.tokenizer.encode_response(answer).tolist()
    said = said[: said.index(model.tokenizer.eos_id)]
    n = len(prompt) + len(said)
    tokens, mask = np.zeros((1, LONGEST), np.int32), np.arange(LONGEST)[None] < n
    tokens[0, :n] = [*prompt, *said]
    rows = np.asarray(whole(model.config)(model.params, tokens, mask))[0, len(prompt) - 1 : n - 1]
    return float(rows[np.arange(len(said)), said].sum())


PROMPTS = ["What is two and two?", "Hi."]
TEXTS = [["It is four.", "No."], ["Hello! What is it?", "Two."]]


@pytest.mark.parametrize("format", ["chat", "plain"])
def test_a_choice_is_what_the_logits_of_the_whole_question_say(model, format):
    model = LanguageModel(model.config, model.params, model.tokenizer.with_format(format), "tiny")
    questions = [
        pair_question(p, *pair) for p, texts in zip(PROMPTS, TEXTS, strict=True) for pair in (texts, texts[::-1])
    ]
    got = model.choose(questions, ("A", "B"))
    for question, shares in zip(questions, got, strict=True):
        said = [logprob(model, question, answer) for answer in ("A", "B")]
        np.testing.assert_allclose(shares, jax.nn.softmax(np.asarray(said)), atol=1e-5)
    assert got.dtype == np.float32
    # Alone or beside longer ones, in a block filled up or not.
    np.testing.assert_allclose(model.choose(questions[:1], ("A", "B")), got[:1], atol=1e-6)


def test_a_text_is_gone_on_with_as_it_is_whatever_the_format(model):
    texts = [score_question("Hi.", text, TONE) for text in ("Good!", "No.")]
    plain = LanguageModel(model.config, model.params, model.tokenizer.with_format("plain"), "tiny")
    got = model.choose([pair_question("Hi.", "Hello!", "No."), *texts], TONE.answers)
    for text, shares in zip(texts, got[1:], strict=True):
        said = [logprob(plain, text, answer) for answer in TONE.answers]
        np.testing.assert_allclose(shares, jax.nn.softmax(np.asarray(said)), atol=1e-5)
    found = judged(AskingJudge(model, "scores", always(TONE)), ["Hi."], [["Good!", "No."]], called="tiny")
    good = got[1:, 1].astype(np.float64)
    np.testing.assert_allclose(found.scores[0], 1 + 9 * good, rtol=1e-5)  # on the scale of all other scores
    np.testing.assert_allclose(found.votes[0, 0, 1], 0.5 + (good[0] - good[1]) / 2, atol=1e-6)


def test_a_10_is_no_1(model):
    question = score_question("Hi.", "Hello!")
    (shares,) = model.choose([question], NUMBERS)
    # The tokenizer writes digits singly: a 1 is whatever follows it but a 0.
    p = {n: np.exp(logprob(model, question, n)) for n in NUMBERS}
    p["1"] -= p["10"]
    np.testing.assert_allclose(shares, np.asarray([*p.values()]) / sum(p.values()), rtol=1e-4)
    assert shares.sum() == pytest.approx(1, abs=1e-6)


def test_answers_that_part_late_and_one_within_another():
    tree = answer_tokens([[5, 1], [5, 1, 2, 3], [5, 1, 2, 4], [5, 6]])
    assert tree.opening == (5,)
    assert {after: (place.tokens, place.ends) for after, place in tree.places.items()} == {
        (): ((1, 6), None), (1,): ((2,), 0), (1, 2): ((3, 4), None),
    }  # fmt: skip
    assert tree.paths == ((1, 2),)
    logprobs = {(): np.log([[0.2, 0.6]]), (1,): np.log([[0.3]]), (1, 2): np.log([[0.1, 0.4]])}
    np.testing.assert_allclose(tree.probabilities(logprobs), [[0.2 * 0.7, 0.2 * 0.3 * 0.1, 0.2 * 0.3 * 0.4, 0.6]])


def test_answers_with_the_same_tokens_are_refused():
    with pytest.raises(ValueError, match="cannot tell them apart"):
        answer_tokens([[1, 2], [1, 2]])


def test_a_question_that_is_too_long_is_an_abstention_and_the_others_stay(model):
    judge = AskingJudge(model)
    long = "It is four. " * 400
    found = judged(judge, [*PROMPTS, "Hi."], [*TEXTS, [long, "No."]], called="tiny")
    assert np.isnan(found.votes[2, 0, 1])
    np.testing.assert_allclose(found.votes[:2], judge(PROMPTS, TEXTS).votes, atol=1e-6)
    assert np.isnan(AskingJudge(model)(["Hi."], [[long, long]]).votes[0, 0, 1])


def test_a_model_that_says_nothing_finite_abstains(model):
    model.choose([pair_question("Hi.", "Hello!", "No.")], ("A", "B"))
    broken = copy.copy(model)  # with the program that is compiled
    broken.params = jax.tree.map(lambda x: x * np.nan, model.params)
    assert np.isnan(judged(AskingJudge(broken), PROMPTS, TEXTS, called="broken").votes[:, 0, 1]).all()


def test_votes_are_the_mean_of_both_orders_and_exchanged_responses_exchange_them(model):
    found = judged(AskingJudge(model), PROMPTS, TEXTS, called="tiny")
    shown = [[model.choose([pair_question(p, *t)], ("A", "B"))[0, 0] for t in (texts, texts[::-1])]
             for p, texts in zip(PROMPTS, TEXTS, strict=True)]  # fmt: skip
    np.testing.assert_allclose([found.shown[b, (0, 1), (1, 0)] for b in range(2)], shown, atol=1e-6)
    np.testing.assert_allclose(found.votes[:, 0, 1], [(a + 1 - b) / 2 for a, b in shown], atol=1e-6)
    turned = AskingJudge(model)(PROMPTS, [texts[::-1] for texts in TEXTS])
    np.testing.assert_allclose(turned.votes, found.votes[:, ::-1, ::-1], atol=1e-6)
    same = AskingJudge(model)(["Hi."], [["No.", "No."]])
    np.testing.assert_allclose(same.votes[0], [[0, 0.5], [0.5, 0]], atol=1e-6)  # whatever it says of first places


def test_scores_are_expected_values_and_one_response_alone_has_one(model):
    judge = AskingJudge(model, "scores")
    found = judged(judge, PROMPTS, TEXTS, called="tiny")
    p = model.choose([score_question(PROMPTS[0], text) for text in TEXTS[0]], NUMBERS).astype(np.float64)
    np.testing.assert_allclose(found.scores[0], p @ np.arange(1, 11), rtol=1e-5)
    above = sum(p[0, i] * p[1, j] * (1.0 if i > j else 0.5) for i in range(10) for j in range(i + 1))
    assert found.votes[0, 0, 1] == pytest.approx(above, abs=1e-5)
    alone = judge(PROMPTS, [[texts[0]] for texts in TEXTS])
    np.testing.assert_allclose(alone.scores[:, 0], found.scores[:, 0], rtol=1e-5)
    assert alone.votes.tolist() == [[[0.0]], [[0.0]]]


def test_a_ranking_shows_each_response_in_each_place_once(model):
    texts = ["It is four.", "No.", "What?"]
    found = judged(AskingJudge(model, "ranking"), PROMPTS[:1], [texts], called="tiny")
    expected = np.zeros((3, 3))
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        (p,) = model.choose([ranking_question(PROMPTS[0], [texts[i] for i in order])], ("A", "B", "C"))
        for a, i in enumerate(order):
            for b, j in enumerate(order):
                expected[i, j] += p[a] / (p[a] + p[b]) / 3 if i != j else 0.0
    np.testing.assert_allclose(found.votes[0], expected, atol=1e-5)
    turned = AskingJudge(model, "ranking")(PROMPTS[:1], [[texts[1], texts[2], texts[0]]])
    np.testing.assert_allclose(turned.votes[0], expected[np.ix_([1, 2, 0], [1, 2, 0])], atol=1e-5)


def test_what_stands_in_a_response_is_no_place_of_the_question(model):
    asked = pair_question("{first} {text}", "{second}", "{prompt}", Criterion("{response}"))[0].content
    assert asked.startswith("Prompt: {first} {text}\n\nResponse A: {second}\n\nResponse B: {prompt}\n\n")
    assert "more true: {response}\n" in asked


def test_criteria_are_asked_about_one_by_one_and_weighed(model):
    kind, short = Criterion("The response is kind.", 3.0), Criterion("The response is short.", 1.0)
    for how in ("pairs", "scores", "ranking"):
        apart = [AskingJudge(model, how, always(one))(PROMPTS, TEXTS) for one in (kind, short)]
        both = AskingJudge(model, how, always(kind, short))(PROMPTS, TEXTS)
        np.testing.assert_allclose(both.votes, 0.75 * apart[0].votes + 0.25 * apart[1].votes, atol=1e-6)
        if how == "scores":
            np.testing.assert_allclose(both.scores, 0.75 * apart[0].scores + 0.25 * apart[1].scores, rtol=1e-5)


def test_a_model_that_does_not_answer_what_it_is_asked_is_told_of(model):
    with pytest.warns(UserWarning, match=r"^tiny answers A, B with a probability of 0\.0\d+ only"):
        model.choose([pair_question("Hi.", "Hello!", "No.")], ("A", "B"))


def test_no_prompts_give_no_votes(model):
    for how in ("pairs", "scores", "ranking"):
        assert judged(AskingJudge(model, how), [], [], called="tiny").votes.shape == (0, 2, 2)


def test_more_responses_than_letters_are_refused(model):
    with pytest.raises(ValueError, match="at most 26 responses, found 27"):
        AskingJudge(model, "ranking")(["Hi."], [["No."] * 27])
