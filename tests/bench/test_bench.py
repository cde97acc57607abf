"""The benchmark's machinery, at sizes that take no time."""

import json
import math

import pytest

pytest.importorskip("refgss.native")

from refgss import bench
from refgss.bench.report import Report, Row, Timing

RECURRENT = {"L": 24, "E": 12, "A": 8, "F": 20, "heads": 2, "window": 8, "states": 3}
SMALL = {
    "conv": {"B": 1, "L": 50, "H": 3},
    "conv-cached": {"B": 1, "L": 50, "H": 3},
    "kernel": {"H": 3, "N": 4, "L": 50, "modes": "slow"},
    "scan": {"B": 2, "L": 50, "H": 3, "N": 4, "modes": "random"},
    "step": {"B": 2, "L": 1, "H": 3, "N": 4, "modes": "random"},
    "layer": {"B": 1, "L": 64, "E": 8, "F": 16, "H": 4, "N": 4},
    "train": {"B": 1, "L": 50, "H": 3, "N": 4, "modes": "random"},
    "attention": {"L": 24, "heads": 2, "D": 4, "chunk": 8},
    "attention-train": {"L": 24, "heads": 2, "D": 4, "chunk": 8},
    "block-recurrent": RECURRENT,
    "block-recurrent-train": RECURRENT,
    "decode": bench.model_sizes("bundled", "decode")
    | {"E": 40, "F": 50, "H": 9, "N": 4, "depth": 2},
    "prefill": bench.model_sizes("bundled", "prefill", ["f32", "bf16"])
    | {"E": 40, "F": 50, "depth": 2},
}


@pytest.mark.parametrize("work", bench.WORKS)
def test_all_contenders_do_the_same_work(work):
    """Their outputs agree with the exact ones to what binary32 and powers formed in it allow."""
    report = bench.run(work, [SMALL[work]], threads=1, seconds=0.01)
    (row,) = report.rows
    assert row.sizes == SMALL[work]
    for t in row.timings:
        assert 0 < t.minimum <= t.median
        allowed = 2e-2 if "weights" in t.contender else 1e-6 if t.contender == "refgss" else 1e-3
        assert math.isnan(t.error) or t.error < allowed, t.contender
    assert json.loads(report.json())["environment"]["versions"]["refgss"]
    assert all(t.contender in report.table() for t in row.timings)


def test_the_ratio_is_to_the_fastest_rival():
    times = {"refgss": 2.0, "refgss, other": 1.0, "slow": 9.0, "fast": 6.0}
    row = Row({}, tuple(Timing(k, v, v, 0.0, 0.0) for k, v in times.items()))
    assert row.ratio("refgss") == 3 and row.ratio("refgss, other") == 6 and row.ratio("fast") == 1
    alone = Row({}, (Timing("refgss", 1.0, 1.0, 0.0, 0.0),))
    assert math.isnan(alone.ratio("refgss"))
    empty = {"processor": "", "simd": "", "versions": {}, "variables": {"OMP_X": "1"}}
    assert "OMP_X=1" in Report("conv", 2, empty, (row,)).table()


def test_what_is_refused():
    with pytest.raises(ValueError, match="unknown work"):
        bench.run("nothing")
    with pytest.raises(ValueError, match="threads"):
        bench.run("conv", threads=0)
