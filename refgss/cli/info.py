"""`refgss info`: which backends are usable here, and what may slow them down."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

import click

import refgss
from refgss.conformance import spec_folder
from refgss.conformance.candidates import ALIASES, CandidateError, claimed, import_backend
from refgss.conformance.vectors import SPEC_VERSION, DamagedVectorsError, read_vectors

# variables that choose a BLAS kernel or a number of threads, and so change every timing
SLOWING = (
    "OPENBLAS_CORETYPE",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "MKL_DEBUG_CPU_TYPE",
    "NVPL_BLAS_DEBUG_CPU_TYPE",
    "REFGSS_NUM_THREADS",
    "REFGSS_SIMD",
    "JAX_PLATFORMS",
    "XLA_FLAGS",
)


@click.command()
def info() -> None:
    """Say which backends can be used, and why others cannot."""
    click.echo(f"refgss {refgss.__version__}, spec {SPEC_VERSION}, {vectors_line()}")
    for package in ("numpy", "scipy", "jax", "torch", "python-flint"):
        click.echo(f"{package:14}{version_of(package)}")
    click.echo(f"{'BLAS':14}{blas()}")
    for alias in ALIASES:
        click.echo(f"{alias:14}{backend(alias)}")
    for name in SLOWING:
        if name in os.environ:
            click.echo(f"{name}={os.environ[name]} is set and changes speed; unset it to compare")


def vectors_line() -> str:
    try:
        found = read_vectors(spec_folder() / "vectors")
    except (DamagedVectorsError, FileNotFoundError) as e:
        return f"vectors unusable: {e}"
    return f"{len(found.vectors)} vectors of {found.date} ({found.digest[:16]})"


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def blas() -> str:
    """The BLAS that NumPy uses and the processor it takes this one for."""
    import numpy as np

    built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    text = f"{built.get('name', 'unknown')} {built.get('version', '')}".strip()
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return f"{text}; its core type is not known (install threadpoolctl)"
    cores = {x["architecture"] for x in threadpool_info() if "architecture" in x}
    return f"{text}, core {', '.join(sorted(cores))}" if cores else text


def backend(alias: str) -> str:
    """One line about a backend: usable with its claims, or why not."""
    try:
        module = import_backend(alias)
        about = claimed(module)
    except CandidateError as e:
        return f"not usable: {e}"
    if not about.ops:
        return "not usable: it has no ops"
    raw = module.capabilities()
    extras = [f"{k} {raw[k]}" for k in ("simd", "threads", "device", "platform") if k in raw]
    facts = [f"{len(about.ops)} ops", " ".join(about.profiles), *extras]
    return f"usable, {', '.join(facts)}"
