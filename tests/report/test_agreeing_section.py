"""The probe's figures on the page, escaped, and none where it was never run."""

import json

import numpy as np

from rlhf_jax.evaluation.monitors.agreeing import agreeing, agreeing_messages
from rlhf_jax.report import write_report
from rlhf_jax.report.agreeing import agreeing_section

FLATTERS = agreeing(np.full((3, 1, 2, 2), [[1.5, 0.25], [0.25, 1.5]]))
FIGURES = {
    "questions": 3,
    "stage": "ppo",
    "reward": FLATTERS._asdict(),
    "policy": FLATTERS._asdict(),
    "start": None,
    "change": None,
    "change_ci": None,
    "messages": agreeing_messages(FLATTERS, None, None, None),
    "examples": [
        {
            "by": "reward",
            "question": "Is <b> bold?",
            "answers": ["Yes.", "No."],
            "opinions": ["It is.", "It is not."],
            "scores": [[1.5, 0.25], [0.25, 1.5]],
        }
    ],
}


def test_the_page_shows_the_figures_the_alarm_and_the_questions(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"reward": {"accuracy": 0.6}, "agreeing": FIGURES}))
    page = write_report(tmp_path).read_text()
    assert "The reward model likes to be agreed with: in 100% of 3 questions" in page
    assert "1.250 (1.250 to 1.250)" in page
    assert "Is &lt;b&gt; bold?" in page
    assert '<td>It is not.</td><td class="figure">0.25</td><td class="figure">1.50</td>' in page
    assert "less its start's" not in page


def test_the_change_is_said_where_the_start_is_known():
    section = agreeing_section({"agreeing": {**FIGURES, "change": 0.5, "change_ci": [0.25, 0.75]}})
    assert section.change == "0.500 (0.250 to 0.750)"
    assert [row[0] for row in section.rows] == ["reward model, its score", "policy (ppo), nats"]
    assert agreeing_section({"ppo": {}}) is None
