"""Scores: how sequence models are measured, each metric a pure function with clauses and vectors.

Read in this order: tasks, choices, matches, answers, voting, calibration, estimation.  NumPy and
SciPy, in binary64.
"""

from refgss import __version__, ops
from refgss.scores.answers import boxed_answer, equivalent, extract_answer, normalize_answer
from refgss.scores.calibration import (
    brier,
    calibration_error,
    fit_temperature,
    nll,
    renormalize,
    softmax,
)
from refgss.scores.choices import (
    log_likelihood,
    multiple_choice,
    normalized_aggregate,
    scaling,
)
from refgss.scores.estimation import (
    agreement,
    atc,
    average_confidence,
    confidence,
    difference_of_confidences,
    importance_reweighting,
    percentile_interval,
    resample,
)
from refgss.scores.matches import macro_f1, text_match
from refgss.scores.tasks import shown_choices, task_options, task_prompts
from refgss.scores.voting import majority_at_k, pass_at_k, vote, vote_score

OPS = tuple(name for name in ops.SCORES if name in globals())
__all__ = ["OPS", "capabilities", *OPS]


def capabilities() -> dict:
    """What this scorer claims (GSS-CNF-1): its name, version, ops and profile."""
    return {
        "name": "refgss.scores",
        "version": __version__,
        "ops": list(OPS),
        "profiles": ["scores"],
    }
