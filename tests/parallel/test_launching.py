"""Processes that are started, listened to, stopped together and started again: with programs of a few lines, no JAX.

Each launcher runs in a process of its own, as ``rlhf launch`` does, for it takes over signals and streams.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_jax.parallel.launching import LaunchError, gpus, places

# What every child runs: it says who it is, then does what the words say.
CHILD = """
import os, pathlib, signal, sys, time
index, folder = int(os.environ["RLHF_PROCESS_INDEX"]), pathlib.Path(sys.argv[1])
stopped = lambda *_: sys.exit(143)
{first}
(folder / f"pid{{index}}").write_text(str(os.getpid()))
{then}
"""
LAUNCH = """
import sys
from rlhf_jax.parallel.launching import launch
folder, text, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
sys.exit(launch([sys.executable, "-c", text, folder], environment=None, **options))
"""
WAIT = "time.sleep(100)"
AFTER_THE_OTHER = "while not (folder / 'pid1').exists(): time.sleep(0.02)\ntime.sleep(1)"


def start(folder, then, first="signal.signal(signal.SIGTERM, stopped)", **options):
    text = CHILD.format(first=first, then=then)
    words = [sys.executable, "-c", LAUNCH, str(folder), text, repr({"processes": 2, "pause": 0.01, **options})]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(launcher):
    out, err = launcher.communicate(timeout=60)
    return launcher.returncode, out, err


def run(folder, then, **options):
    return finish(start(folder, then, **options))


def pids(folder, count=2):
    """Wait until all children have said who they are."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [path.read_text() for path in sorted(folder.glob("pid*"))]
        if len(found) == count and all(found):
            return [int(text) for text in found]
        time.sleep(0.02)
    raise AssertionError(f"only {found} of {count} processes have started")


def gone(pid):
    """Wait until a process is no more, or one that nobody has asked about."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_the_first_process_speaks_as_it_is_and_the_others_with_their_number(tmp_path):
    # In one write: the parts of a line that is not buffered may have another process' line between them.
    then = 'print(f"who {index}\\n", end=""); print(f"why {index}\\n", end="", file=sys.stderr)'
    status, out, err = run(tmp_path, then, processes=3)
    assert status == 0
    assert sorted(out.splitlines()) == ["[1] who 1", "[2] who 2", "who 0"]
    assert sorted(err.splitlines()) == ["[1] why 1", "[2] why 2", "why 0"]


def test_an_error_that_every_process_says_is_said_once_and_a_traceback_whole(tmp_path):
    # Process 0 speaks first, so that what the others say is known.
    then = (
        "while index and not (folder / 'spoken').exists(): time.sleep(0.02)\n"
        "time.sleep(index and 0.5)\n"
        "print('rlhf: error: wrong\\nother words', file=sys.stderr, flush=True)\n"
        "(folder / 'spoken').touch()"
    )
    status, _, err = run(tmp_path, then, processes=3)
    assert status == 0
    assert sorted(err.splitlines()) == ["[1] other words", "[2] other words", "other words", "rlhf: error: wrong"]


def test_a_terminal_stays_one_for_the_first_process(tmp_path):
    """So that it draws its bar; the others write lines."""
    master, slave = os.openpty()
    then = "(folder / f'saw{index}').write_text(str([os.isatty(1), os.isatty(2), os.isatty(0)]))"
    words = [sys.executable, "-c", LAUNCH, str(tmp_path), CHILD.format(first="", then=then), "{'processes': 2}"]
    done = subprocess.run(words, stdout=slave, stderr=slave, stdin=slave, check=False, timeout=60)
    os.close(master)
    os.close(slave)
    assert done.returncode == 0
    assert (tmp_path / "saw0").read_text() == "[True, True, False]"
    assert (tmp_path / "saw1").read_text() == "[False, False, False]"


def test_of_a_bar_that_is_drawn_over_and_over_the_last_state_is_shown(tmp_path):
    then = "sys.stdout.write('10%\\r50%\\r100%\\n' if index else '')"
    assert run(tmp_path, then)[1] == "[1] 100%\n"


@pytest.mark.parametrize(
    ("then", "status", "says"),
    [
        ("sys.exit(3 if index else 0)", 3, "process 1 of 2 ended with status 3"),
        ("index and os.kill(os.getpid(), signal.SIGKILL)", 128 + 9, "process 1 of 2 was ended by SIGKILL"),
        # The others' statuses come later and do not count.
        (f"index and sys.exit(7)\n{AFTER_THE_OTHER}\nsys.exit(1)", 7, "process 1 of 2 ended with status 7"),
    ],
    ids=["status", "signal", "the first counts"],
)
def test_the_process_that_failed_first_gives_the_status(then, status, says, tmp_path):
    got, _, err = run(tmp_path, then)
    assert got == status
    assert says in err


def test_after_a_failure_the_others_have_a_while_then_sigterm(tmp_path):
    then = f"sys.exit(5) if index else {WAIT}"
    status, _, err = run(tmp_path, then, grace=0.2)
    assert status == 5
    assert "the other one has 0.2 s to end" in err
    assert "still running after that: 0; sent SIGTERM" in err
    assert "killed" not in err
    assert all(gone(pid) for pid in pids(tmp_path))


def test_who_does_not_obey_sigterm_is_killed(tmp_path, monkeypatch):
    from rlhf_jax.parallel.launching import supervisor

    monkeypatch.setattr(supervisor, "_LAST", 0.2)  # in this process, so the launcher runs here
    text = CHILD.format(first="signal.signal(signal.SIGTERM, signal.SIG_IGN)", then=f"sys.exit(5) if index else {WAIT}")
    before = signal.getsignal(signal.SIGTERM)
    assert supervisor.launch([sys.executable, "-c", text, str(tmp_path)], 2, grace=1.0) == 5
    assert all(gone(pid) for pid in pids(tmp_path))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda x: x.name)
def test_a_signal_is_passed_on_once_as_sigterm_to_all(sent, tmp_path):
    first = (
        "seen = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: seen.append(1))\n"
        "signal.signal(signal.SIGINT, lambda *_: seen.append(100))"
    )
    then = "[time.sleep(0.05) for _ in range(1200) if not seen]; time.sleep(0.5); print(sum(seen)); sys.exit(143)"
    launcher = start(tmp_path, then, first=first, restarts=3)
    pids(tmp_path)
    launcher.send_signal(sent)
    status, out, err = finish(launcher)
    assert status == 143  # which is final: nothing is started again
    assert sorted(out.splitlines()) == ["1", "[1] 1"]
    assert err.count("asked to stop") == 1
    assert "start again" not in err


def test_a_second_ctrl_c_kills(tmp_path):
    launcher = start(tmp_path, WAIT, first="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    children = pids(tmp_path)
    launcher.send_signal(signal.SIGINT)
    while "asked to stop" not in launcher.stderr.readline():
        assert launcher.poll() is None
    launcher.send_signal(signal.SIGINT)
    assert finish(launcher)[0] == 128 + signal.SIGKILL
    assert all(gone(pid) for pid in children)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels know no death signal of the parent")
def test_when_the_launcher_is_killed_the_processes_end_too(tmp_path):
    launcher = start(tmp_path, WAIT, first="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    children = pids(tmp_path)
    launcher.kill()
    launcher.communicate(timeout=60)
    assert all(gone(pid) for pid in children)


def test_what_a_process_leaves_behind_ends_with_it(tmp_path):
    then = (
        "import subprocess\n"
        f"left = subprocess.Popen([sys.executable, '-c', 'import time; {WAIT}'])\n"
        "(folder / f'pid{index + 2}').write_text(str(left.pid))"
    )
    assert run(tmp_path, then)[0] == 0
    assert all(gone(pid) for pid in pids(tmp_path, count=4))


def test_all_are_started_again_at_another_port_until_it_works(tmp_path):
    then = (
        "with open(folder / f'seen{index}', 'a') as seen: seen.write(os.environ['RLHF_COORDINATOR'] + '\\n')\n"
        "sys.exit(len((folder / f'seen{index}').read_text().splitlines()) < 3)"
    )
    status, _, err = run(tmp_path, then, restarts=3)
    assert status == 0
    assert re.findall(r"restart (\d) of 3", err) == ["1", "2"]
    one, other = ((tmp_path / f"seen{index}").read_text().splitlines() for index in (0, 1))
    assert one == other
    assert len(set(one)) == 3


@pytest.mark.parametrize(("status", "tries"), [(1, 3), (134, 3), (2, 1), (130, 1), (143, 1)])
def test_only_failures_that_may_pass_are_tried_again(status, tries, tmp_path):
    then = f"index or open(folder / 'seen', 'a').write('x')\nsys.exit({status})"
    assert run(tmp_path, then, restarts=2)[0] == status
    assert len((tmp_path / "seen").read_text()) == tries


def test_the_pause_before_another_start_grows(tmp_path, monkeypatch, capfd):
    from rlhf_jax.parallel.launching import supervisor

    waits = []
    monkeypatch.setattr(supervisor, "_sleep", lambda seconds, stop: waits.append(seconds))
    text = "import sys; sys.exit(1)"
    assert supervisor.launch([sys.executable, "-c", text], 1, restarts=7) == 1
    assert waits == [1, 2, 4, 8, 16, 32, 60]
    assert "restart 7 of 7" in capfd.readouterr().err


def test_each_process_is_told_its_place():
    given = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_dump_to=x", "HOME": "/h"}
    one, other = places(2, 3, given)
    assert one["RLHF_COORDINATOR"] == other["RLHF_COORDINATOR"]
    assert one["RLHF_COORDINATOR"].startswith("127.0.0.1:")
    assert one["JAX_COORDINATOR_BIND_ADDRESS"] == one["RLHF_COORDINATOR"]  # nobody else can reach it
    assert (one["RLHF_PROCESS_COUNT"], one["RLHF_PROCESS_INDEX"], other["RLHF_PROCESS_INDEX"]) == ("2", "0", "1")
    assert one["XLA_FLAGS"] == "--xla_dump_to=x --xla_force_host_platform_device_count=3"
    assert one["HOME"] == "/h"
    assert places(2, 0, given)[1]["XLA_FLAGS"] == given["XLA_FLAGS"]
    assert given["XLA_FLAGS"].startswith("--xla_force")  # as it was


def test_on_gpus_a_process_has_one_unless_more_are_asked_for():
    def devices(*counts, there):
        return [own.get("JAX_LOCAL_DEVICE_IDS") for own in places(*counts, {}, gpus=there, port=1)]

    assert devices(4, 0, there=8) == ["0", "1", "2", "3"]
    assert devices(2, 4, there=8) == ["0,1,2,3", "4,5,6,7"]
    assert devices(1, 0, there=8) == [None]  # all of them
    assert devices(2, 0, there=0) == [None, None]
    with pytest.raises(LaunchError, match=r"has 2 GPUs to use, too few for 4 processes with one each"):
        places(4, 0, {}, gpus=2)
    with pytest.raises(LaunchError, match=r"has 8 GPUs to use, too few for 4 processes with 3 each"):
        places(4, 3, {}, gpus=8)


def test_gpus_are_counted_without_being_touched(tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpus({}, tmp_path) == 3
    assert gpus({"JAX_PLATFORMS": "cuda,cpu"}, tmp_path) == 3
    assert gpus({"JAX_PLATFORMS": "cpu"}, tmp_path) == 0
    assert gpus({"CUDA_VISIBLE_DEVICES": "1,10"}, tmp_path) == 2
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == 0


@pytest.mark.parametrize(("processes", "devices", "name"), [(0, 0, "--processes"), (2, -1, "--devices-per-process")])
def test_fewer_than_one_is_refused(processes, devices, name):
    with pytest.raises(LaunchError, match=name):
        places(processes, devices, dict(os.environ))
