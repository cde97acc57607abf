"""`import refgss.reference` is light: NumPy, the standard library, and nothing else."""

import json
import subprocess
import sys

MEASURE = """
import json, sys, time
import numpy
before, start = set(sys.modules), time.perf_counter()
import refgss.reference
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({m.split(".")[0] for m in set(sys.modules) - before})]))
"""


def measure():
    run = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def test_nothing_beyond_numpy_is_loaded():
    loaded = set(measure()[1])
    assert "refgss" in loaded
    assert loaded - set(sys.stdlib_module_names) <= {"refgss", "numpy"}


def test_it_takes_less_than_a_tenth_of_a_second_more_than_numpy():
    assert min(measure()[0] for _ in range(5)) < 0.1
