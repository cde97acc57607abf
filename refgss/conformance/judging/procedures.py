"""A case cut in pieces: the candidate's own state is handed on (GSS-REC-3, GSS-STA-4).

The option `splits` of a case lists where its sequence is cut.  For `ssm_step` every piece is one
token.  The outputs, put together again, are judged as those of the uncut sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]
Execute = Callable[[str, Tensors, Mapping[str, Any]], Mapping[str, np.ndarray]]

SEQUENCES = ("u", "x", "tokens")  # the tensor that is cut along its axis 1
JOINED = ("y", "logits")  # the output that is put together again


def execute(run: Execute, op: str, tensors: Tensors, options: Mapping[str, Any]) -> dict[str, Any]:
    """run(op, tensors, options), or once a piece where the options ask for splits."""
    if "splits" not in options:
        return dict(run(op, tensors, options))
    plain = {k: v for k, v in options.items() if k != "splits"}
    name = next(s for s in SEQUENCES if s in tensors)
    pieces = np.split(tensors[name], options["splits"], axis=1)
    given, outputs, joined = dict(tensors), {}, []
    for piece in pieces:
        if op == "ssm_step":
            piece = piece[:, 0]
        outputs = dict(run(op, given | {name: piece}, plain))
        part = next(o for o in JOINED if o in outputs)
        joined.append((part, outputs.pop(part)))
        given |= {"state": outputs["state"]}
    parts = [y for _, y in joined]
    whole = np.stack(parts, 1) if op == "ssm_step" else np.concatenate(parts, 1)
    return outputs | {joined[0][0]: whole}
