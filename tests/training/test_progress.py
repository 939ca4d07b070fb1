import errno
import io
import itertools

from rlhf_jax.training import Progress
from rlhf_jax.training.progress import duration


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_are_few():
    stream, clock = io.StringIO(), itertools.count(0.0, 1.0)  # every look at the clock takes a second
    with Progress("sft", 100, stream=stream, every=15.0, clock=lambda: next(clock)) as progress:
        for done in range(1, 101):
            progress.update(done, {"loss": 1 / done})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 7  # each 15 s, and the end
    assert lines[0] == "sft 15/100  1 steps/s  1:25 left  loss 0.06667"
    assert lines[-1] == "sft 100/100 after 1:41  loss 0.01"
    assert "\x1b" not in stream.getvalue()


def test_steps_done_before_a_resume_do_not_count_towards_the_rate():
    stream, clock = io.StringIO(), iter([0.0, 20.0, 20.0])
    with Progress("sft", 100, start=80, stream=stream, clock=lambda: next(clock)) as progress:
        progress.update(90, {})
    assert stream.getvalue().splitlines()[0] == "sft 90/100  0.5 steps/s  0:20 left"


def test_what_compiles_does_not_count_towards_the_time_left():
    """Step 1 takes a minute, and so does the evaluation at step 10; all others take a second: 80 are left."""
    stream, times = io.StringIO(), itertools.accumulate([0.0, 60.0, *[1.0] * 8, 60.0, *[1.0] * 20])
    with Progress("sft", 100, stream=stream, every=0.0, clock=lambda: next(times)) as progress:
        for done in range(1, 21):
            progress.update(done, {})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "sft 1/100  ... steps/s  ? left"  # nobody knows yet
    assert lines[1] == "sft 2/100  1 steps/s  1:38 left"
    assert lines[9] == "sft 10/100  1 steps/s  1:30 left"
    assert lines[19] == "sft 20/100  1 steps/s  1:20 left"


def test_a_terminal_that_has_closed_ends_no_run():
    class Closed(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    with Progress("sft", 4, stream=Closed(), every=0.0) as progress:
        progress.update(1, {})
        progress.update(4, {})


def test_nothing_to_do_says_nothing():
    stream = io.StringIO()
    with Progress("sft", 100, start=100, stream=stream):
        pass
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar():
    stream = Terminal()
    with Progress("reward", 4, stream=stream) as progress:
        progress.update(4, {"accuracy": 0.71})
    text = stream.getvalue()
    assert "reward" in text
    assert "4/4" in text
    assert "accuracy 0.71" in text


def test_durations():
    assert [duration(x) for x in (0, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]
