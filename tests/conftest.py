"""The whole session runs on 8 simulated CPU devices, with JAX's own checks on: set before JAX starts."""

import os

# Programs here run for milliseconds and compile for seconds, so LLVM's optimiser is left out.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
