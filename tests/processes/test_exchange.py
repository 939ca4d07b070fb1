"""What several processes tell each other, in two real ones; and that one alone is given back what it gives."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import several

from rlhf_jax import processes
from rlhf_jax.data.encoded import from_bytes, in_shares, to_bytes
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.packing import Example
from rlhf_jax.processes import agreement, coordinator

TASK = Path(__file__).parent / "exchange_task.py"


def test_two_processes_agree():
    first, second = several.run([TASK], 2, devices=2, seconds=100)
    for number, said in enumerate((first, second)):
        lines = said.splitlines()
        assert f"share {[[0, 1], [2, 3, 4]][number]}" in lines
        assert "exchanged [b'', b'one']" in lines
        assert "first says 0" in lines
        assert "fetched [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]] True" in lines
        assert "in slices [16, 16, 16, 16] True" in lines
        assert "the same draws as anywhere True" in lines
        assert "scores [0.0, 1.0, 2.0, 3.0, 4.0]" in lines
        assert f"scored {[2, 3][number]}" in lines
        assert "tokens [[0], [1], [2], [3], [4]]" in lines
        assert f"encoded {[2, 3][number]}" in lines
    assert "DataError: row 3 is bad" in second
    assert "OtherProcessError: rows: process 1 of 2 stopped (DataError: row 3 is bad)" in first


def test_a_process_that_fails_ends_at_once_and_the_other_hears_of_it():
    begun = several.start([TASK, "fail"], 2)
    (status, said), (failed, why) = several.ends(begun, 60)
    assert failed == 1
    assert "RuntimeError: this one fails" in why
    assert status != 0
    assert "BarrierError: barrier 'exchange': process 0 of 2" in said


def test_where_the_coordinators_process_is_killed_the_others_say_so_and_end():
    """JAX aborts them; one of them waits for process 0, the other one is at work of its own."""
    begun = several.start([TASK, "die"], 3)
    (killed, _), *others = several.ends(begun, 60)
    assert killed == -signal.SIGKILL
    for number, (status, said) in enumerate(others, start=1):
        assert status == 75, said
        assert f"process {number} of 3: process 0, which held the coordinator, is gone; look at what it printed" in said
        assert "start all processes again with the same command" in said


def test_an_open_port_is_somebody_and_a_closed_one_is_nobody():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert not coordinator._nobody_at(address, 1.0)
    assert coordinator._nobody_at(address, 1.0)
    assert not coordinator.is_gone()  # in a single process there is none


def test_a_signal_between_two_stages_stops_all_after_the_same_step_of_the_next():
    first, second = several.run([TASK, "stop"], 2, seconds=100)
    stopped = [line for said in (first, second) for line in said.splitlines() if line.startswith("stopped")]
    assert len(stopped) == 2
    assert stopped[0] == stopped[1] != "stopped None"


def test_alone_everything_is_given_back():
    assert not processes.several()
    assert processes.first()
    assert processes.share(5) == slice(0, 5)
    assert processes.exchange_json({"a": 1}) == [{"a": 1}]
    with pytest.raises(KeyError):
        processes.agree(lambda: {}["x"], "looking")
    processes.meet("nobody")


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 5, 6])
def test_shares_are_the_whole_list_in_order(monkeypatch, count, length):
    monkeypatch.setattr(agreement, "several", lambda: True)
    monkeypatch.setattr(agreement.jax, "process_count", lambda: count)
    parts = []
    for index in range(count):
        monkeypatch.setattr(agreement.jax, "process_index", lambda index=index: index)
        parts.append(list(range(length))[agreement.share(length)])
    assert [x for part in parts for x in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_examples_come_back_as_they_were():
    rng = np.random.default_rng(0)

    def tokens():
        return rng.integers(0, 2**31 - 1, rng.integers(1, 6), dtype=np.int32)

    plain = Example((tokens(),), (0,))
    pair = Example(
        (tokens(), tokens()), (1, 1), np.array([[0, 2], [1, 0]], np.float32), np.array([0.5, -1], np.float32)
    )
    chat_tokens = tokens()
    chat = Example((chat_tokens,), (0,), masks=(chat_tokens % 2 == 0,), labels=np.array([1], np.float32))
    for found, expected in zip(from_bytes(to_bytes([plain, pair, chat])), [plain, pair, chat], strict=True):
        assert found.starts == expected.starts
        for one, other in zip(found, expected, strict=True):
            for x, y in zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]:
                assert (x is None and y is None) or np.array_equal(x, y)
    assert from_bytes(to_bytes([])) == []


def test_a_bad_row_is_an_error_of_its_own_where_there_is_one_process():
    def encode(rows):
        raise DataError("row 3 is bad")

    with pytest.raises(DataError, match="row 3 is bad"):
        in_shares([1, 2, 3], encode, "rows")


def test_a_second_process_that_never_starts_is_an_error_that_names_the_place():
    code = (
        "from rlhf_jax.parallel import initialize\n"
        f"initialize('manual', coordinator='127.0.0.1:{several.free_port()}', count=2, index=0, timeout=3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 75
    assert "process 0 of 2, coordinator 127.0.0.1:" in done.stderr, done.stderr[-2000:]
    assert "the others did not come within 3 s" in done.stderr
