import os
import signal
import threading

import pytest

from rlhf_jax.training import Interrupted, StopSignals


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_is_noted_and_nothing_happens(signum, code):
    before = signal.getsignal(signum)
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), signum)
        assert stop.received == signum
    assert signal.getsignal(signum) is before
    assert Interrupted("ppo", 3, signum).exit_code == code
    assert "ppo stopped at step 3 on SIG" in str(Interrupted("ppo", 3, signum))


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_does_not_wait():
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_leave_the_handlers_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignals() as stop:
            seen.append((stop.received, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, before)]
