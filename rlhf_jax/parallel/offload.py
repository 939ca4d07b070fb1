"""Arrays that wait in the host's memory: a frozen model takes none of the device's while nobody asks it.

They keep their mesh and how they are spread over it; only the kind of memory is another, ``pinned_host``, from which a
device reads without help of the host's processor.
"""

from __future__ import annotations

from typing import Any

import jax

HOST = "pinned_host"


def parked(shardings: Any) -> Any:
    """Place in the host's memory what these shardings place on the devices.

    Args:
        shardings: a tree of shardings.

    Returns:
        The same tree, in memory of the kind ``pinned_host``.

    Example:
        >>> import jax
        >>> from rlhf_jax.parallel import MeshConfig, make_mesh, replicated
        >>> parked(replicated(make_mesh(MeshConfig(), jax.devices()[:1]))).memory_kind
        'pinned_host'
    """
    return jax.tree.map(lambda sharding: sharding.with_memory_kind(HOST), shardings)


def park(tree: Any) -> Any:
    """Copy arrays from the devices to the host's memory.

    Args:
        tree: jax arrays. They are not deleted: the device's memory is free once nobody holds them.

    Returns:
        The same tree, spread over the mesh as before.

    Example:
        >>> import jax.numpy as jnp
        >>> park({"x": jnp.ones(3)})["x"].sharding.memory_kind
        'pinned_host'
    """
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(HOST)), tree)


def bring(tree: Any) -> Any:
    """Copy arrays from the host's memory to their devices; those that are there already are returned as they are.

    Inside a compiled function the copy is a part of the program, and is left out where nothing reads it.

    Args:
        tree: jax arrays, parked or not; or shapes.

    Returns:
        The same tree on the devices.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.arange(3)
        >>> bring(x) is x, bring(park(x)).tolist()
        (True, [0, 1, 2])
    """

    def there(x: Any) -> Any:
        if isinstance(x, jax.ShapeDtypeStruct):
            if x.sharding is None or x.sharding.memory_kind != HOST:
                return x
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding.with_memory_kind("device"))
        device = jax.memory.Space.Device
        if jax.typeof(x).memory_space == device:
            return x
        # While a program is traced, an array's place is the compiler's; outside, it is to be exactly the one it had.
        return jax.device_put(x, device if isinstance(x, jax.core.Tracer) else x.sharding.with_memory_kind("device"))

    return jax.tree.map(there, tree)
