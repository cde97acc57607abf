"""`refgss info`: which backends are usable here, and what may slow them down."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

import refgss
from refgss.cli import terminal
from refgss.config import LayerConfig, LMConfig, to_json
from refgss.conformance.candidates.claims import CandidateError, claimed
from refgss.conformance.candidates.targets import ALIASES, import_backend
from refgss.conformance.vectors.format import DamagedVectorsError, read_vectors
from refgss.layers import kind_of, of_layer
from refgss.model import Checkpoint, load_checkpoint, profiles
from refgss.model.profiles import PROFILES, Profile, parameter_count, state_bytes
from refgss.model.weights import is_scale
from refgss.standard import SPEC_VERSION, spec_folder

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


@click.command(short_help="Describe this installation, or a model.")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--profile", type=click.Choice(list(PROFILES)), help="Describe a model of this name instead."
)
def info(model: Path | None, profile: str | None) -> None:
    """Describe this machine and its usable backends, or the model file MODEL."""
    if model and profile:
        raise click.UsageError("give a model or --profile, not both")
    if model:
        describe(load_checkpoint(model))
        return
    if profile:
        describe_profile(profile, PROFILES[profile])
        return
    terminal.say(f"refgss {refgss.__version__}, spec {SPEC_VERSION}, {vectors_line()}")
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors"
    terminal.say(f"{'machine':14}{system}, Python {platform.python_version()}")
    for package in ("numpy", "scipy", "jax", "torch", "python-flint"):
        terminal.say(f"{package:14}{version_of(package)}")
    terminal.say(f"{'BLAS':14}{blas()}")
    for alias in ALIASES:
        terminal.say(f"{alias:14}{backend(alias)}")
    for name in SLOWING:
        if name in os.environ:
            terminal.say(f"{name}={os.environ[name]} is set and changes speed; unset it to compare")


def describe(model: Checkpoint) -> None:
    """Layers, sizes, config, tokenizer and origin of a model."""
    V, E = model.params["embedding.weight"].shape
    weights = {name: x for name, x in model.params.items() if not is_scale(name, model.params)}
    counted = sum(x.size * (2 if x.dtype.kind == "c" else 1) for x in weights.values())
    words = model.tokenizer if len(model.tokenizer) < 40 else "a file of the package tokenizers"
    lines = [
        *(("layers", text) for text in layers_of(sized(model))),
        ("model", facts(options_of(model.config))),
        ("sizes", f"vocabulary {V}, width {E}"),
        ("parameters", f"{counted:,}, weights {model.weights}"),
        ("state", state_line(sized(model))),
        ("tokenizer", words),
        ("SHA-256", model.digest),
        *((k, json.dumps(v, ensure_ascii=False)) for k, v in model.about.items()),
    ]
    for name, text in lines:
        terminal.say(f"{name:14}{text}")


def describe_profile(name: str, profile: Profile) -> None:
    """A model that has no numbers yet: what it would take."""
    E, V = profile.sizes["width"], profile.vocabulary
    layers = profiles.layers_of(profile)
    lines = [
        ("profile", name),
        *(("layers", text) for text in layers_of(layers)),
        ("model", facts(options_of(profile.config))),
        ("sizes", f"vocabulary {V}, width {E}"),
        ("parameters", f"{parameter_count(profile):,}"),
        ("state", state_line(layers)),
    ]
    for title, text in lines:
        terminal.say(f"{title:14}{text}")


def sized(model: Checkpoint) -> list[tuple[LayerConfig, Any]]:
    """The options and the Sizes of each layer."""
    return [
        (layer, kind_of(layer).sizes(of_layer(model.params, i)))
        for i, layer in enumerate(model.config.layers)
    ]


def options_of(config: LMConfig) -> dict[str, Any]:
    """Of a model, but for those of its layers."""
    fields = {k: v for k, v in to_json(config).items() if k not in ("layer", "depth")}
    return {"depth": config.depth, **fields}


def state_line(layers: Sequence[tuple[LayerConfig, Any]]) -> str:
    return f"{state_bytes(layers):,} bytes a stream, at any length"


def layers_of(layers: Sequence[tuple[LayerConfig, Any]]) -> list[str]:
    """A line for each kind of layer with its options and sizes, in the order of the first."""
    counts, found = Counter(layer for layer, _ in layers), dict(reversed(layers))
    return [
        f"{count} × {kind_of(layer).NAME.upper()}, {facts(asdict(found[layer]) | to_json(layer))}"
        for layer, count in counts.items()
    ]


def facts(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in fields.items())


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
        return f"not usable: {e.__cause__ or e}"
    if not about.ops:
        return "not usable: it has no ops"
    raw = module.capabilities()
    extras = [f"{k} {raw[k]}" for k in ("simd", "threads") if k in raw]
    if raw.get("delegated"):
        extras.append(f"leaves {' '.join(raw['delegated'])} to the reference")
    if alias == "jax":
        try:
            devices = sys.modules["jax"].devices()
        except RuntimeError as e:  # JAX_PLATFORMS asks for what is not there
            return f"not usable: {e}"
        extras.append(f"on {len(devices)} {devices[0].platform} device{'s' * (len(devices) > 1)}")
    if "cpu_kernels" in raw:
        extras.append(f"CPU kernels: {raw['cpu_kernels']}")
    facts = [f"{len(about.ops)} ops", " ".join(about.profiles), *extras]
    return f"usable, {', '.join(facts)}"
