"""One sequence over many devices: only states travel, and keys and values that are seen across.

Each device runs its piece of the length from a zero state.  One all-gather of what the pieces leave
behind, (B,H,N) each, tells every device the state that its piece really begins with; a matrix
product adds what that state contributes.  Attention receives from the devices before it the keys
and values that its piece sees, and nothing where chunks lie within pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax import shard_map
from jax.sharding import Mesh, PartitionSpec

from refgss.config import LayerConfig, LMConfig
from refgss.layers.states import State
from refgss.xla.language_model import lm_logits
from refgss.xla.layers import LAYERS
from refgss.xla.pairs import Array
from refgss.xla.plan import Plan, resolve


def sequence_parallel(
    mesh: Mesh,
    *,
    config: LayerConfig | LMConfig,
    batch_axis: str | None = None,
    length_axis: str,
    plan: Plan | None = None,
) -> Callable[..., tuple[Array, State]]:
    """The layer or language model of `config`, its length split over one axis of the mesh.

    Returns f(params, x, state=None) -> (y, state), the function of the unsharded op: x is (B,L,E),
    or tokens (B,L) for a language model; params are the same on all devices; the batch is split
    over `batch_axis` if there is one.  f differentiates and compiles like any function.
    Raises ValueError where the mesh has no such axis, or B or L is not divisible by it.
    """
    for name in (batch_axis, length_axis):
        if name is not None and name not in mesh.shape:
            raise ValueError(f"the mesh has axes {tuple(mesh.shape)}, and no {name!r}")
    mesh = Mesh(mesh.devices, mesh.axis_names)  # shardings inferred, not part of the types
    op: Any = {**LAYERS, LMConfig: lm_logits}[type(config)]
    whole = resolve(plan)
    local = replace(whole, length_axis=length_axis)
    along = PartitionSpec(batch_axis, length_axis)

    def run(params: dict[str, Array], x: Array, state: State | None = None) -> tuple[Array, State]:
        for name, size, axis in zip("BL", x.shape[:2], (batch_axis, length_axis), strict=True):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(
                    f"{op.__name__}: {name} = {size} is not divisible by the {mesh.shape[axis]} "
                    f"devices along {axis!r}: pad it or choose another mesh"
                )
        _, after = jax.eval_shape(partial(op, config=config, plan=whole), params, x, state)
        stacked = op is lm_logits and not isinstance(after, tuple)
        states = PartitionSpec(*[None] * stacked, batch_axis)
        body = shard_map(
            lambda p, x, s: op(p, x, s, config=config, plan=local),
            mesh=mesh,
            in_specs=(PartitionSpec(), along, states),
            out_specs=(along, states),
            check_vma=False,  # the final state is the same on all devices along the length
        )
        return body(params, x, state)

    return run
