"""A case cut in pieces: the candidate's own state is handed on (GSS-REC-3, GSS-STA-4).

The option `splits` of a case lists where its sequence is cut.  For `ssm_step` every piece is one
token.  The outputs, put together again, are judged as those of the uncut sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refgss.conformance.judging.compare import Answer, Failure, Outcome, Outputs

Tensors = Mapping[str, np.ndarray]
Options = Mapping[str, Any]
Run = Callable[[str, Tensors, Options], Answer]

SEQUENCES = ("u", "x", "tokens")  # the tensor that is cut along its axis 1
JOINED = ("y", "logits")  # the output that is put together again


def execute(run: Run, op: str, tensors: Tensors, options: Options) -> Answer:
    """run(op, tensors, options), or once a piece where the options ask for splits.

    A piece without outputs is the answer to the whole.  Clauses: GSS-STA-4.
    """
    if "splits" not in options:
        return run(op, tensors, options)
    plain = {k: v for k, v in options.items() if k != "splits"}
    name = next(s for s in SEQUENCES if s in tensors)
    given, answers = dict(tensors), []
    for piece in np.split(tensors[name], options["splits"], axis=1):
        cut = piece[:, 0] if op == "ssm_step" else piece
        answer = run(op, given | {name: cut}, plain)
        if isinstance(answer, Failure):
            return answer
        if "state" not in answer.arrays:
            return Failure(Outcome.WRONG_SHAPE, "the output state is missing")
        answers.append(answer.arrays)
        given |= {"state": answer.arrays["state"]}
    return joined(answers, np.stack if op == "ssm_step" else np.concatenate)


def joined(answers: Sequence[Tensors], join: Callable[..., np.ndarray]) -> Answer:
    """The outputs of pieces as those of the whole: the last state, and the signal in one."""
    part = next((name for name in JOINED if name in answers[-1]), None)
    try:
        whole = {} if part is None else {part: join([x[part] for x in answers], 1)}
    except (KeyError, ValueError):
        return Failure(Outcome.WRONG_SHAPE, "the pieces of the output do not fit together")
    return Outputs({**answers[-1], **whole})
