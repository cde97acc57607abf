"""Exit codes, and which foreseen error has which."""

from __future__ import annotations

import errno
import os

from refgss.conformance.candidates.claims import CandidateError
from refgss.conformance.check import TooFewCasesError
from refgss.conformance.reports.report import BROKE, CONFORMS, FAILS, DamagedReportError
from refgss.conformance.vectors.format import DamagedVectorsError
from refgss.tensors import ModelError

NOT_CONFORMING, USAGE, CANDIDATE, VECTORS, STALE_WAIVER, DEFECT = 1, 2, 3, 4, 5, 70
OF_VERDICT = {CONFORMS: 0, FAILS: NOT_CONFORMING, BROKE: CANDIDATE}


class ExitError(Exception):
    """Leave with this code; everything has been said."""

    def __init__(self, code: int):
        super().__init__()
        self.code = code


class StaleWaiverError(Exception):
    """A waiver that waives nothing."""


# what the system may refuse, whatever the file: no space, no descriptors, no processes
SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENOMEM}
SYSTEM |= {errno.EMFILE, errno.ENFILE, errno.EAGAIN}

CODES: dict[type[Exception], int] = {
    CandidateError: CANDIDATE,
    DamagedVectorsError: VECTORS,
    TooFewCasesError: VECTORS,
    StaleWaiverError: STALE_WAIVER,
    DamagedReportError: NOT_CONFORMING,
    ModelError: USAGE,
    MemoryError: USAGE,
}


def code_of(e: Exception) -> int | None:
    """The exit code of a foreseen error; None for a defect."""
    if isinstance(e, OSError) and (e.filename is not None or e.errno in SYSTEM):
        return USAGE
    return next((code for kind, code in CODES.items() if isinstance(e, kind)), None)


def sentence_of(e: Exception) -> str:
    """A foreseen error in one sentence."""
    if isinstance(e, MemoryError):
        return "there is not enough memory for this: choose a smaller model, or a shorter text"
    if isinstance(e, OSError) and e.filename is not None:
        return f"{os.fsdecode(e.filename)} cannot be used: {e.strerror}"
    if isinstance(e, OSError):
        return f"the output cannot be written, or the system has nothing left: {e.strerror}"
    return str(e)
