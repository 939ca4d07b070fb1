"""Making the list: leaves of trees of shapes, each where it lies, and where it was to lie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rlhf_jax import models, parallel
from rlhf_jax.models.ambient import VOCABULARY
from rlhf_jax.models.logit_chunks import plan_chunks
from rlhf_jax.parallel import BATCH
from rlhf_jax.parallel.offload import HOST
from rlhf_jax.stages.inspect.arrays import Held
from rlhf_jax.types import Params

Wish = Callable[[str, tuple[int, ...]], PartitionSpec]
"""Where a leaf, given by path and shape, is to lie if the axes divide it."""


def by_rules(leading: int = 0) -> Wish:
    """Lie as parameters do, behind so many axes that are whole."""

    def wish(name: str, shape: tuple[int, ...]) -> PartitionSpec:
        return PartitionSpec(*(None,) * min(leading, len(shape)), *parallel.rule_spec(name, shape[leading:]))

    return wish


def by_rows(axis: int = 0) -> Wish:
    """Lie over the axes of a batch, by this dimension."""
    return lambda _, shape: PartitionSpec(*(None,) * axis, BATCH) if len(shape) > axis else PartitionSpec()


class Lister:
    """Lister of arrays by group; one that several roles hold counts once.

    Args:
        mesh: the devices.
    """

    def __init__(self, mesh: Mesh):
        self.mesh, self.arrays = mesh, list[Held]()
        self._seen: dict[int, tuple[Any, str]] = {}  # leaves are kept, so that no other takes the id of one

    def add(self, group: str, tree: Any, wish: Wish) -> None:
        """List the leaves of a tree: shapes with the shardings that they have."""
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            name, shape, size = parallel.path_name(path), tuple(leaf.shape), leaf.dtype.itemsize
            here = f"{group}: {name}"
            first = self._seen.setdefault(id(leaf), (leaf, here))[1]
            waits, again = leaf.sharding.memory_kind == HOST, first != here
            part = math.prod(leaf.sharding.shard_shape(shape))
            self.arrays.append(
                Held(
                    group=group,
                    path=name,
                    shape=shape,
                    dtype=str(leaf.dtype),
                    spec=leaf.sharding.spec,
                    bytes=0 if again else math.prod(shape) * size,
                    device_bytes=0 if again or waits else part * size,
                    undivided=tuple(self._undivided(shape, wish(name, shape))),
                    shared=first if again else "",
                    waits=waits,
                )
            )

    def placed(self, tree: Any, wish: Wish) -> Any:
        """Give every leaf the place that it wishes for, as far as the devices can share it."""

        def place(path: Any, leaf: Any) -> Any:
            shape = tuple(leaf.shape)
            spec = parallel.fitting(wish(parallel.path_name(path), shape), shape, self.mesh)
            return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=NamedSharding(self.mesh, spec))

        return jax.tree_util.tree_map_with_path(place, tree)

    def models(self, state: Any, trunks: Params, leading: int = 0) -> None:
        """List what is trained, its optimiser and counters, and the frozen trunks that it stands on."""
        rules = by_rules(leading)
        for role, own in state.params.items():
            self.add(f"parameters: {role}", {role: own}, rules)
        self.add("optimiser", state.opt_state, rules)
        counters = {name: x for name, x in state._asdict().items() if name not in ("params", "opt_state")}
        self.add("counters", counters, rules)
        for role, trunk in trunks.items():
            self.add("parameters: frozen trunks", {role: trunk}, by_rules())

    def frozen(self, name: str, params: Params) -> None:
        """List a model that is not trained: a reference, a reward model or an ensemble of them."""
        leading = 1 if "head" in params and models.members(params) else 0
        self.add(f"parameters: {name}", {name.replace(" ", "_"): params}, by_rules(leading))

    def logits(self, what: str, rows: int, length: int, vocabulary: int, *, backward: bool) -> None:
        """List the logits of a pass: a chunk of them, or all where they are kept for the backward pass.

        Args:
            what: the pass.
            rows: those of the whole forward pass.
            length: tokens of a row.
            vocabulary: logits of a token.
            backward: whether the pass is differentiated.
        """
        chunks = parallel.traced_on(self.mesh, lambda: plan_chunks(rows, length, vocabulary))()
        kept = backward and chunks.keep
        shape = (chunks.count if kept else 1, chunks.lines * chunks.size, vocabulary)
        name = f"{what}, {'all, kept for the backward pass' if kept else 'a chunk'}"
        # Rows that the devices cannot share are one line, and whole on each.
        spec = PartitionSpec(None, BATCH if chunks.lines > 1 else None, VOCABULARY)
        tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32)}
        self.add("logits", self.placed(tree, lambda *_: spec), lambda *_: spec)

    def _undivided(self, shape: tuple[int, ...], asked: PartitionSpec) -> Iterator[tuple[int, str]]:
        for at, (size, axis) in enumerate(zip(shape, asked, strict=False)):
            names = (axis,) if isinstance(axis, str) else (axis or ())
            if size % parallel.axis_size(self.mesh, axis):
                yield at, " x ".join(f"{name}={self.mesh.shape[name]}" for name in names)
