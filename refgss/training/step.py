"""One update as one compiled function, on one device or spread over a mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from refgss import xla
from refgss.config import LMConfig
from refgss.layers import role_of
from refgss.layers.states import State, zero_states
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


def loss_of(config: LMConfig, recipe: Recipe) -> Callable[..., tuple[jax.Array, State | None]]:
    """params with ssm.c real, windows (B,L+1) int, state -> mean nats a token, the next state.

    No state is asked for, and none returned, where no window goes on with the one before.
    """
    plan = replace(resolve(None), weights=recipe.weights)
    mesh = mesh_of(recipe)
    logits_of: Any = partial(xla.lm_logits, config=config, plan=plan)
    if mesh is not None:
        axes = {"batch_axis": "batch", "length_axis": "length"}
        logits_of = xla.sequence_parallel(mesh, config=config, plan=plan, **axes)

    def loss(params: Params, windows: jax.Array, state: State | None = None):
        logits, after = logits_of(to_complex(params), windows[:, :-1], state)
        return mean_loss(logits, windows[:, 1:]), after if recipe.segments > 1 else None

    return loss


@lru_cache(maxsize=8)  # compiled once in a process
def functions(
    config: LMConfig, recipe: Recipe, names: tuple[str, ...]
) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Compiled, for parameters of these names:

    begin(params) -> the optimiser's memory;
    step(params, memory, windows, schedule, state)
        -> params, memory, loss, norm of the gradient, the state with which the next windows begin;
    loss(params, windows of recipe.text + 1 tokens) -> loss.
    """
    loss = loss_of(config, recipe)
    gradient, transform = (
        jax.value_and_grad(loss, has_aux=True),
        optimizer(recipe, {name: role_of(name, config) for name in names}),
    )

    def step(
        params: Params,
        memory: Any,
        windows: jax.Array,
        schedule: jax.Array,
        state: State | None = None,
    ):
        def add(total: Any, part: tuple[jax.Array, State | None]) -> tuple[Any, State | None]:
            (nats, after), g = gradient(params, *part)
            return jax.tree.map(jnp.add, total, (nats, g)), after

        if recipe.accumulate == 1:
            (nats, state), g = gradient(params, windows, state)
        else:
            parts = windows.reshape(recipe.accumulate, -1, windows.shape[-1])
            zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
            total, after = lax.scan(add, zero, (parts, in_parts(state, recipe.accumulate)))
            nats, g = jax.tree.map(lambda x: x / recipe.accumulate, total)
            state = of_parts(after)
        update, memory = transform.update(g, memory, params)
        update = jax.tree.map(lambda x: schedule * x, update)
        return optax.apply_updates(params, update), memory, nats, optax.tree.norm(g), state

    def mean_of_text(params: Params, windows: jax.Array) -> jax.Array:
        if recipe.segments == 1:
            return loss(params, windows)[0]
        at = np.arange(recipe.segments)[:, None] * recipe.length + np.arange(recipe.length + 1)
        segments = jnp.moveaxis(windows[:, at], 1, 0)
        start = zero_states(to_complex(params), config, len(windows))

        def segment(state: State, windows: jax.Array) -> tuple[State, jax.Array]:
            nats, state = loss(params, windows, state)
            return state, nats

        return lax.scan(segment, start, segments)[1].mean()

    return jax.jit(transform.init), jax.jit(step, donate_argnums=(0, 1)), jax.jit(mean_of_text)


def in_parts(state: State | None, count: int) -> State | None:
    """The states of a batch as those of `count` batches, along a new first axis."""
    axis = batch_axis(state)

    def split(x: jax.Array) -> jax.Array:
        shape = (*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return jax.tree.map(split, state)


def of_parts(state: State | None) -> State | None:
    """The inverse of `in_parts`."""
    axis = batch_axis(state)

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, axis)
        return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])

    return jax.tree.map(join, state)


def batch_axis(state: State | None) -> int:
    """States that are stacked have the layers in front."""
    return 0 if isinstance(state, tuple) else 1
