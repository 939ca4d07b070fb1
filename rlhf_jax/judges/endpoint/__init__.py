"""A judge behind an OpenAI-compatible endpoint: asked by many threads, every answer kept, no failure ever a vote."""

from rlhf_jax.judges.endpoint.address import Address, read_address
from rlhf_jax.judges.endpoint.asking import Endpoint
from rlhf_jax.judges.endpoint.config import EndpointConfig
from rlhf_jax.judges.endpoint.costs import Counts
from rlhf_jax.judges.endpoint.errors import EndpointError, EndpointUnavailable

__all__ = ["Address", "Counts", "Endpoint", "EndpointConfig", "EndpointError", "EndpointUnavailable", "read_address"]
