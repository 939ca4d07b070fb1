"""What all fuzz tests share: foreign bytes and values, and the promise that a reader reads or refuses them."""

import contextlib
import json
import resource
import signal

from hypothesis import settings
from hypothesis import strategies as st

SECONDS = 20.0  # of a processor; a case takes milliseconds, or a second where a program is compiled
MEMORY = 2 << 30  # bytes that a case may take beside what is held already


class Hung(BaseException):
    """A reader that does not end. No reader that catches every Exception swallows it."""


def share(percent):
    """This test's part of the cases of its reader."""
    return settings(max_examples=max(1, settings.default.max_examples * percent // 100))


@contextlib.contextmanager
def read_or_refused(*named):
    """Hold a reader to its promise: it reads, or raises an error of ``named`` with a message, in time and in memory.

    Anything else goes through, and fails the test.
    """

    def hung(*_):
        raise Hung(f"more than {SECONDS:g} s of the processor's time")

    before = signal.signal(signal.SIGVTALRM, hung)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    refused: Exception | None = None
    try:
        yield
    except named as error:
        refused = error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)
    assert refused is None or len(str(refused)) > 10, "an error without a message"


# ---- values ---------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31 - 1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30]),
    st.just(10**400),
    st.floats(),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "\0", "\ud800", "../a", "/etc/passwd", "a/b", "\n\nHuman: Hi.\n\nAssistant: Yes.", "x" * 3000]
    ),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)


def rows(fields, values=VALUES):
    """Objects that have some of these fields, and maybe others."""
    known = st.dictionaries(st.sampled_from(sorted(fields)), values, max_size=6)
    return st.builds(lambda ours, theirs: {**theirs, **ours}, known, st.dictionaries(TEXTS, VALUES, max_size=2))


@st.composite
def changed(draw, value, others=VALUES):
    """A JSON value with one to three places in it taken out or replaced, half of them by a value of the same kind."""
    copied = lambda drawn: json.loads(json.dumps(drawn))  # noqa: E731 (a value that stands in itself is no JSON)
    value = {"": copied(value)}
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_places(value))))
        old = holder[key]
        match draw(st.sampled_from(["kind", "kind", "kind", "other", "other", "remove", "add"])):
            case "kind" if isinstance(old, bool):
                holder[key] = not old
            case "kind" if isinstance(old, int | float):
                holder[key] = draw(st.one_of(NUMBERS, st.sampled_from([old - 1, old + 1, -old, old + 2**32])))
            case "kind" if isinstance(old, str):
                holder[key] = draw(st.one_of(TEXTS, st.sampled_from([old + old, old[:-1], old + "\ud800"])))
            case "remove" if old is not value[""]:
                del holder[key]
            case "add" if isinstance(old, list):
                old.append(copied(draw(st.one_of(others, st.sampled_from(old) if old else st.none()))))
            case "add" if isinstance(old, dict):
                old[draw(TEXTS)] = copied(draw(others))
            case _:
                holder[key] = copied(draw(others))
    return value[""]


def _places(value):
    """Every (holder, key) in a JSON value, the outermost first."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


# ---- bytes ----------------------------------------------------------------------------------------------------------

PIECES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"\xff" * 8, b"\0" * 8, b"\xff" * 7 + b"\x7f", b"\0\0\0\0\x01\0\0\0", b"\0\0\0\x80", b"[" * 100000]
    ),
    NUMBERS.filter(lambda n: isinstance(n, int) and 0 <= n < 2**64).map(lambda n: n.to_bytes(8, "little")),
)


@st.composite
def mutated(draw, valid, head=None):
    """Valid bytes with a few of them flipped, cut, overwritten, put in or repeated, mostly among the first ``head``."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        end = min(head or len(data), len(data)) if draw(st.integers(0, 9)) else len(data)
        at = draw(st.integers(0, max(0, end)))
        match draw(st.sampled_from(["flip", "flip", "cut", "over", "over", "insert", "repeat", "end"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 40))]
            case "over":
                piece = draw(PIECES)[: max(0, len(data) - at)]
                data[at : at + len(piece)] = piece
            case "insert":
                data[at:at] = draw(PIECES)
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 40))] * draw(st.integers(1, 20))
            case "end":
                del data[at:]
    return bytes(data)
