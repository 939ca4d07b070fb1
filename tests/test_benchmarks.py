"""What the benchmarks' figures are made of; ``python -m benchmarks.run --fast`` runs every script in CI."""

import dataclasses
import importlib
import json
import math
import time

import numpy as np
import pytest

from benchmarks import compare, growth, measure, ppo_iteration, rollout_beside, run, sft_step
from benchmarks.machine import KNOWN, Limits, Machine
from benchmarks.measure import Timing, line, take_turns
from benchmarks.options import Options, options, parser
from benchmarks.shapes import SHAPES
from rlhf_jax import models
from rlhf_jax.models import costs


def test_works_take_turns_after_each_was_warmed_up():
    seen = []
    timings = take_turns({name: lambda name=name: seen.append(name) for name in "ab"}, turns=2)
    assert "".join(seen) == "ab" + "abab"
    assert set(timings) == {"a", "b"}
    assert all(0 <= t.best <= t.median for t in timings.values())


def test_a_fraction_is_one_at_the_limit_for_times_and_for_rates():
    assert line("demo", "step", 4.0, "s", limit=1.0)["fraction"] == 0.25
    assert line("demo", "tokens", 50.0, "tokens/s", limit=200.0)["fraction"] == 0.25
    assert "fraction" not in line("demo", "memory", 5.0, "bytes")


@pytest.mark.parametrize(("value", "limit"), [(math.nan, None), (math.inf, None), (0.0, 1.0), (1.0, 0.0)])
def test_what_is_no_figure_is_an_error(value, limit):
    with pytest.raises(ValueError, match="demo, step: no figure"):
        line("demo", "step", value, "s", limit=limit)


def test_the_least_time_is_that_of_what_there_is_more_of():
    machine = Limits(flops=100.0, bytes=10.0)
    assert machine.seconds(50.0) == 0.5
    assert machine.seconds(50.0, 20.0) == 2.0


def test_a_cpu_is_measured_and_says_what_it_did_in_that_time():
    machine = Machine("float32", fast=True)
    assert set(machine.probes()) == {"matmul", "read"}
    timing = Timing(best=0.5, median=0.5, first=0.5)
    limits = machine.limits({"matmul": timing, "read": timing})
    assert limits == Limits(flops=2 * 128**3 / 0.5, bytes=4 * 256**2 / 0.5)


def test_known_accelerators_read_a_number_for_many_products():
    assert all(flops > 10 * bandwidth for flops, bandwidth in KNOWN.values())


def test_lines_of_a_step_are_json_with_finite_fractions():
    records = list(sft_step.lines(Options(fast=True, peers=False)))
    assert json.loads(json.dumps(records)) == records
    assert [record["figure"] for record in records] == ["matmul", "memory", "tokens"]
    ours = records[-1]
    assert ours["unit"] == "tokens/s"
    assert ours["value"] == pytest.approx(2 * 16 / ours["s"])
    assert ours["fraction"] == pytest.approx(ours["flops"] / ours["s"] / records[0]["value"])
    assert ours["program_bytes"] > 3 * 4 * costs.matrix_parameters(SHAPES["fast"])  # weights and two moments


def test_the_fastest_peer_is_what_ours_is_held_against():
    asked = Options(fast=True)
    common = {"dtype": "float32", "limit": lambda machine: 1.0, "units": 10, "unit": "rows", "options": asked}

    def slept(seconds):
        return lambda: time.sleep(seconds)

    others = {"slow": slept(0.08), "fast": slept(0.04)}
    found = compare.compare("demo", "tiny", slept(0.01), others, **common, beside={"a": 1}, only_ours={"b": 2})
    ours, slow, fast = list(found)[-3:]
    assert ours["system"].startswith("rlhf_jax")
    assert ours["times_faster"] == pytest.approx(fast["s"] / ours["s"])
    assert ours["b"] == 2
    assert "b" not in slow
    assert slow["a"] == fast["a"] == 1
    assert slow["fraction"] == pytest.approx(1.0 / slow["s"])


def test_a_peer_that_is_not_installed_is_left_out_and_named(capsys, monkeypatch):
    monkeypatch.setitem(compare.PEERS, "torch_steps", (("no-such-package",), "no_such_package"))
    assert compare.peers(Options(), {"torch_steps": lambda peer: peer.sft()}) == {}
    assert "torch_steps: left out, as no_such_package is not installed" in capsys.readouterr().err


def test_the_limit_of_an_iteration_counts_each_pass_once():
    config, case = SHAPES["tiny"], ppo_iteration.Case(8, 16, 16, 3, 2)
    machine = Limits(flops=1.0, bytes=math.inf)
    own, head = (ppo_iteration.least_seconds(config, case, kind, 0, machine) for kind in ("own critic", "value head"))
    tokens, body = 8 * 32, costs.forward_flops(dataclasses.replace(config, scalar_head=True), 8 * 32, 32)
    policy = costs.forward_flops(config, tokens, 32, logits=8 * 16)
    assert own[0] == head[0]
    np.testing.assert_allclose(own[1:], [2 * policy + 2 * body, 3 * (3 * policy + 3 * body)], rtol=1e-6)
    np.testing.assert_allclose(head[1:], [2 * policy + body, 3 * 3 * policy], rtol=1e-6)


def test_shapes_are_those_of_their_models():
    def parameters(shape):
        config = SHAPES[shape]
        assert config.tie_embeddings
        return costs.matrix_parameters(config) + costs.head_parameters(config)

    # Norms aside: SmolLM2-135M has 134,515,008 parameters and Llama-3.2-1B 1,235,814,400.
    assert parameters("smol") == 134_515_008 - (2 * 30 + 1) * 576
    assert parameters("1b") == 1_235_814_400 - (2 * 16 + 1) * 2048
    assert parameters("tiny") == 8192 * 256 + 4 * (4 * 256 * 256 + 3 * 256 * 1024)
    assert models.build(SHAPES["fast"])


def test_every_script_is_in_the_table_and_has_its_miniature():
    for name in run.NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        assert callable(module.lines)
        assert callable(module.main)
    assert Options(fast=True, shapes=("tiny",)).chosen(("fast", "tiny")) == ("fast",)
    assert Options(shapes=("1b",)).chosen(("fast", "tiny", "1b")) == ("1b",)
    assert options(parser("").parse_args(["--shape", "smol", "--no-peers", "--repeats", "2"])) == Options(
        shapes=("smol",), peers=False, repeats=2
    )


def test_the_table_shows_the_share_of_the_limit_and_the_peers():
    record = line("demo", "step", 4.0, "s", limit=1.0, beside={"times_faster": 1.5})
    (row,) = zip(*(column.cells for column in run.table([record]).columns), strict=True)
    assert row[-4:] == ("4", "s", "25%", "1.50x")


def test_growth_is_drawn_with_the_exponents_it_fitted(tmp_path):
    records = []
    for what, power in (("time", 2), ("memory", 1)):
        for name in growth.Sizes._fields:
            points = [(size, float(size**power)) for size in (1, 2, 4)]
            records += [line("growth", f"{what} by {name}", y, "s", beside={"size": x}) for x, y in points]
            slope = growth.exponent(*zip(*points, strict=True))
            assert slope == pytest.approx(power)
            records.append(line("growth", f"exponent of {what} by {name}", slope, "exponent"))
    growth.plot(records, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


def test_the_overlap_of_two_meshes_is_that_of_their_runs():
    """Devices 0 to 3 run a program from 0 to 10; 4 and 5 run one from 2 to 5, one from 4 to 6, and one from 9 to 12."""
    runs = [("a", 0, 0, 9), ("a", 3, 1, 10), ("b", 4, 2, 4), ("b", 5, 3, 5), ("c", 4, 4, 6), ("d", 5, 9, 12)]
    events = [
        {"ts": begin, "dur": end - begin, "args": {"run_id": run_id, "device_ordinal": str(device)}}
        for run_id, device, begin, end in runs
    ]
    events += [{"ts": 0, "dur": 99}, {"ts": 0, "dur": 99, "args": {"run_id": "host alone"}}]
    trains, samples = (rollout_beside.busy(events, range(first, first + 4)) for first in (0, 4))
    assert trains == [(0, 10)]
    assert samples == [(2, 6), (9, 12)]
    assert rollout_beside.common(trains, samples) == rollout_beside.common(samples, trains) == 5


def test_lines_are_printed_as_they_come(capsys):
    measure.print_lines([{"figure": 1}])
    assert json.loads(capsys.readouterr().out) == {"figure": 1}
