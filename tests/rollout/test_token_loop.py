"""The compiled token loop copies no weights: nothing of the size of a matrix is made by any of its instructions.

The program that is looked at is the one that runs on this machine. Weights come into it as parameters, are handed into
the loop, and are read by matrix products; whatever else has the size of a matrix is a copy, in another place, type or
layout. Sizes are such that no activation has that of a matrix.
"""

import math
import re

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax import models
from rlhf_jax.models import LoRAConfig
from rlhf_jax.rollout import Engine, SamplingConfig

SIZES = {"d_model": 20, "n_layers": 3, "n_heads": 2, "n_kv_heads": 1, "head_dim": 14, "d_ff": 46}
CONFIG = models.ModelConfig(vocab_size=331, **SIZES)
ROWS, COLUMNS = 3, 12
# What hands a value on as it lies in memory.
HANDED_ON = {"parameter", "get-tuple-element", "bitcast"}
INSTRUCTION = re.compile(
    r"\s*(?:ROOT )?%?\S+ = (?:\w+\[(?P<shape>[\d,]*)\]\S*|\(.*?\)) (?P<opcode>[\w-]+)\((?P<rest>.*)"
)
CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%?([\w.-]+)|(?:branch|called)_computations=\{([^}]*)\}")


def window_program(model, params):
    """The text of the compiled window, and the weights as they are laid out."""
    engine = Engine(model, SamplingConfig(max_new_tokens=8, window=4), pad_id=0, eos_id=2)

    def begun(laid):
        keys = jax.random.split(jax.random.key(0), ROWS)
        tokens, lengths = jnp.zeros((ROWS, 4), jnp.int32), jnp.ones(ROWS, jnp.int32)
        return engine.programs.start(laid, tokens, lengths, keys, samples=1, columns=COLUMNS)

    laid = engine.lay_out(params).weights
    program = engine.programs.window.lower(laid, jax.eval_shape(begun, laid), 0).compile().as_text()
    return program, laid


def matrices(laid):
    return {x.size for x in jax.tree.leaves(laid) if x.ndim > 1}


def computations(program):
    """By name: its instructions, as (opcode, number of elements, what it calls); and which of them is the entry."""
    found, name, entry = {}, "", ""
    for line in program.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith("{"):
            name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
            found[name] = []
            entry = name if line.startswith("ENTRY") else entry
        elif name and (read := INSTRUCTION.match(line)):
            called = [x.strip().lstrip("%") for one, many in CALLED.findall(line) for x in (one or many).split(",")]
            sizes = [int(x) for x in (read["shape"] or "").split(",") if x]
            found[name].append((read["opcode"], None if read["shape"] is None else math.prod(sizes), called))
    return found, entry


def reachable(found, names):
    seen, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [called for _, _, calls in found[name] for called in calls]
    return seen


def made(found, names, sizes):
    """Instructions, fused ones included, whose result is as large as a matrix."""
    return [
        (name, opcode, size)
        for name in reachable(found, names)
        for opcode, size, _ in found[name]
        if size in sizes and opcode not in HANDED_ON
    ]


def loop(found, entry):
    """The body and the condition of the loop over tokens: the only one that the entry begins."""
    ((_, _, called),) = [x for x in found[entry] if x[0] == "while"]
    return called


def adapted(config, params):
    config, params = models.add_adapters(config, params, LoRAConfig(rank=3), jax.random.key(1))
    return config, jax.tree.map(lambda x: x + 0.01, params)


@pytest.mark.parametrize("adapters", [False, True], ids=["all weights", "adapters"])
def test_no_instruction_of_the_window_makes_anything_as_large_as_a_matrix(adapters):
    config, params = CONFIG, models.build(CONFIG).init(jax.random.key(0))
    if adapters:
        config, params = adapted(config, params)
    program, laid = window_program(models.build(config), params)
    sizes = matrices(laid)
    assert sizes == {280, 560, 920, 6620}  # key and value, query and out, the three of the MLP, the embedding
    found, entry = computations(program)
    inside = reachable(found, loop(found, entry))
    # Products with matrices are in there: three MLPs, four of attention each, and the logits.
    handed = [opcode for name in inside for opcode, size, _ in found[name] if size in sizes]
    assert len(handed) >= 3 * 7 + 1
    assert not made(found, loop(found, entry), sizes)
    assert not made(found, [entry], sizes)  # nor is anything copied once a window


def test_weights_on_a_stack_are_found():
    """Every token takes its layers off a stack again, as a scan over layers does."""
    model = models.build(CONFIG)

    def lay_out(params):
        laid = model.lay_out(params)
        return {**laid, "blocks": jax.tree.map(lambda *x: jnp.stack(x), *laid["blocks"].values())}

    def decode(laid, tokens, cache):
        first = jnp.min(cache.lengths) // 10**6  # 0, which the compiler does not know
        blocks = {i: jax.tree.map(lambda x, i=i: x[first + i], laid["blocks"]) for i in range(3)}
        return model.decode({**laid, "blocks": blocks}, tokens, cache)

    def prefill(laid, *prompts):
        return model.prefill(
            {**laid, "blocks": {i: jax.tree.map(lambda x, i=i: x[i], laid["blocks"]) for i in range(3)}}, *prompts
        )

    planted = model._replace(lay_out=lay_out, decode=decode, prefill=prefill)
    program, _ = window_program(planted, model.init(jax.random.key(0)))
    found, entry = computations(program)
    assert {size for _, _, size in made(found, loop(found, entry), {280, 560, 920})} == {280, 560, 920}


def test_weights_in_another_type_are_found():
    model = models.build(CONFIG)

    def lay_out(params):
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if x.ndim > 1 else x, model.lay_out(params))

    program, _ = window_program(model._replace(lay_out=lay_out), model.init(jax.random.key(0)))
    found, entry = computations(program)
    assert {opcode for _, opcode, size in made(found, [entry], {280, 560, 920})} >= {"convert"}
