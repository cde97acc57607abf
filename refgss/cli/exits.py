"""Exit codes, and which foreseen error has which."""

from __future__ import annotations

from refgss.conformance.candidates.claims import CandidateError
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


class TooFewCasesError(Exception):
    """Nothing was selected, or nothing was judged: that is no conformance."""


class StaleWaiverError(Exception):
    """A waiver that waives nothing."""


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
    if isinstance(e, OSError) and e.filename is not None:  # no space left, no permission
        return USAGE
    return next((code for kind, code in CODES.items() if isinstance(e, kind)), None)
