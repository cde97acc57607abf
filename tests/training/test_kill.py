"""A small version of benchmarks/kill_training.py: the command line, killed and continued."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_training.py"


def test_killed_and_continued_it_ends_with_the_same_bits():
    command = [sys.executable, str(SCRIPT), "--kills", "2", "--steps", "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bit by bit" in done.stdout
