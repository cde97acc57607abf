"""The form of states: of one layer, and of a language model (GSS-STA-3).

A layer's state is an array where it has one part, and a mapping of names to arrays where it has
several.  A model's is those of its layers, stacked where all are arrays of one shape and type, else
a tuple.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refgss.config import LMConfig
from refgss.layers import kind_of, of_layer
from refgss.layers.tensor import Tensor

State = Any


def bundled(states: Sequence[State], stack: Callable[[Sequence[Any]], Any] = np.stack) -> State:
    """The state of a model whose layers have these."""
    forms = {None if isinstance(s, Mapping) else (s.shape, s.dtype) for s in states}
    return stack(states) if len(forms) == 1 and None not in forms else tuple(states)


def mapped(f: Callable[[Any], Any], state: State) -> State:
    """f of every array of a state, in the same form."""
    if isinstance(state, tuple):
        return tuple(mapped(f, s) for s in state)
    if isinstance(state, Mapping):
        return {part: mapped(f, x) for part, x in state.items()}
    return f(state)


def without_integers(state: State) -> State:
    """The parts of a state that have a gradient, in the same form.  Clauses: GSS-ATT-9."""
    if isinstance(state, tuple):
        return tuple(map(without_integers, state))
    if isinstance(state, Mapping):
        return {part: x for part, x in state.items() if "int" not in str(x.dtype)}
    return state


def zero_states(
    params: Mapping[str, Any], config: LMConfig, batch: int, real: Any = np.float32
) -> State:
    """Before the first token: NumPy zeros of this precision.  Clauses: GSS-STA-2."""
    dtypes = {"real": real, "complex": np.result_type(real, np.complex64), "integer": np.int32}

    def zeros(parts: Mapping[str, Tensor]) -> State:
        arrays = {name: np.zeros(t.shape, dtypes[t.numbers]) for name, t in parts.items()}
        return arrays if len(arrays) > 1 else next(iter(arrays.values()))

    states = []
    for i, layer in enumerate(config.layers):
        kind = kind_of(layer)
        states.append(zeros(kind.state(layer, kind.sizes(of_layer(params, i)), batch)))
    return bundled(states)


def batch_of(state: State) -> int:
    """How many streams a model's state is of."""
    if not isinstance(state, tuple):
        return state.shape[1]
    first = state[0]
    return next(iter(first.values()) if isinstance(first, Mapping) else iter((first,))).shape[0]


def streams(state: State, rows: Sequence[int]) -> State:
    """The state of some streams of a batch."""
    if isinstance(state, tuple):
        return mapped(lambda x: x[rows], state)
    return state[:, rows]


def side_by_side(states: Sequence[State]) -> State:
    """The state of a batch, from those of NumPy arrays of its parts."""
    if not isinstance(states[0], tuple):
        return np.concatenate(states, 1)
    columns = zip(*(named(state).values() for state in states), strict=True)
    joined = dict(zip(named(states[0]), map(np.concatenate, columns), strict=True))
    return unnamed(joined, states[0])


def named(state: State) -> dict[str, Any]:
    """The arrays of a model's state by their names in files.  Clauses: GSS-FMT-6, GSS-FMT-18."""
    if not isinstance(state, tuple):
        return {"state": state}
    found: dict[str, Any] = {}
    for i, own in enumerate(state):
        parts = (
            {f".{part}": x for part, x in own.items()} if isinstance(own, Mapping) else {"": own}
        )
        found |= {f"state.{i}{part}": x for part, x in parts.items()}
    return found


def unnamed(arrays: Mapping[str, Any], form: State) -> State:
    """The inverse of `named`, for a state of this form."""
    names = iter(named(form))
    return mapped(lambda _: arrays[next(names)], form)
