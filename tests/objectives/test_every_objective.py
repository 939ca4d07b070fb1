"""What holds for all objectives alike: soundness, empty groups, silence of the defaults, and that none is left out."""

import functools
import inspect
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import objectives, testing
from rlhf_jax.types import Outputs

PROPERTIES = {
    "takes outputs and batch",
    "fields",
    "runs",
    "returns a Loss",
    "declared reduction",
    "scalar float32",
    "metrics",
    "traceable",
    "finite gradients",
    "has a gradient",
    "mask",
    "shift",
    "padding length",
    "padding side",
    "pad == eos",
    "packing",
    "integer rewards",
    "micro-batching",
    "filler groups",
    "mesh",
    "stop gradient",
    "finite at ties",
    "sign",
    "jit = eager",
}

for_each = pytest.mark.parametrize("name", objectives.NAMES)


def objective(name):
    """The function, with the tiny batch's length for a hyperparameter that has no default."""
    function = getattr(objectives, name)
    needed = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return functools.partial(function, **{p: 14 for p in needed if p not in (function.__kwdefaults__ or {})})


def test_every_file_with_a_function_of_its_name_is_an_objective_and_nothing_else_is():
    files = Path(objectives.__file__).parent.glob("*.py")
    named = {f.stem for f in files if re.search(rf"^def {f.stem}\([^)]*\) -> Loss:", f.read_text(), flags=re.M)}
    assert {"sft", "dpo", "ppo", "rloo"} <= named
    assert tuple(sorted(named)) == objectives.NAMES
    public = {name for name, value in vars(objectives).items() if callable(value) and name[0] != "_"}
    assert public == named, "nothing else stands beside them"


@for_each
def test_its_docstring_is_its_documentation(name):
    """What help(objectives.NAME) shows; a page in docs/objectives may say more."""
    said = inspect.getdoc(getattr(objectives, name))
    for part in ("Args:", "Returns:", "Raises:", "Source:"):
        assert f"\n{part}" in said, f"no {part}"
    assert re.search(r"``[^`]*[=(][^`]*``", said), "no equation"


@for_each
def test_it_is_sound(quick_models, name):
    assert set(testing.check_objective(objective(name))) == PROPERTIES


@for_each
def test_the_defaults_are_usual(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(name)(some_outputs(testing.tiny_batch()), testing.tiny_batch())


@for_each
def test_groups_that_only_fill_the_batch_do_not_count(name):
    """Whatever is left in them: zeros, which make denominators and deviations 0, or NaN."""
    batch = testing.tiny_batch(groups=4)
    outputs = some_outputs(batch)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(outputs, batch):
        given = objective(name)(outputs, batch)
        numerator, weight = given.reduction(given.values, given.mask)
        means = {k: jnp.sum(jnp.where(m, v, 0)) / jnp.maximum(jnp.sum(m), 1) for k, (v, m) in given.metrics.items()}
        return numerator / jnp.where(weight == 0, 1, weight), means

    want, gradient = loss(outputs, batch)
    for left_behind in (0.0, np.nan):
        got, grown = loss(*jax.tree.map(functools.partial(with_fillers, left_behind=left_behind), (outputs, batch)))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, rtol=1e-5, atol=1e-7), want, got)
        for x, y in zip(gradient, grown, strict=True):
            np.testing.assert_allclose(y, with_fillers(x, left_behind=0.0), rtol=1e-5, atol=1e-7)


def with_fillers(x, left_behind):
    """The groups of a batch with an empty one after the first and one at the end."""
    filler = np.full((1, *x.shape[1:]), left_behind if jnp.issubdtype(x.dtype, jnp.floating) else 0, x.dtype)
    return np.concatenate([x[:1], filler, x[1:], filler])


def some_outputs(batch):
    noise = functools.partial(np.random.default_rng(4).normal, 0.0, 0.1)
    return Outputs(
        logprobs=batch.old_logprobs + noise(batch.mask.shape).astype(np.float32),
        entropy=jnp.abs(noise(batch.mask.shape).astype(np.float32)),
        values=batch.old_values + noise(batch.mask.shape).astype(np.float32),
        scores=jnp.asarray(noise(batch.reward.shape), jnp.float32),
    )
