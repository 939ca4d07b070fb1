"""The program that renders chat templates in a process of its own, started by ``template_process``.

It reads requests and writes answers, JSON objects a line, on standard input and output. A template may count to any
number, and Jinja's sandbox does not stop it. The kernel does: this process may take so much memory and, for one
request, so much time of a processor, and is ended when it takes more. It imports nothing of this package, so that it
starts fast.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

MEMORY = 2 << 30  # bytes of address space
LONGEST = 1 << 24  # characters that a template may write


class Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox that refuses what is unsafe once a template reaches for it; Jinja's own waits until it is used."""

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        """Refuse at once."""
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe")


class Generation(Extension):
    """The tag ``{% generation %}``, which marks the assistant's part for other tools; here it has no effect."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Any) -> Any:
        """Take what stands inside as it is."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=32)
def compiled(source: str, date: str) -> jinja2.Template:
    """Compile a template, which takes a thousand times as long as to render it."""
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson  # Jinja's own escapes < and >, which a model was not trained on
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = datetime.date.fromisoformat(date).strftime
    return environment.from_string(source)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """Render a template: its text, or the reason why there is none."""
    try:
        text = compiled(request["source"], request["date"]).render(**request["variables"])
        text.encode("utf-8")  # half a character is no text
    except Exception as error:  # a template is a program: it may fail in any way
        return {"error": str(error)[:1000] or type(error).__name__}
    if len(text) > LONGEST:
        return {"error": f"it writes {len(text):,} characters, of at most {LONGEST:,}"}
    return {"text": text}


def main() -> None:
    """Answer one request after the other, until there are no more."""
    # Some systems have no such limit, and some a lower one already.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="ascii")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # The processor's time, not the clock's: a busy machine ends no template. Nothing handles the signal, so that
        # what runs in C is ended as well.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        said = answer(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(said) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
