"""A policy under lm-evaluation-harness has the figures that we compute ourselves, on tasks that need no network."""

import json

import numpy as np
import pytest

from rlhf_jax import models
from rlhf_jax.data import write_jsonl
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.likelihood import Likelihood, Said
from rlhf_jax.runs.policy import Policy
from rlhf_jax.stages.eval_tasks import evaluate_tasks
from rlhf_jax.stages.eval_tasks.harness import Asked, harness_model

TEXTS = ("The cat sat far.", "The dog ate a bath and the yak ran a vast hop.", "A bee fell low.")
ENDS = (
    ("The cat and", ("sat far", "rose the low", "bath")),
    ("The owl or", ("fell", "ate a rat had a far bath", "hop")),
    ("The elk with", ("a far bath", "the low", "ran ran ran ran")),
)
TASKS = {
    "text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: word_perplexity
  - metric: bits_per_byte
""",
    "ends": """
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
""",
    "exact": """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs:
  until: [STOP]
  do_sample: false
  max_gen_toks: 24
metric_list:
  - metric: exact_match
""",
}


@pytest.fixture(scope="module")
def policy(sft_run):
    return Policy.load(sft_run.directory, "sft")


@pytest.fixture(scope="module")
def asked(policy):
    return Asked(policy)


def test_the_harness_has_our_figures(policy, asked, sft_run, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")
    from lm_eval.tasks import TaskManager

    response = asked.responses([("The cat and", {"max_gen_toks": 24})])[0]
    ends = range(1, len(response) - 1)
    end = next(i for i in ends if response[:i].strip() and response.find(response[i : i + 2]) == i)
    said, stop = response[:end].strip(), response[end : end + 2]
    tables = {
        "text": [{"text": text} for text in TEXTS],
        "ends": [{"prompt": p, "choices": list(c), "answer": i % 3} for i, (p, c) in enumerate(ENDS)],
        "exact": [{"prompt": "The cat and", "answer": answer, "stop": stop} for answer in (said, "another one")],
    }
    for name, rows in tables.items():
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        where = (
            f"task: our_{name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/{name}.jsonl\n"
        )
        (tmp_path / f"{name}.yaml").write_text(
            f"{where}test_split: test{TASKS[name].replace('STOP', json.dumps(stop))}"
        )
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    theirs = lm_eval.simple_evaluate(
        model=harness_model(policy),
        tasks=[f"our_{name}" for name in tables],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
    )["results"]
    ours = evaluate_tasks(f"{sft_run.directory}:sft", [str(tmp_path / f"{name}.jsonl") for name in tables])
    text, ends, exact = (task.figures for task in ours.tasks)
    pairs = {
        ("our_text", "word_perplexity"): text["word_perplexity"],
        ("our_text", "bits_per_byte"): text["bits_per_byte"],
        ("our_ends", "acc"): ends["accuracy"],
        ("our_ends", "acc_norm"): ends["accuracy_by_length"],
        ("our_exact", "exact_match"): exact["exact_match"],
    }
    for (task, figure), own in pairs.items():
        assert theirs[task][f"{figure},none"] == pytest.approx(own.value, rel=1e-6), (task, figure)


def test_a_continuation_is_what_follows_on_the_context(policy, asked):
    tokenizer = policy.tokenizer
    before, after = tokenizer.encode_prompt("The cat and"), tokenizer.encode(" sat far")
    likelihood = Likelihood(models.build(policy.config), tokenizer.pad_id)
    (wanted,) = likelihood(policy.params, [Said(np.concatenate([before, after]), len(before))])
    # The space may stand on either side.
    found = asked.continuations([("The cat and", " sat far"), ("The cat and ", "sat far")])
    assert [value for value, _ in found] == pytest.approx([wanted, wanted], rel=1e-6)


def test_what_greedy_decoding_writes_is_known_as_such(asked):
    (response,) = asked.responses([("The cat and", {"max_gen_toks": 6})])
    # A response has lost the space that its first token begins with.
    found = asked.continuations([("The cat and", " " + response.lstrip()), ("The cat and", " xylophone")])
    assert [greedy for _, greedy in found] == [True, False]


def test_a_text_alone_has_what_its_continuation_of_nothing_has(asked):
    (whole,) = asked.texts([TEXTS[1]])
    ((alone, _),) = asked.continuations([("", TEXTS[1])])
    assert whole == pytest.approx(alone, rel=1e-6)


def test_an_option_that_nothing_reads_is_refused(asked):
    with pytest.raises(RunError, match="generation_kwargs num_beams is not read here"):
        asked.responses([("Q", {"num_beams": 4})])


def test_without_the_harness_it_says_what_to_install(policy, monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(RunError, match="pip install lm-eval"):
        harness_model(policy)
