"""Made-up rows without a fault, in which a test plants one; and what a check of them says."""

import json
import random

from rlhf_jax.data import DataConfig, write_jsonl
from rlhf_jax.stages.data_check import examine

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "zu")
ROWS = 100


class Writer:
    """Writes sentences of made-up words, the same ones every time."""

    def __init__(self, seed):
        self.draw = random.Random(seed)

    def text(self, words):
        picked = ("".join(self.draw.choices(SYLLABLES, k=3)) for _ in range(words))
        return f"{' '.join(picked).capitalize()}."


def clean(count=ROWS):
    """Pairs in which neither length nor place tells which response is preferred: each of four kinds as often."""
    write, rows = Writer(0), []
    for place in range(count):
        long, short = write.text(11), write.text(9)
        a, b = (long, short) if place % 2 else (short, long)
        rows.append({"prompt": write.text(8), "a": a, "b": b, "preference": "ab"[place // 2 % 2]})
    return rows


def checked(folder, rows, **more):
    file = folder / "pairs.jsonl"
    if all(isinstance(row, dict) for row in rows):
        write_jsonl(file, rows)
    else:
        file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return examine(DataConfig(source=str(file), **more))


def names(check):
    return {finding.name for finding in check.findings}


def found(check, name):
    return next(finding for finding in check.findings if finding.name == name)
