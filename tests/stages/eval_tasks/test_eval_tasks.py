"""Tasks of a policy: what is read, and figures that other ways to compute them give as well."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.data import DataError, write_jsonl
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.likelihood import Likelihood, Said, windows
from rlhf_jax.runs.policy import Policy
from rlhf_jax.stages.eval_tasks import evaluate_tasks, evaluate_tasks_beside, read_tasks, task_row
from rlhf_jax.stages.eval_tasks.rows import named_files

TEXTS = ("The cat sat far.", "The dog ate a bath and the yak ran a vast hop.")
ENDS = (("The cat and", ("sat far", "rose the low", "bath")), ("The owl or", ("fell", "ate a rat had a far bath")))


@pytest.fixture(scope="module")
def policy(sft_run):
    return Policy.load(sft_run.directory, "sft")


@pytest.fixture(scope="module")
def files(tmp_path_factory, policy):
    """A file of each kind; of the exact answers the policy's own greedy one is right, and another is not."""
    folder = tmp_path_factory.mktemp("tasks")
    greedy = SamplingConfig(temperature=0.0, max_new_tokens=24)
    said, stop = answer_and_stop(next(policy.sample(["The cat and"], sampling=greedy))["response"])
    tables = {
        "text": [{"text": text} for text in TEXTS],
        "after": [{"prompt": "The cat and", "text": text} for text in TEXTS],
        "ends": [{"prompt": p, "choices": list(c), "answer": i} for i, (p, c) in enumerate(ENDS)],
        "exact": [{"prompt": "The cat and", "answer": [a, "never this"], "stop": stop} for a in (said, "another one")],
    }
    for name, rows in tables.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return {name: str(folder / f"{name}.jsonl") for name in tables}


def answer_and_stop(response):
    """The beginning of a response, and the two characters behind it, which stand nowhere before."""
    ends = range(1, len(response) - 1)
    end = next(i for i in ends if response[:i].strip() and response.find(response[i : i + 2]) == i)
    return response[:end].strip(), response[end : end + 2]


def by_hand(policy, tokens, start):
    """Log-probabilities of a sequence's tokens from ``start`` on, from the logits of the whole sequence alone."""
    padded = jnp.pad(jnp.asarray(tokens), (0, 64 - len(tokens)))  # one shape, so one program
    logprobs = np.asarray(_whole(policy.config, policy.params, padded[None], (jnp.arange(64) < len(tokens))[None]))
    return sum(float(logprobs[i - 1, tokens[i]]) for i in range(start, len(tokens)))


@functools.partial(jax.jit, static_argnums=0)
def _whole(config, params, tokens, mask):
    return jax.nn.log_softmax(models.logits(config, params, tokens, mask)[0], axis=-1)


def test_figures_are_those_of_the_logits(policy, files, sft_run):
    tokenizer = policy.tokenizer
    results = evaluate_tasks(f"{sft_run.directory}:sft", [files["text"], files["after"], files["ends"]])
    text, after, ends = (task.figures for task in results.tasks)

    each = [np.concatenate([[tokenizer.bos_id], tokenizer.encode(t)]).astype(int) for t in TEXTS]
    nats = -sum(by_hand(policy, ids, 1) for ids in each)
    assert text["perplexity"].value == pytest.approx(np.exp(nats / sum(len(ids) - 1 for ids in each)), rel=1e-5)
    assert text["word_perplexity"].value == pytest.approx(np.exp(nats / sum(len(t.split()) for t in TEXTS)), rel=1e-5)
    assert text["bits_per_byte"].value == pytest.approx(nats / np.log(2) / sum(map(len, TEXTS)), rel=1e-5)

    def answered(prompt, response):
        before = tokenizer.encode_prompt(prompt)
        return np.concatenate([before, tokenizer.encode(f" {response}")]).astype(int), len(before)

    each = [answered("The cat and", t) for t in TEXTS]
    nats = -sum(by_hand(policy, *one) for one in each)
    assert after["perplexity"].value == pytest.approx(np.exp(nats / sum(len(t) - s for t, s in each)), rel=1e-5)

    scores = [[by_hand(policy, *answered(prompt, c)) for c in choices] for prompt, choices in ENDS]
    picked = [int(np.argmax(row)) for row in scores]
    by_length = [int(np.argmax(np.divide(row, [len(c) for c in ENDS[i][1]]))) for i, row in enumerate(scores)]
    assert ends["accuracy"].value == np.mean([i == pick for i, pick in enumerate(picked)])
    assert ends["accuracy_by_length"].value == np.mean([i == pick for i, pick in enumerate(by_length)])


def test_an_exact_answer_is_the_policys_own_greedy_one(files, sft_run):
    (task,) = evaluate_tasks(f"{sft_run.directory}:sft", [files["exact"]]).tasks
    assert task.figures["exact_match"].value == 0.5


def test_two_policies_differ_by_the_difference_of_their_figures(files, sft_run, ppo_run):
    names = [files["text"], f"questions={files['ends']}"]
    found = evaluate_tasks_beside(f"{ppo_run.directory}:ppo", f"{sft_run.directory}:sft", names)
    for first, second in zip(found.first.tasks, found.second.tasks, strict=True):
        for name, figure in found.differences[first.name].items():
            assert figure.value == pytest.approx(first.figures[name].value - second.figures[name].value)
            assert figure.ci[0] <= figure.value <= figure.ci[1]
    written = json.loads(json.dumps(found.to_json()))
    assert set(written["tasks"]) == {"text", "questions"}
    assert "perplexity_ci" in written["differences"]["text"]


def test_a_long_text_is_read_in_windows_that_predict_every_token_once():
    for tokens, length, first in ((7, 4, 1), (6, 4, 1), (3, 4, 1), (50, 8, 1), (50, 8, 5), (20, 8, 9), (2, 2, 1)):
        found = [range(b + s, e) for b, e, s in windows(tokens, length, first)]
        assert [t for window in found for t in window] == list(range(first, tokens))
        assert all(e - b <= length and s >= 1 for b, e, s in windows(tokens, length, first))


def test_a_window_says_what_the_model_says_of_it(policy):
    tokens = np.random.default_rng(0).integers(3, 290, 40).astype(np.int32)
    likelihood = Likelihood(models.build(policy.config), policy.tokenizer.pad_id)
    said = [Said(tokens[b:e], s) for b, e, s in windows(40, 16)]
    assert likelihood(policy.params, said) == pytest.approx([by_hand(policy, *one) for one in said], rel=1e-5)


@pytest.mark.parametrize(
    ("row", "kind", "texts", "right"),
    [
        ({"text": "A page."}, "perplexity", ("A page.",), ()),
        ({"prompt": "Q", "choices": ["a", "b"], "answer": "b"}, "multiple choice", ("a", "b"), (1,)),
        ({"prompt": "Q", "responses": ["a", "b", "c"], "best": [1, 2]}, "multiple choice", ("b", "c", "a"), (0, 1)),
        ({"prompt": "Q", "answer": "4"}, "exact match", ("4",), ()),
    ],
)
def test_the_fields_say_what_a_row_asks(row, kind, texts, right):
    found_kind, found = task_row(row, "rows.jsonl:1")
    assert (found_kind, found.texts, found.right) == (kind, texts, right)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Q"}, r"rows.jsonl:1: fields: expected 'text'"),
        ({"prompt": "Q", "choices": ["a", "b"], "answer": 2}, r"field 'answer': expected the place of a choice, from"),
        ({"prompt": "Q", "choices": ["a"], "answer": 0}, r"field 'choices': expected at least two"),
        ({"prompt": "Q", "choices": ["a", 3], "answer": 0}, r"field 'choices': expected non-empty text"),
        ({"prompt": "Q", "choices": ["a", "b"], "answer": True}, r"field 'answer'"),
        ({"prompt": "Q", "answer": []}, r"field 'answer': expected a text, or a list"),
        ({"text": " "}, r"field 'text'"),
    ],
)
def test_a_bad_row_says_what_is_wrong(row, said):
    with pytest.raises(DataError, match=said):
        task_row(row, "rows.jsonl:1")


def test_a_file_is_of_one_kind_and_a_bad_row_may_be_skipped(tmp_path):
    file = tmp_path / "mixed.jsonl"
    write_jsonl(file, [{"text": "a"}, {"prompt": "Q", "answer": "4"}])
    with pytest.raises(DataError, match=r"mixed.jsonl:2: a row of exact match, where .*:1 is one of perplexity"):
        read_tasks([str(file)])
    write_jsonl(file, [{"text": "a"}, {"text": 3}])
    (task,) = read_tasks([str(file)], "skip")
    assert (task.name, len(task.rows), task.left_out) == ("mixed", 1, 1)


def test_two_tasks_have_two_names():
    with pytest.raises(DataError, match=r"two tasks are called a, .*: name one of them, NAME=FILE"):
        named_files(["x/a.jsonl", "y/a.jsonl"])


def test_a_row_that_is_too_long_is_named(tmp_path, policy):
    from rlhf_jax.stages.eval_tasks import Tasks

    file = tmp_path / "long.jsonl"
    write_jsonl(file, [{"prompt": "The cat and " * 40, "choices": ["sat", "ran"], "answer": 0}])
    model = models.build(policy.config)._replace(max_length=16)
    with pytest.raises(DataError, match=r"long.jsonl:1: a prompt and a choice of \d+ tokens: the model reads 16"):
        Tasks(read_tasks([str(file)]), model, policy.tokenizer)
