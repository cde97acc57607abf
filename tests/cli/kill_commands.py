"""Kill -9 at random moments of the commands that write files: the old content or the new, whole.

    python tests/cli/kill_commands.py KILLS [SEED]

Every other time a command is killed while a file of it is being written.  What is left must be
what was there before or what the command writes when it is left alone; beside it at most temporary
files.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from refgss.cli import run
from refgss.config import PAPER, LMConfig
from refgss.conformance.reports.report import read
from refgss.conformance.vectors.format import Expected, Vector, write_vectors
from refgss.model import initialize, save_checkpoint
from refgss.tensors import write_tensors

LAYER = {  # of gated-state-spaces-pytorch
    **dict.fromkeys(["norm.weight", "norm.bias", "to_out.bias"], (12,)),
    **dict.fromkeys(["dss.norm.weight", "dss.norm.bias", "dss.param_D"], (6,)),
    **dict.fromkeys(["dss.Lambda_real", "dss.Lambda_imag"], (5,)),
    **dict.fromkeys(["dss.C_real", "dss.C_imag"], (6, 5)),
    **{"to_u.0.weight": (24, 12), "to_v.0.weight": (6, 12)},
    **{"to_gate.weight": (24, 6), "to_out.weight": (12, 24)},
}
NEW_ALONE = ("template.py", "export")  # which replace nothing


def prepare(folder):
    """Files that the commands read, and the commands, without the file that each writes."""
    config = LMConfig(PAPER, 2)
    sizes = {"width": 64, "gate": 64, "channels": 32, "states": 16}
    params = initialize(config, sizes, vocabulary=257, seed=1)
    model = folder / "model.safetensors"
    save_checkpoint(model, params, config)
    rng = np.random.default_rng(0)
    theirs = {name: rng.standard_normal(shape, np.float32) for name, shape in LAYER.items()}
    write_tensors(folder / "theirs.safetensors", theirs, {})
    x = np.zeros(1)
    answer = {"y": Expected(x, x, x, {"f32": x + 1, "f64": x + 1})}
    few = [Vector("gelu/a", "gelu", ("GSS-NRM-3",), {}, {"x": np.zeros(1, np.float32)}, answer)]
    write_vectors(folder / "few", few, "2026-11-23")
    check = ["check", "--candidate", "reference", "--vectors", folder / "few", "--fresh", 0]
    generate = ["generate", model, "def", "--tokens", 20]
    return {
        "quantize": lambda to: ["quantize", model, to, "--weights", "int8"],
        "import": lambda to: ["import", folder / "theirs.safetensors", to],
        "state": lambda to: [*generate, "--save-state", to],
        "report": lambda to: [*check, "--report", to],
        "html": lambda to: [*check, "--html", to],
        "junit": lambda to: [*check, "--junit", to],
        "badge": lambda to: [*check, "--badge", to],
        "template.py": lambda to: ["check", "--new-candidate", to],
        "export": lambda to: ["vectors", "export", to],
    }


def started(command):
    """The process id of a fork that runs the command, silent."""
    if pid := os.fork():
        return pid
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os._exit(run([*map(str, command)]))


def left_alone(command):
    """How many seconds it takes."""
    began = time.monotonic()
    _, status = os.waitpid(started(command), 0)
    assert status == 0, command
    return time.monotonic() - began


def temporary(folder):
    return [p for p in folder.iterdir() if p.name.startswith(".refgss-")]


def killed(command, folder, wait, while_writing):
    """Whether it was killed before its end."""
    pid, began = started(command), time.monotonic()
    while not temporary(folder) if while_writing else time.monotonic() - began < wait:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return False
    if while_writing:
        time.sleep(wait / 1000)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def content(path):
    """A file's bytes, those of all files of a folder, or None."""
    if path.is_dir():
        return {str(p.relative_to(path)): content(p) for p in path.rglob("*")}
    return path.read_bytes() if path.exists() else None


def whole(name, path, expected):
    """Whether the file is what the command writes, of which the clock may decide some."""
    if name == "report":
        return read(path).verdict == "conforms"
    if name in ("junit", "badge"):
        return len(ElementTree.parse(path).getroot()) > 0
    if name == "html":
        return path.read_text().endswith("</html>\n")
    return content(path) == expected


def main(kills, seed=0):
    rng, found = random.Random(seed), Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands, expected, seconds = prepare(folder), {}, {}
        for name, command in commands.items():
            (folder / "alone").mkdir(exist_ok=True)
            seconds[name] = left_alone(command(folder / "alone" / name))
            expected[name] = content(folder / "alone" / name)
        for i in range(kills):
            name = [*commands][i % len(commands)]
            (place := folder / "killed").mkdir()
            target = place / name
            older = None if name in NEW_ALONE else rng.choice([None, b"older"])
            if older:
                target.write_bytes(older)
            before_end = killed(
                commands[name](target), place, rng.uniform(0, seconds[name]), rng.random() < 0.5
            )
            assert content(target) == older or whole(name, target, expected[name]), (name, i, seed)
            left = {*place.iterdir()} - {target, *temporary(place)}
            assert not left, (name, i, seed, left)
            found["killed"] += before_end
            found["while writing"] += bool(temporary(place))
            found["new"] += content(target) != older
            shutil.rmtree(place)
    print(
        f"{kills} runs of {len(commands)} commands, {found['killed']} of them killed before their "
        f"end, {found['while writing']} while writing; {found['new']} times the new content was "
        "there, else the old one, never a part"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
