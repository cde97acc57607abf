"""A case cut in pieces: the candidate's own state is handed on (GSS-REC-3, GSS-STA-4).

The option `splits` of a case lists where its sequence is cut.  For `ssm_step` and `attention_step`
every piece is one token.  The outputs, put together again, are judged as those of the uncut
sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refgss.conformance.judging.compare import Answer, Failure, Outcome, Outputs
from refgss.ops import WHOLES

Tensors = Mapping[str, np.ndarray]
Options = Mapping[str, Any]
Run = Callable[[str, Tensors, Options], Answer]

SEQUENCES = ("u", "x", "tokens", "q", "k", "v")  # tensors that are cut along their axis 1
JOINED = ("y", "logits")  # the output that is put together again


def execute(run: Run, op: str, tensors: Tensors, options: Options) -> Answer:
    """run(op, tensors, options), or once a piece where the options ask for splits.

    A piece without outputs is the answer to the whole.  Clauses: GSS-STA-4.
    """
    if "splits" not in options:
        return run(op, tensors, options)
    plain = {k: v for k, v in options.items() if k != "splits"}
    names = [name for name in SEQUENCES if name in tensors]
    parts = zip(*(np.split(tensors[n], options["splits"], axis=1) for n in names), strict=True)
    given, answers = dict(tensors), []
    for pieces in parts:
        cut = [piece[:, 0] if op in WHOLES else piece for piece in pieces]
        answer = run(op, given | dict(zip(names, cut, strict=True)), plain)
        if isinstance(answer, Failure):
            return answer
        state = {k: x for k, x in answer.arrays.items() if is_state(k)}
        if not state:
            return Failure(Outcome.WRONG_SHAPE, "the output state is missing")
        answers.append(answer.arrays)
        given = {k: x for k, x in given.items() if not is_state(k)} | state
    return joined(answers, np.stack if op in WHOLES else np.concatenate)


def is_state(name: str) -> bool:
    """Whether a tensor is the state, or a part of it."""
    return name.split(".")[0] == "state"


def joined(answers: Sequence[Tensors], join: Callable[..., np.ndarray]) -> Answer:
    """The outputs of pieces as those of the whole: the last state, and the signal in one."""
    part = next((name for name in JOINED if name in answers[-1]), None)
    try:
        whole = {} if part is None else {part: join([x[part] for x in answers], 1)}
    except (KeyError, ValueError):
        return Failure(Outcome.WRONG_SHAPE, "the pieces of the output do not fit together")
    return Outputs({**answers[-1], **whole})
