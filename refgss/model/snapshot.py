"""What a session remembers, as a value and as a file (chapters 10 and 13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refgss import ops
from refgss.config import GSS, DSSConfig, GSSConfig, LMConfig
from refgss.layers import kind_of, of_layer
from refgss.layers.states import State, named, unnamed, zero_states
from refgss.model.checkpoint import Checkpoint, compact
from refgss.reference import gss_lambda, ssm_scan
from refgss.schemas import parse, problem
from refgss.tensors import TensorFileError, read_tensors, write_tensors

Params = Mapping[str, np.ndarray]


class StateError(TensorFileError):
    """A file that is not a state of this model, in one sentence."""


@dataclass(frozen=True)
class Snapshot:
    """B streams after `tokens` tokens each.

    state    (depth,B,H,N) complex64, as it was n tokens ago; of layers of several kinds a tuple.
    pending  (depth,B,n,H) float32, the inputs of the state-space models since then; None where
             a layer has another state (`has_pending`): `state` is then that after all tokens.
    recent   (B,R) int32, the last R <= tokens tokens.
    logits   (B,V) float32 after the last token; zeros before the first.
    held     (B,) integers, how many of the last tokens have text that has not been shown.
    """

    state: State
    pending: np.ndarray | None
    recent: np.ndarray
    logits: np.ndarray
    tokens: int
    held: np.ndarray


def save_snapshot(path: Path | str, snapshot: Snapshot, model: str) -> None:
    """Write a state, bound to the model of this digest, whole or not at all.

    Raises TensorFileError where it cannot be written.  Clauses: GSS-FMT-6.
    """
    tensors = {name: ops.to_real(x) for name, x in named(snapshot.state).items()}
    tensors |= {"recent": snapshot.recent, "logits": snapshot.logits}
    version = 2 if snapshot.pending is None else 1
    if snapshot.pending is not None:
        tensors["pending"] = snapshot.pending
    about: dict[str, Any] = {"version": version, "model": model, "tokens": snapshot.tokens}
    if snapshot.held.any():
        about["held"] = snapshot.held.tolist()
    write_tensors(Path(path), tensors, {"refgss.state": compact(about)})


def load_snapshot(path: Path | str, checkpoint: Checkpoint) -> Snapshot:
    """A state of this model.  Raises StateError unless all of it is in order.

    Clauses: GSS-FMT-3, GSS-FMT-6..7.
    """
    try:
        file = read_tensors(Path(path))
        return checked(file.tensors, file.metadata, checkpoint)
    except TensorFileError as e:
        raise StateError(str(e)) from e
    except ValueError as e:
        raise StateError(f"{path} is not a state of this model: {e}") from e


def checked(
    tensors: dict[str, np.ndarray], metadata: dict[str, str], checkpoint: Checkpoint
) -> Snapshot:
    if "refgss.state" not in metadata:
        raise ValueError("its metadata has no refgss.state")
    about = parse(metadata["refgss.state"])
    if wrong := problem("state", about):
        raise ValueError(f"its metadata is not that of a state, {wrong}")
    if about["model"] != checkpoint.digest:
        raise ValueError(
            f"it belongs to the model {about['model'][:16]}…, and this is {checkpoint.digest[:16]}…"
        )
    config, params = checkpoint.config, checkpoint.params
    recent = tensors.get("recent", np.zeros(0))
    form = zero_states(params, config, len(recent))
    V = params["embedding.weight"].shape[0]
    wanted = {name: ops.to_real(x) for name, x in named(form).items()}
    wanted |= {"logits": np.zeros((len(recent), V), np.float32)}
    n = 0
    if has_pending(config, form):
        n = (*tensors.get("pending", np.zeros(0)).shape, 0, 0, 0)[2]
        wanted["pending"] = np.zeros((*form.shape[:2], n, form.shape[2]), np.float32)
    if about["version"] != (1 if "pending" in wanted else 2):
        raise ValueError(f"its version {about['version']} is not that of a state of such layers")
    if tensors.keys() != {*wanted, "recent"}:
        raise ValueError(f"it has the tensors {', '.join(sorted(tensors)) or 'none'}")
    for name, like in wanted.items():
        x = tensors[name]
        if x.dtype != like.dtype or x.shape != like.shape:
            raise ValueError(
                f"its {name} must be {like.dtype} {like.shape}, not {x.dtype} {x.shape}"
            )
        if not np.isfinite(x).all():
            raise ValueError(f"its {name} has a value that is not finite")
    if recent.dtype != np.int32 or recent.ndim != 2 or not recent.shape[0]:
        raise ValueError("its recent tokens must be I32 (B,R), B at least 1")
    if max(recent.shape[1], n) > about["tokens"]:
        raise ValueError("it has more recent tokens or pending inputs than it has read tokens")
    if recent.size and not (0 <= recent.min() and recent.max() < V):
        raise ValueError(f"its recent tokens must be between 0 and {V - 1}")
    held = np.array(about.get("held", np.zeros(len(recent), np.int64)))
    if held.shape != (len(recent),) or held.max() > recent.shape[1]:
        raise ValueError("it holds back more text than its recent tokens have")
    arrays = {
        name: ops.joined_complex(tensors[name]) if np.iscomplexobj(x) else tensors[name]
        for name, x in named(form).items()
    }
    state, pending = unnamed(arrays, form), tensors.get("pending")
    for i, layer in enumerate(config.layers):
        try:
            kind_of(layer).check_state(state[i], layer, about["tokens"])
        except ValueError as e:
            raise ValueError(f"layer {i}: {e}") from e
    return Snapshot(state, pending, recent, tensors["logits"], about["tokens"], held)


def has_pending(config: LMConfig, state: State) -> bool:
    """Whether a decoder may be behind: all layers have state-space models, of one shape."""
    return not isinstance(state, tuple) and all(type(c) in ADVANCED for c in config.layers)


def gss_advanced(p: Params, u: np.ndarray, state: np.ndarray, config: GSSConfig) -> np.ndarray:
    lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag)
    return ssm_scan(u, lam, p["ssm.c"], state, delta=1.0, form=GSS)[1]


def dss_advanced(p: Params, u: np.ndarray, state: np.ndarray, config: DSSConfig) -> np.ndarray:
    lam, delta = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.imag), np.exp(p["ssm.log_delta"])
    return ssm_scan(u, lam, p["ssm.c"], state, delta=delta, form=config.form)[1]


# by the type of a layer's options: parameters, u (B,n,H), state (B,H,N) before it -> after it
ADVANCED: dict[type, Callable[..., np.ndarray]] = {
    GSSConfig: gss_advanced,
    DSSConfig: dss_advanced,
}


def advanced(snapshot: Snapshot, params: Params, config: LMConfig) -> State:
    """The state after all tokens, the pending inputs read.  Clauses: GSS-FMT-6."""
    if snapshot.pending is None or not snapshot.pending.shape[2]:
        return snapshot.state
    rows = zip(config.layers, snapshot.pending, snapshot.state, strict=True)
    return np.stack(
        [
            ADVANCED[type(layer)](of_layer(params, i), u, state, layer)
            for i, (layer, u, state) in enumerate(rows)
        ]
    )
