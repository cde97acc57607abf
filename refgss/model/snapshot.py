"""What a session remembers, as a value and as a file (chapters 10 and 13)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refgss.conformance import ops
from refgss.conformance.schemas import complaint
from refgss.model.checkpoint import Checkpoint, compact
from refgss.model.tensors import TensorFileError, read_tensors, write_tensors


class StateError(TensorFileError):
    """A file that is no state of this model, in one sentence."""


@dataclass(frozen=True)
class Snapshot:
    """B streams after `tokens` tokens each.

    state    (depth,B,H,N) complex64 or complex128, as it was `pending` tokens ago.
    recent   (B,R) int32, the last R tokens; pending <= R <= tokens.
    logits   (B,V) float32 after the last token; zeros before the first.
    """

    state: np.ndarray
    recent: np.ndarray
    pending: int
    logits: np.ndarray
    tokens: int


def save_snapshot(path: Path | str, snapshot: Snapshot, model: str) -> None:
    """Write a state, bound to the model of this digest, whole or not at all.

    Raises TensorFileError where it cannot be written.  Clauses: GSS-FMT-6.
    """
    tensors = {"state": ops.to_real(snapshot.state)}
    tensors |= {"recent": snapshot.recent, "logits": snapshot.logits}
    about = {"version": 1, "model": model}
    about |= {"tokens": snapshot.tokens, "pending": snapshot.pending}
    write_tensors(Path(path), tensors, {"refgss.state": compact(about)})


def load_snapshot(path: Path | str, checkpoint: Checkpoint) -> Snapshot:
    """A state of this model.  Raises StateError unless all of it is in order.

    Clauses: GSS-FMT-3, GSS-FMT-6..7.
    """
    try:
        tensors, metadata, _ = read_tensors(Path(path))
        return checked(tensors, metadata, checkpoint)
    except TensorFileError as e:
        raise StateError(str(e)) from e
    except (ValueError, RecursionError) as e:
        raise StateError(f"{path} is no state of this model: {e}") from e


def checked(
    tensors: dict[str, np.ndarray], metadata: dict[str, str], checkpoint: Checkpoint
) -> Snapshot:
    if "refgss.state" not in metadata:
        raise ValueError("its metadata has no refgss.state")
    about = json.loads(metadata["refgss.state"])
    if trouble := complaint("state", about):
        raise ValueError(f"its metadata is not that of a state, {trouble}")
    if about["model"] != checkpoint.digest:
        raise ValueError(
            f"it belongs to the model {about['model'][:16]}…, and this is {checkpoint.digest[:16]}…"
        )
    if tensors.keys() != {"state", "recent", "logits"}:
        raise ValueError(f"it has the tensors {', '.join(sorted(tensors)) or 'none'}")
    state, recent, logits = (tensors[k] for k in ("state", "recent", "logits"))
    depth, (H, N) = checkpoint.config.depth, checkpoint.params["layers.0.ssm.c"].shape
    V, B = checkpoint.params["embedding.weight"].shape[0], len(recent) if recent.ndim else 0
    if state.dtype not in (np.float32, np.float64) or state.shape != (depth, B, H, N, 2):
        raise ValueError(
            f"its state must be F32 or F64 {(depth, B, H, N, 2)}, not {state.dtype} {state.shape}"
        )
    if recent.dtype != np.int32 or recent.ndim != 2 or recent.shape[1] > about["tokens"]:
        raise ValueError("its recent tokens must be I32 (B,R), no more than it has read")
    if recent.size and not (0 <= recent.min() and recent.max() < V):
        raise ValueError(f"its recent tokens must be between 0 and {V - 1}")
    if about["pending"] > recent.shape[1]:
        raise ValueError("it has more pending than recent tokens")
    if logits.dtype != np.float32 or logits.shape != (B, V):
        raise ValueError(f"its logits must be F32 {(B, V)}, not {logits.dtype} {logits.shape}")
    if not np.isfinite(state).all() or not np.isfinite(logits).all():
        raise ValueError("it has a value that is not finite")
    state = ops.from_real("state", state)
    return Snapshot(state, recent, about["pending"], logits, about["tokens"])
