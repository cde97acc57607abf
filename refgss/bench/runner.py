"""Contenders take turns in one process whose processors and threads are fixed from outside.

`run` starts a process that runs `main`: JSON in, JSON out.  XLA and OpenMP read their number of
threads once, before anything runs, so it cannot be set from within.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from refgss.bench.report import OURS, Report, report_from
from refgss.bench.works import WORKS
from refgss.children import python

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PREFIXES = (
    "OPENBLAS_",
    "OMP_",
    "MKL_",
    "KMP_",
    "NVPL_",
    "BLIS_",
    "XLA_",
    "JAX_",
    "REFGSS_",
    "GOTO_",
)


def run(
    work: str,
    sizes: Sequence[Mapping[str, Any]] | None = None,
    *,
    threads: int = 1,
    rivals: Sequence[str] = ("torch", "jax", "scipy", "numpy"),
    seconds: float = 2.0,
) -> Report:
    """Times `work` (a key of WORKS), at its default sizes if none are given.

    seconds: about how long the contenders of one size take turns, at least 5 rounds.
    Raises ImportError where the native backend is not built, ValueError for an unknown work or
    rival, RuntimeError where the process fails.
    """
    import_module("refgss.native")
    if work not in WORKS:
        raise ValueError(f"unknown work {work!r}: use {', '.join(WORKS)}")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    if threads < 1 or (available and threads > available):
        raise ValueError(f"threads must be between 1 and the {available} processors, not {threads}")
    order = {
        "work": work,
        "sizes": [dict(s) for s in sizes or WORKS[work].sizes],
        "threads": threads,
        "rivals": [name for name in rivals if find_spec(name)],
        "seconds": seconds,
    }
    fixed = {name: str(threads) for name in THREAD_VARIABLES} | {"REFGSS_NUM_THREADS": str(threads)}
    done = subprocess.run(
        python("-c", "from refgss.bench.runner import main; main()"),
        input=json.dumps(order),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | fixed,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the benchmark of {work} ended with status {done.returncode}")
    return report_from(json.loads(done.stdout))


# --- in the process ----------------------------------------------------------------------------


class Contender(NamedTuple):
    """What is run, the units of work in it, and the bytes that a unit must move (0: not asked)."""

    run: Callable
    units: int = 1
    bytes: float = 0


def contenders(work: str, data: Any, players: Mapping[str, Any]) -> dict[str, Contender]:
    """Those that can do this work, by name."""
    found: dict[str, Contender] = {}
    for name, player in players.items():
        prepare = getattr(player, work.replace("-", "_"), None)
        if prepare is None:
            continue
        made = prepare(data)
        found |= {k: Contender(*v) for k, v in made.items()} if isinstance(made, dict) else {}
        found |= {} if isinstance(made, dict) else {name: Contender(made)}
    return found


def error_of(y: Any, exact: tuple[Any, np.ndarray]) -> float:
    """Of outputs that are compared; nan where nothing is returned."""
    if y is None:
        return float("nan")
    where, wanted = exact
    return float(np.abs(np.asarray(y)[where] - wanted).max() / np.abs(wanted).max())


def take_turns(
    players: dict[str, Contender], seconds: float, threads: int
) -> dict[str, list[float]]:
    """Of one thread the processor's time counts: others on a busy machine do not slow it."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in players}
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(next(iter(times.values()))) < 5:
        for name, player in players.items():
            before = clock()
            player.run()
            times[name].append((clock() - before) / player.units)
    return times


def measure(
    work: str,
    sizes: Mapping[str, Any],
    players: Mapping[str, Any],
    seconds: float,
    threads: int,
) -> Any:
    data = WORKS[work].data(sizes)
    exact = WORKS[work].exact(data)
    running = contenders(work, data, players)
    errors = {name: error_of(player.run(), exact) for name, player in running.items()}
    timings = []
    for name, times in take_turns(running, seconds, threads).items():
        low, _, high = statistics.quantiles(times, n=4)
        timings.append(
            {
                "contender": name,
                "median": statistics.median(times),
                "minimum": min(times),
                "spread": high - low,
                "error": errors[name],
                "bytes": running[name].bytes,
            }
        )
    return {"sizes": dict(sizes), "timings": timings}


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def environment(versions: dict[str, str]) -> dict[str, Any]:
    from refgss import native

    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "processor": processor(),
            "processors": os.cpu_count(),
            "simd": native.simd(),
            "blas": f"{blas.get('name')} {blas.get('version')}",
            "python": platform.python_version(),
            "versions": versions,
            "variables": {
                k: v
                for k, v in sorted(os.environ.items())
                if k.startswith(PREFIXES) and k not in (*THREAD_VARIABLES, "REFGSS_NUM_THREADS")
            },
        }


def main() -> None:
    order = json.load(sys.stdin)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: order["threads"]])
    from refgss.bench import native
    from refgss.bench.rivals import RIVALS

    players: dict[str, Any] = {OURS: native}
    players |= {name: RIVALS[name]() for name in order["rivals"]}
    versions = {name: player.start(order["threads"]) for name, player in players.items()}
    answer = {
        "work": order["work"],
        "threads": order["threads"],
        "environment": environment(versions),
        "rows": [
            measure(order["work"], s, players, order["seconds"], order["threads"])
            for s in order["sizes"]
        ],
    }
    json.dump(answer, sys.stdout)
