"""Kill -9 at random moments: nothing lost beyond the last state, nothing corrupt, resume exact.

    python benchmarks/kill_training.py [--kills 20] [--steps 400] [--seed 0]

A small run saves its state at every step, so that much of its time is spent writing.  It is killed
again and again, somewhere within its share of the steps that are left and every other time while a
file is being written, and continued; it must end with the same model and the same metrics, bit by
bit, as a run that was left alone.  After each kill the state must be whole, and no older than the
last step that the metrics prove to have been saved.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from refgss.children import python
from refgss.tensors import read_tensors

OPTIONS = "--batch 2 --length 32 --width 32 --gate 32 --channels 16 --states 8"
OPTIONS += (
    " --depth 2 --optimizer adamw --warmup 10 --log-every 1 --save-every 1 --evaluate-every 100"
)


def start(text: Path, out: Path, steps: int) -> subprocess.Popen:
    command = python("-m", "refgss", "train", "--data", str(text), "--held-out-tail", "0.1")
    cache = {"JAX_COMPILATION_CACHE_DIR": str(out.parent / "compiled")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        [*command, "--out", str(out), "--steps", str(steps), *OPTIONS.split()],
        stdout=subprocess.DEVNULL,
        env={**os.environ, **cache},
    )


def lines(out: Path) -> list[dict]:
    """Whole lines of the metrics, without what the clock decides."""
    if not (out / "metrics.jsonl").exists():
        return []
    found = []
    for line in (out / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            values = json.loads(line)
            found.append(
                {k: values[k] for k in values if k not in ("seconds", "tokens_per_second")}
            )
    return found


def unfinished(out: Path) -> list[str]:
    """Files that are being written, or were when the run was killed."""
    return [p.name for p in out.iterdir() if p.name.endswith(".tmp")] if out.exists() else []


def state_step(out: Path) -> int:
    """The step of the state; it must be a whole file."""
    file = out / "training.safetensors"
    if not file.exists():
        return 0
    return json.loads(read_tensors(file).metadata["refgss.training"])["step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    steps, rng = arguments.steps, random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        text, whole, out = (Path(name) / n for n in ("text", "whole", "out"))
        text.write_text("".join(f"{i} and {i} is {2 * i}\n" for i in range(2000)))
        assert start(text, whole, steps).wait() == 0
        during = 0
        for kill in range(arguments.kills):
            before, process = state_step(out), start(text, out, steps)
            share = (steps - before) / (arguments.kills - kill + 1)
            aim = before + rng.uniform(1, max(1.0, 2 * share - 1))
            while process.poll() is None and state_step(out) < aim:
                time.sleep(0.0005)
            wait = time.monotonic() + rng.uniform(0, 0.02)
            while time.monotonic() < wait or (kill % 2 and not unfinished(out)):
                if process.poll() is not None:
                    break
            process.send_signal(signal.SIGKILL)
            process.wait()
            step, seen = state_step(out), lines(out)
            proven = seen[-1]["step"] - 1 if seen else 0  # its line is written before its state
            assert step >= max(before, proven), (step, before, proven)
            during += bool(unfinished(out))
            writing = ", killed while writing" if unfinished(out) else ""
            print(f"kill {kill + 1}: the state of step {step} is whole{writing}", flush=True)
        assert start(text, out, steps).wait() == 0
        for file in ("model.safetensors", "training.safetensors"):
            a, b = (read_tensors(folder / file).tensors for folder in (whole, out))
            assert a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a), file
        assert lines(whole) == lines(out)
    print(
        f"{arguments.kills} kills, {during} of them while a file was being written: parameters, "
        f"optimiser and metrics after {steps} steps equal those of a run left alone, bit by bit"
    )


if __name__ == "__main__":
    main()
