"""The training state: all that a run needs to go on as if it had never stopped, in one file.

Parameters, the optimiser's memory and the number of steps done lie in one safetensors file that is
replaced whole: a run killed at any moment leaves the state before or the state after.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from refgss.config import to_json
from refgss.layers.states import State
from refgss.schemas import parse
from refgss.tensors import read_tensors, write_tensors
from refgss.training.recipe import Run, TrainingError

KEY = "refgss.training"


@dataclass(frozen=True)
class TrainingState:
    """params (ssm.c real), memory of the optimiser, steps done, seconds spent on them.

    carried  the state with which the next windows go on, None where each begins anew.
    """

    params: Mapping[str, Any]
    memory: Any
    step: int = 0
    seconds: float = 0.0
    carried: State | None = None


def description(run: Run, digest: str) -> dict[str, Any]:
    """What must agree for a state to be continued."""
    fields = to_json(run)
    fields["data"].pop("paths")  # the digest says what the text is, wherever it lies
    if run.recipe.segments == 1:
        fields["recipe"].pop("segments")  # as in files from before there were any
    return {"version": 1, "run": json.loads(json.dumps(fields)), "text": digest}


def leaves(state: TrainingState) -> dict[str, Any]:
    named = {f"params.{name}": x for name, x in state.params.items()}
    for path, x in jax.tree_util.tree_leaves_with_path(state.memory):
        named[f"memory{jax.tree_util.keystr(path)}"] = x
    for path, x in jax.tree_util.tree_leaves_with_path(state.carried):
        x, name = np.asarray(x), f"carried{jax.tree_util.keystr(path)}"
        named[name] = np.stack([x.real, x.imag], -1) if np.iscomplexobj(x) else x
    return named


def carried_of(tensors: Mapping[str, np.ndarray], form: State | None) -> State | None:
    """The state of streams among the tensors of a file, in this form."""

    def found(path: Any, like: Any) -> np.ndarray:
        x = np.array(tensors[f"carried{jax.tree_util.keystr(path)}"])
        return x[..., 0] + 1j * x[..., 1] if np.iscomplexobj(like) else x

    return jax.tree_util.tree_map_with_path(found, form)


def save_state(path: Path, state: TrainingState, run: Run, digest: str) -> None:
    """Raises TensorFileError where it cannot be written; the state before is then still there."""
    about = {**description(run, digest), "step": state.step, "seconds": state.seconds}
    tensors = {name: np.asarray(x) for name, x in leaves(state).items()}
    write_tensors(path, tensors, {KEY: json.dumps(about)})


def load_state(path: Path, fresh: TrainingState, run: Run, digest: str) -> TrainingState:
    """The state in the file, in the form of a fresh one.

    Raises TensorFileError for a damaged file, TrainingError for the state of another run.
    """
    file = read_tensors(path)
    tensors = file.tensors
    try:
        about = parse(file.metadata[KEY])
        step, seconds = about.pop("step"), about.pop("seconds")
        if type(step) is not int or not isinstance(seconds, int | float) or step < 0:
            raise ValueError("its step or its seconds are no number")
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise TrainingError(f"{path} is no training state: choose another folder") from e
    wanted = description(run, digest)
    if difference := first_difference(about, wanted):
        raise TrainingError(
            f"{path} belongs to another run, {difference}: repeat its options to continue it, or "
            "choose another folder"
        )
    shapes = {name: (x.shape, np.asarray(x).dtype) for name, x in leaves(fresh).items()}
    if {name: (x.shape, x.dtype) for name, x in tensors.items()} != shapes:
        raise TrainingError(f"{path} has other tensors than its run: choose another folder")
    paths, form = jax.tree_util.tree_flatten_with_path(fresh.memory)
    memory = [np.array(tensors[f"memory{jax.tree_util.keystr(path)}"]) for path, _ in paths]
    return TrainingState(
        {name: np.array(tensors[f"params.{name}"]) for name in fresh.params},
        jax.tree_util.tree_unflatten(form, memory),
        step,
        seconds,
        carried_of(tensors, fresh.carried),
    )


def first_difference(found: Any, wanted: Any, name: str = "") -> str | None:
    """In words, the first entry in which two JSON values differ."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            inner = first_difference(found.get(key), wanted.get(key), key)
            if inner:
                return inner
        return None
    return None if found == wanted else f"whose {name} is {found!r} and not {wanted!r}"
