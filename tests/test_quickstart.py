"""The quickstart in small, for real: what it leaves, and the same figures when two processes run it."""

import json
import os
import subprocess
import sys

import pytest
import several

RLHF = [sys.executable, "-c", "from rlhf_jax.cli import main; main()"]
pytestmark = pytest.mark.timeout(900)
SUMMARY = (
    "sft.heldout_loss",
    *(f"reward.{n}" for n in ("accuracy", "accuracy_ci", "accuracy_by_domain", "ece")),
    *(f"baselines.{n}" for n in ("vader", "ridge", "single_rater")),
    *(f"ppo.{n}" for n in ("gold_win_rate", "gold_win_rate_ci", "kl", "proxy_before", "proxy_after")),
    *(f"ppo.{n}" for n in ("gold_before", "gold_after", "distinct_2")),
    *(f"seconds.{n}" for n in ("total", "sft", "reward", "ppo")),
    *(f"params_sha256.{n}" for n in ("sft", "reward", "ppo")),
    *("prompts", "peak_rss_mib", "seed", "versions"),
)


def ran(out, *launch, devices):
    """Run the small quickstart as a person would, each process with so many devices, and return where it is."""
    words = ["quickstart", "--fast", "--seed", "3", "--out", str(out)]
    environment = {**os.environ, **several.simulated(devices)}
    done = subprocess.run([*RLHF, *launch, *words], env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == str(out / "report.html")
    assert "\r" not in done.stderr  # not a terminal: plain lines
    return out


@pytest.fixture(scope="module")
def small(prepared, tmp_path_factory):
    """One process with two devices."""
    return ran(tmp_path_factory.mktemp("small") / "run", devices=2)


def test_it_leaves_a_whole_run_folder(small):
    summary = json.loads((small / "summary.json").read_text())
    for path in SUMMARY:
        value = summary
        for part in path.split("."):
            assert part in value, f"summary.json lacks {path}"
            value = value[part]
        assert value is not None, path
    assert summary["seed"] == 3
    assert summary["prompts"].keys() == {"movie", "amazon", "tweets", "nyt"}
    assert summary["reward"]["accuracy_by_domain"].keys() == summary["prompts"].keys()
    for low, high in (summary["reward"]["accuracy_ci"], summary["ppo"]["gold_win_rate_ci"]):
        assert 0 <= low < high <= 1
    assert 0.66 < summary["baselines"]["ridge"] < 0.8  # the whole train split, whatever the stages were given
    assert summary["peak_rss_mib"] < 4096
    page = (small / "report.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")  # nothing is fetched
    assert {"config.json", "tokenizer.json", "metrics.jsonl", "samples.jsonl", "events", "checkpoints", "params"} <= {
        p.name for p in small.iterdir()
    }
    stages = {json.loads(line)["stage"] for line in (small / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"sft", "reward", "ppo"}
    samples = [json.loads(line) for line in (small / "samples.jsonl").read_text().splitlines()]
    assert {"prompt", "before", "after", "gold_before", "gold_after"} <= samples[0].keys()


def test_two_launched_processes_give_its_figures(small, tmp_path):
    two = ran(tmp_path / "run", "launch", "--processes", "2", "--", *RLHF, devices=1)
    assert (two / "report.html").exists()
    # Where a run lies is a part of what it says of its reward model.
    texts = [(folder / "summary.json").read_text().replace(str(folder), "RUN") for folder in (two, small)]
    found, expected = map(json.loads, texts)
    assert found["params_sha256"] == expected["params_sha256"]
    for stage in ("sft", "reward", "ppo"):
        assert found[stage] == expected[stage]
