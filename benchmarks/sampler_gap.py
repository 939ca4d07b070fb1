"""Sampler against trainer: which operators give other bits, and what is left of it in log-probabilities.

    python -m benchmarks.sampler_gap [--rows 64] [--prompt 32] [--new 32] [--shape tiny] [--fast]

Random weights. *Operator* compares one token a row, as decoding has it, with the same token within whole rows, on the
same input; the sum of a row's log-weights is compared as the sampler makes it, in blocks, and as the trainer does.
*Pass* compares the trainer's forward pass with itself: under a gradient, in half of the batch, with more padding on
either side, with the rows in another order. *Sampler* is the engine against the trainer's pass, by compute type and by
kernel. A figure is the share of numbers whose bits differ; beside it stands the mean and the largest difference, for
log-probabilities in nats a token. On a GPU or TPU this is the table of ``docs/parity.md`` by dtype and kernel.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import line, print_lines
from benchmarks.options import Options, options, parser
from benchmarks.shapes import SHAPES
from rlhf_jax import models, rollout
from rlhf_jax.models import ModelConfig
from rlhf_jax.models.attention import attention, cached_attention, laid
from rlhf_jax.models.decoding import decoding_kind
from rlhf_jax.rollout.responses import as_batch
from rlhf_jax.rollout.sampling import sample_token
from rlhf_jax.stages import forward
from rlhf_jax.types import Array, Params, Rollout, SequenceBatch

Gap = tuple[float, float, float]
PADDING = 8  # columns


class Sizes(NamedTuple):
    """Rows, and tokens of a prompt and of a response."""

    rows: int
    prompt: int
    new: int


def gap(found: Any, expected: Any, where: Any = None) -> Gap:
    """Compute the share of numbers whose bits differ, and the mean and the largest difference.

    Example:
        >>> gap(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
        (0.5, 0.25, 0.5)
    """
    a, b = (np.asarray(x, np.float32)[... if where is None else np.asarray(where)] for x in (found, expected))
    apart = np.abs(a - b)
    return float(np.mean(a != b)), float(apart.mean()), float(apart.max())


def operators(config: ModelConfig, sizes: Sizes) -> dict[str, Gap]:
    """Compare each operator for one token a row with itself for whole rows."""
    rows, length, at = sizes.rows, sizes.prompt + sizes.new, sizes.prompt
    keys = iter(jax.random.split(jax.random.key(0), 16))
    dtype = config.compute_dtype

    def random(*shape: int) -> Array:
        return jax.random.normal(next(keys), shape).astype(dtype)

    def product(x: Array, matrix: Array) -> Array:
        return x @ matrix

    def norm(x: Array) -> Array:
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.norm_eps)

    def whole(q: Array, k: Array, v: Array) -> Array:
        ones = jnp.ones((rows, length), jnp.int32)
        return attention(q, k, v, ones, scale=config.head_dim**-0.5, kind=config.attention)

    def step(q: Array, k: Array, v: Array) -> Array:
        kind = decoding_kind(config)
        keys, values, lengths = laid(k, kind), laid(v, kind), jnp.full(rows, at + 1)
        return cached_attention(q, keys, values, lengths, scale=config.head_dim**-0.5, kind=kind)

    x, wide = random(rows, length, config.d_model), random(rows, length, config.d_ff)
    up, down = random(config.d_model, config.d_ff), random(config.d_ff, config.d_model)
    q = random(rows, length, config.n_heads, config.head_dim)
    k, v = (random(rows, length, config.n_kv_heads, config.head_dim) for _ in range(2))
    logits = jax.random.normal(next(keys), (rows, config.vocab_size)) * 2
    draw = jax.jit(sample_token, static_argnames=("temperature", "top_k", "top_p"))
    token, sampled = draw(jax.random.split(next(keys), rows), logits, jnp.int32(0), temperature=1.0, top_k=0, top_p=1.0)

    @jax.jit
    def trained(logits: Array) -> Array:
        picked = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        return picked - jax.nn.logsumexp(logits, axis=-1)

    multiply, normalise = jax.jit(product), jax.jit(norm)
    one = slice(at, at + 1)
    return {
        "norm": gap(normalise(x[:, one]), normalise(x)[:, one]),
        "product, width to MLP": gap(multiply(x[:, one], up), multiply(x, up)[:, one]),
        "product, MLP to width": gap(multiply(wide[:, one], down), multiply(wide, down)[:, one]),
        "attention over the cache": gap(jax.jit(step)(q[:, at], k, v), jax.jit(whole)(q, k, v)[:, at]),
        "log Z in blocks": gap(sampled, trained(logits)),
    }


def widened(batch: SequenceBatch, left: int, right: int) -> SequenceBatch:
    """Add columns of padding to a batch on either side."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (left, right))), batch)


class Setting(NamedTuple):
    """A model with weights of some contrast, and what it sampled."""

    model: models.Model
    params: Params
    sampled: Rollout

    def passed(self, batch: SequenceBatch) -> np.ndarray:
        """Run the trainer's forward pass: log-probabilities [B, K, S]."""
        return np.asarray(_passed(self.model, self.params, batch))

    def under_gradient(self, batch: SequenceBatch) -> np.ndarray:
        """Run it in a program that makes a gradient as well."""
        return np.asarray(_under_gradient(self.model, self.params, batch)[0])


def _logprobs(model: models.Model, params: Params, batch: SequenceBatch) -> Array:
    return forward({"policy": model}, {"policy": params}, batch).logprobs


_passed = jax.jit(_logprobs, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _under_gradient(model: models.Model, params: Params, batch: SequenceBatch) -> tuple[Array, Params]:
    def loss(params: Params) -> tuple[Array, Array]:
        found = _logprobs(model, params, batch)
        return jnp.sum(jnp.where(batch.mask, found, 0.0)), found

    (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return found, gradient


def make_setting(config: ModelConfig, sizes: Sizes, *, slots: int = 0, seed: int = 0) -> Setting:
    """Sample from a model with random weights, prompts of unequal length; no token ends a response."""
    model = models.build(config)
    params = jax.jit(model.init)(jax.random.key(seed))
    # As initialised, every distribution is nearly flat, and rounding hardly shows.
    params = {**params, "blocks": jax.tree.map(lambda x: x * 2.0, params["blocks"])}
    params["embedding"] = params["embedding"] * 4.0
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, sizes.prompt + 1, sizes.rows)
    prompts = [rng.integers(3, config.vocab_size, max(1, n)).tolist() for n in lengths]
    drawing = rollout.SamplingConfig(max_new_tokens=sizes.new, window=min(8, sizes.new), slots=slots)
    engine = rollout.Engine(model, drawing, pad_id=0, eos_id=config.vocab_size)
    return Setting(model, params, engine(params, prompts, key=jax.random.key(seed + 1)))


def passes(setting: Setting) -> dict[str, Gap]:
    """Compare the trainer's pass over what was sampled with itself in other programs and shapes."""
    batch = as_batch(setting.sampled)
    mask, expected = np.asarray(batch.mask), setting.passed(batch)
    half, back = len(mask) // 2, np.arange(len(mask))[::-1]
    first = jax.tree.map(lambda x: x[:half], batch)
    return {
        "under a gradient": gap(setting.under_gradient(batch), expected, mask),
        "half of the batch": gap(setting.passed(first), expected[:half], mask[:half]),
        "padding on the left": gap(setting.passed(widened(batch, PADDING, 0))[..., PADDING:], expected, mask),
        "padding on the right": gap(setting.passed(widened(batch, 0, PADDING))[..., :-PADDING], expected, mask),
        "other order of rows": gap(setting.passed(jax.tree.map(lambda x: x[back], batch))[back], expected, mask),
    }


def kernels(config: ModelConfig) -> list[tuple[str, ModelConfig, str | None]]:
    """List types, kernels and precisions of products that this kind of device has: a name, the model, the precision."""
    where = jax.default_backend()
    asked: list[tuple[Literal["float32", "bfloat16"], Literal["xla", "cudnn", "splash"], str | None]] = [
        ("float32", "xla", None)
    ]
    if where != "cpu":
        asked.append(("float32", "xla", "highest"))
    asked.append(("bfloat16", "xla", None))
    if where == "gpu":
        asked.append(("bfloat16", "cudnn", None))
    if where == "tpu":
        asked.append(("bfloat16", "splash", None))
    return [
        (
            f"{dtype}, {kind}" + (f", products {precision}" if precision else ""),
            dataclasses.replace(config, compute_dtype=dtype, attention=kind),
            precision,
        )
        for dtype, kind, precision in asked
    ]


def lines(asked: Options, rows: int = 64, prompt: int = 32, new: int = 32) -> Iterator[dict[str, Any]]:
    """Measure operators, passes and samplers."""
    sizes = Sizes(8, 4, 4) if asked.fast else Sizes(rows, prompt, new)
    for shape in asked.chosen(("tiny", "smol", "1b")) if asked.fast or asked.shapes else ("tiny",):
        exact = dataclasses.replace(SHAPES[shape], compute_dtype="float32")

        def say(figure: str, found: Gap, shape: str = shape) -> dict[str, Any]:
            beside = {"mean": found[1], "largest": found[2], **sizes._asdict(), "device": jax.devices()[0].device_kind}
            return line("sampler_gap", figure, found[0], "share of numbers", shape=shape, beside=beside)

        for count in sorted({8, sizes.rows}):
            for name, found in operators(exact, sizes._replace(rows=count)).items():
                yield say(f"operator, {count} rows: {name}", found)
        for name, found in passes(make_setting(exact, sizes)).items():
            yield say(f"pass: {name}", found)
        for name, config, precision in kernels(exact):
            with jax.default_matmul_precision(precision):
                for slots in (0, max(1, sizes.rows // 2)):
                    made = make_setting(config, sizes, slots=slots)
                    batch = as_batch(made.sampled)
                    found = gap(made.sampled.logprobs, made.passed(batch), batch.mask)
                    yield say(f"sampler, {name}" + (f", {slots} slots" if slots else ""), found)


def main() -> None:
    asked = parser(__doc__)
    asked.add_argument("--rows", type=int, default=64, help="responses that are sampled side by side")
    asked.add_argument("--prompt", type=int, default=32, help="tokens of the longest prompt")
    asked.add_argument("--new", type=int, default=32, help="tokens of a response")
    given = asked.parse_args()
    print_lines(lines(options(given), given.rows, given.prompt, given.new))


if __name__ == "__main__":
    main()
