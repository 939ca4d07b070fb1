"""Barriers between real processes: those who come go on together, and whoever waits in vain is told for whom."""

import json
import os
import socket
import subprocess
import sys

import pytest

from rlhf_jax.parallel import BarrierError, barrier
from rlhf_jax.processes.barriers import _missing

# Process 1 comes to "both", twice, and never to "alone"; "end" keeps it alive until process 0 has given up.
SCRIPT = """
import json, sys, jax
from rlhf_jax.parallel import BarrierError, barrier

number = int(sys.argv[2])
jax.distributed.initialize("127.0.0.1:" + sys.argv[1], 2, number)
barrier("both", timeout=60)
barrier("both", timeout=60)
if number == 0:
    try:
        barrier("alone", timeout=0.5)
    except BarrierError as error:
        fields = [error.name, error.process, error.count, error.missing]
        print(json.dumps({"fields": fields, "said": str(error)}), flush=True)
barrier("end", timeout=60)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_barrier_says_who_did_not_come():
    port, environment = str(free_port()), {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, port, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    found = json.loads(said[0][0])
    assert found["fields"] == ["alone", 0, 2, [1]]
    assert found["said"].startswith("barrier 'alone': process 0 of 2 waited ")
    assert "processes that did not come: 1;" in found["said"]
    assert said[1][0] == ""


def test_one_process_waits_for_nobody():
    barrier("nobody", timeout=1e-3)


def test_a_time_out_is_above_zero():
    with pytest.raises(ValueError, match="barrier 'save': timeout must be above 0 seconds, found 0"):
        barrier("save", timeout=0)


@pytest.mark.parametrize(
    ("said", "missing"),
    [
        ("Some timed out task names:\n1\n3\n\n\nRPC: /x", (1, 3)),
        ("Some timed out task names:\n/job:jax_worker/replica:0/task:12\n", (12,)),
        ("UNAVAILABLE: the service at 10.0.0.1:1234 is gone", ()),
    ],
)
def test_who_is_missing_is_read_from_the_words_of_the_service(said, missing):
    assert _missing(said) == missing


def test_a_failure_that_is_no_time_out_is_told_in_its_own_words():
    error = BarrierError("save", 1, 4, 2.0, (), "UNAVAILABLE: gone")
    assert str(error) == (
        "barrier 'save': process 1 of 4 waited 2.0 s; it failed: UNAVAILABLE: gone; "
        "look at what the others printed last"
    )
