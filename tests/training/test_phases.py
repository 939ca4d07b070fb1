"""Phases: a second belongs to the innermost phase, compilation is taken out of it, and other threads may look."""

import threading

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.training import Phases


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.time = 0.0

    def __call__(self):
        return self.time


@pytest.fixture
def clock():
    return Clock()


def test_a_second_belongs_to_the_innermost_phase(clock):
    phases = Phases(clock)
    clock.time = 1.0
    with phases.during("update"):
        clock.time = 3.0
        with phases.during("collect"):
            clock.time = 7.0
        with phases.during("prepare"):
            clock.time = 15.0
        clock.time = 31.0
    clock.time = 63.0
    assert phases.seconds() == {"": 1 + 32, "update": 2 + 16, "collect": 4, "prepare": 8}
    assert sum(phases.seconds().values()) == clock.time


def test_a_phase_that_fails_is_left(clock):
    phases = Phases(clock)
    with pytest.raises(KeyError), phases.during("update"):
        raise KeyError
    assert phases.now().phase == ""


def test_another_thread_sees_step_phase_and_since_when(clock):
    phases = Phases(clock)
    found = []
    clock.time = 5.0
    phases.at(3)
    before = phases.now().changes
    with phases.during("save"):
        clock.time = 9.0
        looking = threading.Thread(target=lambda: found.append(phases.now()))
        looking.start()
        looking.join()
    (now,) = found
    assert (now.step, now.phase, now.since, now.first) == (3, "save", 5.0, True)
    assert before < now.changes < phases.now().changes
    with phases.during("save"):
        assert not phases.now().first


def test_what_is_compiled_twice_over_is_counted_once(clock):
    """JAX tells of an inner function's tracing, [2, 3], before that of the function around it, [1, 5]."""
    phases, event = Phases(clock), "/jax/core/compile/jaxpr_trace_duration"
    with phases.during("update"):
        clock.time = 3.0
        phases.compiled(event, 2.0, 3.0)
        assert phases.seconds() == {"": 0.0, "update": 2.0, "compile": 1.0}
        clock.time = 5.0
        phases.compiled(event, 1.0, 5.0)
        assert phases.seconds() == {"": 0.0, "update": 1.0, "compile": 4.0}
        clock.time = 9.0
        phases.compiled("/jax/core/compile/backend_compile_duration", 6.0, 9.0, fun_name="step")
        phases.compiled("/jax/something/else", 0.0, 9.0)
    assert phases.seconds() == {"": 0.0, "update": 2.0, "compile": 7.0}


def test_only_the_thread_that_works_compiles_for_it(clock):
    phases = Phases(clock)
    clock.time = 4.0
    other = threading.Thread(target=phases.compiled, args=("/jax/core/compile/x", 0.0, 4.0))
    other.start()
    other.join()
    assert phases.seconds() == {"": 4.0}


def test_jax_says_what_it_compiles():
    phases = Phases()
    with phases.watched(), phases.during("update"):
        program = jax.jit(lambda x: jnp.sin(x) * 41 + x)
        program(jnp.arange(7.0)).block_until_ready()
        first = phases.seconds()["compile"]
        program(jnp.arange(7.0)).block_until_ready()  # nothing is left to compile
        assert phases.seconds()["compile"] == first > 0
    jax.jit(lambda x: x * 43)(jnp.arange(7.0)).block_until_ready()  # nobody listens any more
    assert phases.seconds()["compile"] == first
