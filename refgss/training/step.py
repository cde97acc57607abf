"""One update as one compiled function, on one device or spread over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from refgss import xla
from refgss.config import LMConfig
from refgss.layers import role_of
from refgss.training.optimizers import Params, optimizer, to_complex
from refgss.training.recipe import Recipe, TrainingError
from refgss.xla.language_model import mean_loss
from refgss.xla.plan import resolve


def mesh_of(recipe: Recipe) -> jax.sharding.Mesh | None:
    """Devices as (batch, length), None for a single one.  Raises TrainingError for too few."""
    shape = recipe.data_parallel, recipe.sequence_parallel
    wanted, present = shape[0] * shape[1], jax.device_count()
    if wanted > present:
        raise TrainingError(
            f"the run is to be spread over {wanted} devices and {present} are present: lower "
            "--data-parallel or --sequence-parallel"
        )
    if wanted == 1:
        return None
    return jax.make_mesh(shape, ("batch", "length"), devices=jax.devices()[:wanted])


def loss_of(config: LMConfig, recipe: Recipe) -> Callable[[Params, jax.Array], jax.Array]:
    """params with ssm.c real, windows (B,L+1) int -> mean nats a token."""
    plan = replace(resolve(None), weights=recipe.weights)
    mesh = mesh_of(recipe)
    logits_of: Any = partial(xla.lm_logits, config=config, plan=plan)
    if mesh is not None:
        axes = {"batch_axis": "batch", "length_axis": "length"}
        logits_of = xla.sequence_parallel(mesh, config=config, plan=plan, **axes)

    def loss(params: Params, windows: jax.Array) -> jax.Array:
        logits, _ = logits_of(to_complex(params), windows[:, :-1])
        return mean_loss(logits, windows[:, 1:])

    return loss


@lru_cache(maxsize=8)  # compiled once in a process
def functions(
    config: LMConfig, recipe: Recipe, names: tuple[str, ...]
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Compiled, for parameters of these names:

    begin(params) -> the optimiser's memory;
    step(params, memory, windows, schedule) -> params, memory, loss, norm of the gradient;
    loss(params, windows) -> loss.
    """
    loss = loss_of(config, recipe)
    gradient, transform = (
        jax.value_and_grad(loss),
        optimizer(recipe, {name: role_of(name, config) for name in names}),
    )

    def step(params: Params, memory: Any, windows: jax.Array, schedule: jax.Array):
        parts = windows.reshape(recipe.accumulate, -1, windows.shape[-1])

        def add(total: Any, part: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, part)), None

        if recipe.accumulate == 1:
            nats, g = gradient(params, windows)
        else:
            zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
            total, _ = lax.scan(add, zero, parts)
            nats, g = jax.tree.map(lambda x: x / recipe.accumulate, total)
        update, memory = transform.update(g, memory, params)
        update = jax.tree.map(lambda x: schedule * x, update)
        return optax.apply_updates(params, update), memory, nats, optax.tree.norm(g)

    return jax.jit(transform.init), jax.jit(step, donate_argnums=(0, 1)), jax.jit(loss)
