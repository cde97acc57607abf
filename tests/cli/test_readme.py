"""The README's section for newcomers, run as it is written; its Python, as mypy reads it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from refgss.ops import OPS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SECTION = README.partition("## Is my implementation conformant?")[2].partition("\n## ")[0]
INSTALLING = ("python3 -m venv", "pip install")  # done already where this runs
FAILING = ("check --candidate python:my_gss.py", "refgss report", "refgss diff")


def commands():
    blocks = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if not line.startswith(INSTALLING)]


def test_its_commands_do_what_it_says(tmp_path):
    pytest.importorskip("flint")
    tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    (suite,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    (tmp_path / "test_mine.py").write_text(suite, "utf-8")
    said, broken = "", False
    for command in commands():
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=os.environ | tools,
            capture_output=True,
            text=True,
        )
        said += done.stdout
        broken = broken or command.startswith("sed")  # from here on the candidate has an error
        fails = broken and any(what in command for what in FAILING)
        assert done.returncode == fails, (command, done.stdout, done.stderr)
        assert "defect" not in done.stderr and "Traceback" not in done.stderr
    (shown,) = re.findall(r"```text\n(.*?)```", SECTION, re.DOTALL)
    for line in shown.splitlines():
        assert line in said or line == "…", line
    said_of_it = f"conforms in part, 3 of {len(OPS)} ops"
    assert f'"{said_of_it}"' in SECTION and f"my-gss 0.1 {said_of_it} (f32, f64)" in said


def test_mypy_accepts_its_python(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 4
    files = [tmp_path / f"block_{i}.py" for i in range(len(blocks))]
    for file, block in zip(files, blocks, strict=True):
        file.write_text(block, "utf-8")
    command = [sys.executable, "-m", "mypy", *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    about_them = [line for line in done.stdout.splitlines() if "block_" in line.partition(":")[0]]
    assert done.returncode in (0, 1) and not about_them, done.stdout + done.stderr
