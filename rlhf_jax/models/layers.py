"""The pieces that blocks are made of: linear maps, norms and rotary positions."""

from __future__ import annotations

import functools
import math
import zlib

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.models.ambient import constrained
from rlhf_jax.models.config import ModelConfig, RopeScaling

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def normal(key: jax.Array, shape: tuple[int, ...], scale: float) -> nnx.Param:
    """Draw a float32 parameter from a normal distribution."""
    return nnx.Param(jax.random.normal(key, shape, jnp.float32) * scale)


class Linear(nnx.Module):
    """``x W + b``, and beside a frozen W maybe an adapter: ``x W + b + (alpha / rank) x A B``.

    Args:
        config: the model's: whether the matrix is held in 8 bits, and what an adapter looks like.
        path: the matrix's path below the model's root; an adapter is added where ``config.lora.targets`` matches it.
        sizes: how many inputs and outputs.
        bias: whether there is one.
        scale: standard deviation of the first weights.
        rngs: keys for the first weights.
    """

    def __init__(
        self, config: ModelConfig, path: str, sizes: tuple[int, int], *, bias: bool, scale: float, rngs: nnx.Rngs
    ):
        self.path, self.lora = path, config.lora
        # As parallel.PARAM_RULES lays the matrix: its inner side over heads or the MLP's width.
        self.axes = ("tensor", "fsdp") if path.endswith(("/out", "/down")) else ("fsdp", "tensor")
        if config.int8:
            self.kernel = nnx.Param(jnp.zeros(sizes, jnp.int8))
            self.kernel_scale = nnx.Param(jnp.ones(sizes[1:], jnp.float32))
        else:
            self.kernel = normal(rngs.params(), sizes, scale)
        if bias:
            self.bias = nnx.Param(jnp.zeros(sizes[1:], jnp.float32))
        if config.lora.adapts(path):
            # B is zero, so that an adapter changes nothing until it is trained (Hu et al. 2021, section 4.1).
            self.lora_a = normal(rngs.params(), (sizes[0], config.lora.rank), sizes[0] ** -0.5)
            self.lora_b = nnx.Param(jnp.zeros((config.lora.rank, sizes[1]), jnp.float32))

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Map ``x [..., in]`` to ``[..., out]``; with a key the adapter's inputs are dropped out."""
        y = product(x, self.kernel[...], self.axes)
        if hasattr(self, "kernel_scale"):
            y = y * _last_axis(self.kernel_scale[...], x)
        if hasattr(self, "bias"):
            y = y + _last_axis(self.bias[...], x)
        if hasattr(self, "lora_a"):
            if key is not None and self.lora.dropout:
                kept = 1 - self.lora.dropout
                own = jax.random.fold_in(key, zlib.crc32(self.path.encode()))
                x = jnp.where(jax.random.bernoulli(own, kept, x.shape), x / kept, 0)
            # As one long matrix: XLA makes the gradients of thin matrices from three dimensions several times slower.
            low = x.reshape(-1, x.shape[-1]) @ self.lora_a[...].astype(x.dtype)
            scaled = self.lora_b[...] * (self.lora.alpha / self.lora.rank)
            y = y + (low @ scaled.astype(x.dtype)).reshape(y.shape)
        # Biases and the scales of 8-bit matrices are float32, and the stream's type is not to change.
        return y.astype(x.dtype)


class Norm(nnx.Module):
    """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last axis, in float32."""

    def __init__(self, config: ModelConfig, width: int, kind: str = ""):
        self.kind, self.eps, self.offset = kind or config.norm, config.norm_eps, config.norm_offset
        self.scale = nnx.Param(jnp.full((width,), 1.0 - config.norm_offset, jnp.float32))
        if self.kind == "layer":
            self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise ``x [..., width]``; shape and type stay."""
        x32 = x.astype(jnp.float32)
        if self.kind == "layer":
            x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        unit = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.eps)
        y = unit * (_last_axis(self.scale[...].astype(jnp.float32), x) + self.offset)
        if self.kind == "layer":
            y = y + _last_axis(self.bias[...].astype(jnp.float32), x)
        return y.astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, kernel: jax.Array, axes: tuple[str, str]) -> jax.Array:
    """Multiply ``x [..., in]`` by a ``kernel [in, out]`` of any type: ``x W``, in the type of ``x``.

    The gradient is written out. It keeps the kernel as it is stored: one in the type of ``x`` would lie there for all
    layers at once. And its product for the kernel, ``x^T g``, transposes the narrower of the two; what jax derives
    transposes ``g`` always, which on a CPU took longer than the product where ``g`` is an MLP's inner width. Over many
    devices it is told that the sum goes to where the kernel lies, ``axes`` of the mesh, before it gets the kernel's
    type; otherwise every device would receive the whole sum, and in more bytes.
    """
    return x @ kernel.astype(x.dtype)


def _product_forward(
    x: jax.Array, kernel: jax.Array, axes: tuple[str, str]
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    # Not by calling ``product``, inside which a remat policy would see no matrix product.
    return x @ kernel.astype(x.dtype), (x, kernel)


def _product_backward(
    axes: tuple[str, str], kept: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    x, kernel = kept
    back = g @ kernel.astype(g.dtype).T
    if not jnp.issubdtype(kernel.dtype, jnp.floating):  # 8 bits are never trained
        return back, None
    rows, outputs = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    tokens = (((0,), (0,)), ((), ()))
    if x.shape[-1] <= g.shape[-1]:
        change = jax.lax.dot_general(rows, outputs, tokens)
    else:
        change = jax.lax.dot_general(outputs, rows, tokens).T
    return back, constrained(change, *axes).astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


def _last_axis(vector: jax.Array, like: jax.Array) -> jax.Array:
    return vector.astype(jnp.promote_types(vector.dtype, like.dtype)).reshape((1,) * (like.ndim - 1) + (-1,))


def rotary(positions: jax.Array, width: int, theta: float, scaling: RopeScaling) -> tuple[jax.Array, jax.Array]:
    """Compute sines and cosines, float32 ``[B, T, 1, pairs]``, of rotary positions ``[B, T]`` (Su et al. 2021).

    Pair i turns by ``position theta^(-2i / width)``. If the width is odd, the last dimension turns with the next one.
    """
    frequency = theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    frequency = _scaled(frequency, scaling).reshape(1, 1, 1, -1)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.sin(angle), jnp.cos(angle)


def _scaled(frequency: jax.Array, scaling: RopeScaling) -> jax.Array:
    if scaling.kind == "none":
        return frequency
    if scaling.kind == "linear":
        return frequency / scaling.factor
    wavelength = 2 * math.pi / frequency
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    # 1 where the wavelength is short, 0 where it is long, a ramp between (Llama 3.1).
    kept = jnp.clip((scaling.original_length / wavelength - low) / (high - low), 0, 1)
    return kept * frequency + (1 - kept) * frequency / scaling.factor


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn the first dimensions of ``x [B, T, H, Dh]`` by ``rotary``'s angles, the two halves of them as pairs."""
    sin, cos = angles
    width = 2 * sin.shape[-1]
    a, b = jnp.split(x[..., :width].astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
    return turned if width == x.shape[-1] else jnp.concatenate([turned, x[..., width:]], axis=-1)
