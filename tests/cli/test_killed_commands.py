"""Some kills of the commands that write files (kill_commands.py), and many."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no fork")
TRAINING = Path(__file__).parents[2] / "benchmarks" / "kill_training.py"


def killing(script, *arguments):
    """What the script says at last."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_command_that_is_killed_leaves_the_old_file_or_the_new():
    said = killing(Path(__file__).parent / "kill_commands.py", 27)
    assert int(said.partition(" of them killed")[0].split()[-1]) > 9, said


@pytest.mark.long
def test_500_kills(capsys):
    """400 of commands that write one file, 100 of training, which goes on where it was."""
    commands = killing(Path(__file__).parent / "kill_commands.py", 400, 1)
    training = killing(TRAINING, "--kills", 100, "--steps", 2000)
    with capsys.disabled():
        print(f"\n{commands}\n{training}")
