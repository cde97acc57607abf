"""What a session remembers, as a value and as a file (chapters 10 and 13)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refgss import ops
from refgss.config import GSS, DSSConfig, LMConfig
from refgss.model.checkpoint import Checkpoint, compact
from refgss.reference import gss_lambda, ssm_scan
from refgss.reference.language_model import of_layer
from refgss.schemas import parse, problem
from refgss.tensors import TensorFileError, read_tensors, write_tensors


class StateError(TensorFileError):
    """A file that is no state of this model, in one sentence."""


@dataclass(frozen=True)
class Snapshot:
    """B streams after `tokens` tokens each.

    state    (depth,B,H,N) complex64, as it was n tokens ago.
    pending  (depth,B,n,H) float32, the inputs of the state-space models since then.
    recent   (B,R) int32, the last R <= tokens tokens.
    logits   (B,V) float32 after the last token; zeros before the first.
    held     (B,) integers, how many of the last tokens have text that has not been shown.
    """

    state: np.ndarray
    pending: np.ndarray
    recent: np.ndarray
    logits: np.ndarray
    tokens: int
    held: np.ndarray


def save_snapshot(path: Path | str, snapshot: Snapshot, model: str) -> None:
    """Write a state, bound to the model of this digest, whole or not at all.

    Raises TensorFileError where it cannot be written.  Clauses: GSS-FMT-6.
    """
    tensors = {"state": ops.to_real(snapshot.state)}
    tensors |= {k: getattr(snapshot, k) for k in ("pending", "recent", "logits")}
    about: dict[str, Any] = {"version": 1, "model": model, "tokens": snapshot.tokens}
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
        raise StateError(f"{path} is no state of this model: {e}") from e


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
    if tensors.keys() != {"state", "pending", "recent", "logits"}:
        raise ValueError(f"it has the tensors {', '.join(sorted(tensors)) or 'none'}")
    depth, (H, N) = checkpoint.config.depth, checkpoint.params["layers.0.ssm.c"].shape
    V = checkpoint.params["embedding.weight"].shape[0]
    recent, pending = tensors["recent"], tensors["pending"]
    B, n = recent.shape[:1] or (0,), pending.shape[2:3] or (0,)
    shapes = {"state": (depth, *B, H, N, 2), "pending": (depth, *B, *n, H), "logits": (*B, V)}
    for name, shape in shapes.items():
        x = tensors[name]
        if x.dtype != np.float32 or x.shape != shape:
            raise ValueError(f"its {name} must be F32 {shape}, not {x.dtype} {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError(f"its {name} has a value that is not finite")
    if recent.dtype != np.int32 or recent.ndim != 2 or not recent.shape[0]:
        raise ValueError("its recent tokens must be I32 (B,R), B at least 1")
    if max(recent.shape[1], *n) > about["tokens"]:
        raise ValueError("it has more recent tokens or pending inputs than it has read tokens")
    if recent.size and not (0 <= recent.min() and recent.max() < V):
        raise ValueError(f"its recent tokens must be between 0 and {V - 1}")
    held = np.array(about.get("held", np.zeros(B, np.int64)))
    if held.shape != B or held.max() > recent.shape[1]:
        raise ValueError("it holds back more text than its recent tokens have")
    state = ops.from_real("state", tensors["state"])
    return Snapshot(state, pending, recent, tensors["logits"], about["tokens"], held)


def advanced(snapshot: Snapshot, params: Mapping[str, np.ndarray], config: LMConfig) -> np.ndarray:
    """The state (depth,B,H,N) after all tokens, the pending inputs read.  Clauses: GSS-FMT-6."""
    if not snapshot.pending.shape[2]:
        return snapshot.state
    states = []
    for i, (u, state) in enumerate(zip(snapshot.pending, snapshot.state, strict=True)):
        p = of_layer(params, i)
        lam = gss_lambda(p["ssm.a"], p["ssm.b"], imag=config.layer.imag)
        is_dss = isinstance(config.layer, DSSConfig)
        delta: Any = np.exp(p["ssm.log_delta"]) if is_dss else 1.0
        form = config.layer.form if isinstance(config.layer, DSSConfig) else GSS
        states.append(ssm_scan(u, lam, p["ssm.c"], state, delta=delta, form=form)[1])
    return np.stack(states)
