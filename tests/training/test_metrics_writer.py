import json
import math

import pytest

from rlhf_jax.training import MetricsWriter, read_metrics


def curves(folder):
    """Every point of the TensorBoard events in a folder: tag -> [(step, value)]."""
    from tensorboardX import proto  # noqa: F401
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401

    points = {}
    for path in sorted(folder.glob("*tfevents*")):
        content = path.read_bytes()
        while content:  # length (8), its checksum (4), the event, its checksum (4)
            size = int.from_bytes(content[:8], "little")
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                points.setdefault(value.tag, []).append((event.step, value.simple_value))
    return points


def test_rows_are_in_the_file_at_once(tmp_path):
    with MetricsWriter(tmp_path / "run", "sft") as writer:
        writer.write(1, {"loss": 2.5, "rate": 1e-3})
        line = (tmp_path / "run" / "metrics.jsonl").read_text()
        assert json.loads(line) == {"stage": "sft", "step": 1, "sft/loss": 2.5, "sft/rate": 1e-3}


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with MetricsWriter(tmp_path, "sft") as writer:
        writer.write(1, {"a": math.nan, "b": -math.inf, "c": 0})
        assert writer.rows() == [{"stage": "sft", "step": 1, "sft/a": None, "sft/b": None, "sft/c": 0.0}]


def test_stages_share_a_file_and_are_read_apart(tmp_path):
    for stage in ("sft", "reward"):
        with MetricsWriter(tmp_path, stage) as writer:
            writer.write(1, {"loss": 1.0})
            writer.write(2, {"loss": 2.0})
    file = tmp_path / "metrics.jsonl"
    assert [row["stage"] for row in read_metrics(file)] == ["sft", "sft", "reward", "reward"]
    assert [row["step"] for row in read_metrics(file, "reward")] == [1, 2]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_rewinding_takes_back_this_stage_only(tmp_path):
    with MetricsWriter(tmp_path, "sft") as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": step})
    with MetricsWriter(tmp_path, "reward") as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 10 * step})
    with MetricsWriter(tmp_path, "reward") as writer:
        writer.rewind(2)
        writer.write(3, {"loss": 7})
        assert [row["reward/loss"] for row in writer.rows()] == [10, 20, 7]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl", "sft")] == [1, 2, 3, 4, 5]
    assert curves(tmp_path / "events" / "reward") == {"reward/loss": [(1, 10), (2, 20), (3, 7)]}
    assert curves(tmp_path / "events" / "sft")["sft/loss"] == [(step, step) for step in range(1, 6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events", "metrics.jsonl"]


def test_a_torn_last_line_is_not_a_row_and_goes(tmp_path):
    with MetricsWriter(tmp_path, "sft") as writer:
        writer.write(1, {"loss": 1.0})
    file = tmp_path / "metrics.jsonl"
    with file.open("a") as handle:
        handle.write('{"stage": "sft", "st')
    assert len(read_metrics(file)) == 1
    with MetricsWriter(tmp_path, "sft") as writer:
        writer.write(2, {"loss": 2.0})
    assert [row["step"] for row in read_metrics(file)] == [1, 2]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]"])
def test_a_broken_line_in_the_middle_is_named(tmp_path, line):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"stage": "sft", "step": 1}\n' + line + '\n{"stage": "sft", "step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: .*put the line right"):
        read_metrics(file)
