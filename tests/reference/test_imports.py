"""`import refgss.reference` is light: NumPy, the standard library, and nothing else."""

import json
import subprocess
import sys

# seconds of CPU: a busy machine makes neither NumPy nor this package slower than the other
MEASURE = """
import json, sys, time
start = time.process_time()
import numpy
numpys, before = time.process_time(), set(sys.modules)
import refgss.reference
ours = time.process_time()
new = sorted({m.split(".")[0] for m in set(sys.modules) - before})
print(json.dumps([(ours - numpys) / (numpys - start), new]))
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


def test_it_takes_less_than_numpy_itself():
    assert min(measure()[0] for _ in range(5)) < 1
