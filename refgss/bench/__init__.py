"""Speed and error of the native backend beside the libraries that a user would reach for.

Contenders of one work get the same data and the same processors, and take turns in one process, so
that a busy machine slows them all.  `run` starts that process with its threads fixed from outside:

    >>> report = refgss.bench.run("kernel", threads=2)
    >>> print(report.table())
"""

from refgss.bench.report import Report, Timing
from refgss.bench.runner import run
from refgss.bench.works import MODELS, WORKS, Work, model_sizes

__all__ = ["MODELS", "WORKS", "Report", "Timing", "Work", "model_sizes", "run"]
