"""Vectors: cases with proven expected values, on disk as a JSON index beside safetensors payloads.

A folder of vectors holds `index.json` (everything but numbers), one `OP.safetensors` per op with
keys `ID|in|TENSOR` and `ID|OUTPUT|hi`, `…|lo`, `…|radius`, `…|budget.f32`, `…|budget.f64`, `…|at`,
of integers and texts `ID|OUTPUT|exact` alone, and `manifest.json` with the SHA-256 of each of them.
The same vectors give the same bytes.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from refgss.conformance import PRECISIONS
from refgss.conformance.vectors.drawn import Law, Tensors, laws, stored
from refgss.files import atomic_write
from refgss.ops import CONTRACT
from refgss.schemas import parse, problem
from refgss.standard import SPEC_VERSION, spec_folder
from refgss.tensors import header_of, mapped

RADIUS_SHARE = 2.0**-10  # a proven radius is at most this share of the budget it serves


class DamagedVectorsError(ValueError):
    """The folder is not what was published; the message says which file and what to do."""


@dataclass(frozen=True, eq=False)
class Expected:
    """A proven output in real layout (complex numbers as a trailing axis of two).

    The value is hi + lo, unevaluated, and lies within `radius` of the truth.  Where hi is NaN the
    output must be NaN; where a budget is infinite any value will do, NaN included.  An output that
    is certified at samples only has their flat indices in `at` and its full `shape`; hi and the
    rest are then one-dimensional.  What is `exact`, integers or the bytes of a text in UTF-8, is
    its own truth: hi is the same in binary64, and nothing else is allowed.
    """

    hi: np.ndarray  # float64, as all others
    lo: np.ndarray
    radius: np.ndarray
    budget: Mapping[str, np.ndarray]  # by precision, "f32" and "f64"
    at: np.ndarray | None = None  # int64
    shape: tuple[int, ...] | None = None
    exact: np.ndarray | None = None  # int64 or uint8

    @classmethod
    def exactly(cls, x: np.ndarray) -> Expected:
        """Integers or bytes, of which each has to be as it is."""
        nothing = np.zeros(x.shape)
        hi = x.astype(np.float64)
        return cls(hi, nothing, nothing, dict.fromkeys(PRECISIONS, nothing), exact=x)

    @property
    def full_shape(self) -> tuple[int, ...]:
        return self.hi.shape if self.shape is None else tuple(self.shape)


@dataclass(frozen=True, eq=False)
class Vector:
    """One case: an op on given tensors and options, and what it must give.

    All floating-point tensors are float32, so that one vector serves every precision.
    `layer_profile` restricts the vector to checks of that profile.  Where `error` is set, the
    candidate must refuse the input.
    """

    id: str  # "ssm_kernel/zoh-slow-mode", permanent
    op: str
    clauses: tuple[str, ...]
    options: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]  # float32 or int32, real layout
    expected: Mapping[str, Expected]
    layer_profile: str | None = None
    error: bool = False
    flags: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, eq=False)
class VectorSet:
    """All vectors of a folder, with its date and the digest that names exactly these bytes."""

    date: str
    digest: str
    vectors: tuple[Vector, ...] = field(repr=False)


def write_vectors(folder: Path, vectors: Iterable[Vector], date: str) -> None:
    """Write a folder; its bytes depend on vectors and date alone.  Clauses: GSS-FMT-8..9."""
    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(vectors, key=lambda v: v.id)
    payloads: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for v in ordered:
        payloads[v.op] |= {key: np.asarray(x, order="C") for key, x in arrays(v).items()}
    files = {f"{op}.safetensors": safetensors.numpy.save(p) for op, p in payloads.items()}
    files["index.json"] = index(ordered, date)
    digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
    files["manifest.json"] = (json.dumps({"sha256": digests}, indent=1) + "\n").encode()
    for stale in earlier(folder) - files.keys():
        (folder / stale).unlink(missing_ok=True)
    for name, content in files.items():
        atomic_write(folder / name, content)


def earlier(folder: Path) -> set[str]:
    """The files of the vectors that the folder holds already."""
    try:
        return set(checked("manifest", (folder / "manifest.json").read_bytes())["sha256"])
    except (OSError, DamagedVectorsError):
        return set()


def index(vectors: Iterable[Vector], date: str) -> bytes:
    """index.json, one vector a line, so that a difference between two sets can be read."""
    head = json.dumps({"vectors": date, "spec": SPEC_VERSION})
    cases = (json.dumps(entry(v), ensure_ascii=False, allow_nan=False) for v in vectors)
    return (head[:-1] + ', "cases": [\n' + ",\n".join(cases) + "\n]}\n").encode()


def entry(v: Vector) -> dict[str, Any]:
    """The line of the index: the vector without its numbers; what is empty is left out."""
    line = {
        "id": v.id,
        "op": v.op,
        "clauses": list(v.clauses),
        "layer_profile": v.layer_profile,
        "options": dict(v.options),
        "tensors": list(v.tensors),
        "seed": v.tensors.seed if isinstance(v.tensors, Tensors) else "",
        "drawn": {name: law.to_json() for name, law in laws(v.tensors).items()},
        "outputs": {
            name: {"shape": list(e.full_shape), "sampled": e.at is not None}
            | ({} if e.exact is None else {"exact": True})
            for name, e in v.expected.items()
        },
        "error": v.error,
        "flags": list(v.flags),
        "note": v.note,
    }
    return {k: x for k, x in line.items() if x or k in ("options", "tensors", "outputs")}


def arrays(v: Vector) -> dict[str, np.ndarray]:
    """The vector's numbers by their keys in the payload."""
    found = {f"{v.id}|in|{name}": x for name, x in stored(v.tensors).items()}
    for output, e in v.expected.items():
        parts = {"hi": e.hi, "lo": e.lo, "radius": e.radius}
        parts |= {f"budget.{p}": e.budget[p] for p in PRECISIONS}
        parts |= {} if e.at is None else {"at": e.at}
        parts = parts if e.exact is None else {"exact": e.exact}
        found |= {f"{v.id}|{output}|{part}": np.asarray(x) for part, x in parts.items()}
    return found


def payload(content: bytes) -> dict[str, np.ndarray]:
    header_of(content)  # refuses a key that stands there twice
    return safetensors.numpy.load(content)


def payload_as_published(content: bytes) -> dict[str, np.ndarray]:
    """As `payload`, of a file that `refgss vectors lint` has checked: views, and no check again."""
    start = 8 + int.from_bytes(content[:8], "little")
    entries, whole = json.loads(content[8:start]), bytearray(content)
    return {k: mapped(whole, start, **e) for k, e in entries.items() if k != "__metadata__"}


def read_vectors(folder: Path) -> VectorSet:
    """All vectors of a folder, or DamagedVectorsError.  Clauses: GSS-FMT-3, GSS-FMT-8."""
    manifest = read_file(folder, "manifest.json")
    digests = checked("manifest", manifest)["sha256"]
    files = {name: read_file(folder, name) for name in digests}
    for name, digest in digests.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise DamagedVectorsError(
                f"{name} does not have the SHA-256 in manifest.json: restore the vectors"
            )
    return assembled(folder, hashlib.sha256(manifest).hexdigest())


@lru_cache(maxsize=2)
def assembled(folder: Path, digest: str) -> VectorSet:
    """The set whose manifest has this digest, its files being those that the manifest names.

    What fits together in the installed set is checked by `refgss vectors lint`, not at each start:
    that takes seconds.
    """
    digests = checked("manifest", read_file(folder, "manifest.json"))["sha256"]
    files = {name: read_file(folder, name) for name in digests}
    installed = folder.resolve() == (spec_folder() / "vectors").resolve()
    load = payload_as_published if installed else payload
    collecting = gc.isenabled()
    gc.disable()  # 64,000 arrays, none of them garbage: looking for it takes half as long again
    try:
        index = files["index.json"]
        content = json.loads(index) if installed else checked("index", index)
        payloads = {
            name.removesuffix(".safetensors"): load(content)
            for name, content in files.items()
            if name.endswith(".safetensors")
        }
        vectors = tuple(assemble(line, payloads.get(line["op"], {})) for line in content["cases"])
    except (KeyError, ValueError, safetensors.SafetensorError) as e:
        raise DamagedVectorsError(f"the vectors are incomplete ({e}): restore the folder") from e
    finally:
        if collecting:
            gc.enable()
    for v in vectors:
        if v.op not in CONTRACT:
            raise DamagedVectorsError(f"{v.id}: there is no op {v.op} in this version of refgss")
        for output, expected in {} if installed else v.expected.items():
            if trouble := misfit(expected):
                raise DamagedVectorsError(f"{v.id}: {output} {trouble}: restore the folder")
    return VectorSet(content["vectors"], digest, vectors)


def moderate(vectors: Iterable[Vector]) -> tuple[Vector, ...]:
    """Without the largest, which the reference, being a definition, computes in seconds each."""
    return tuple(v for v in vectors if "large" not in v.flags)


def read_file(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as e:
        raise DamagedVectorsError(
            f"{name} cannot be read ({e.strerror}): restore the vectors"
        ) from e


def checked(name: str, text: bytes) -> Any:
    """The value of NAME.json, which must fit its schema."""
    try:
        content = parse(text)
    except ValueError as e:
        raise DamagedVectorsError(f"{name}.json is not JSON ({e}): restore the vectors") from e
    if wrong := problem(name, content):
        raise DamagedVectorsError(f"{name}.json: {wrong}")
    return content


def assemble(line: Mapping[str, Any], payload: Mapping[str, np.ndarray]) -> Vector:
    """The inverse of `entry` and `arrays`."""
    key = line["id"]
    expected = {}
    for output, about in line["outputs"].items():
        prefix = f"{key}|{output}|"
        if about.get("exact"):
            expected[output] = Expected.exactly(payload[prefix + "exact"])
            continue
        expected[output] = Expected(
            hi=payload[prefix + "hi"],
            lo=payload[prefix + "lo"],
            radius=payload[prefix + "radius"],
            budget={p: payload[f"{prefix}budget.{p}"] for p in PRECISIONS},
            at=payload[prefix + "at"] if about["sampled"] else None,
            shape=tuple(about["shape"]) if about["sampled"] else None,
        )
    drawn = {name: Law.from_json(law) for name, law in line.get("drawn", {}).items()}
    tensors: Mapping[str, np.ndarray] = {
        name: payload[f"{key}|in|{name}"] for name in line["tensors"] if name not in drawn
    }
    return Vector(
        id=key,
        op=line["op"],
        clauses=tuple(line["clauses"]),
        options=line["options"],
        tensors=Tensors(tensors, drawn, line["seed"]) if drawn else tensors,
        expected=expected,
        layer_profile=line.get("layer_profile"),
        error=line.get("error", False),
        flags=tuple(line.get("flags", ())),
        note=line.get("note", ""),
    )


def lint(vectors: Iterable[Vector], clauses: Mapping[str, str]) -> list[str]:
    """What is wrong with the vectors, one sentence each; `clauses` maps ids to levels."""
    vectors = list(vectors)
    found = []
    seen: set[str] = set()
    for v in vectors:
        if v.id in seen:
            found.append(f"{v.id}: the id is used twice")
        seen.add(v.id)
        found += [f"{v.id}: {trouble}" for trouble in lint_one(v, clauses)]
    covered = {clause for v in vectors for clause in v.clauses}
    found += [
        f"{clause}: no vector covers this MUST clause"
        for clause, level in clauses.items()
        if level == "MUST" and clause not in covered
    ]
    return found


def lint_one(v: Vector, clauses: Mapping[str, str]) -> list[str]:
    found = []
    if v.op not in CONTRACT:
        return [f"there is no op {v.op}"]
    if not v.clauses:
        found.append("it names no clause")
    found += [f"there is no clause {c}" for c in v.clauses if c not in clauses]
    if v.error == bool(v.expected):
        found.append("it must have expected outputs, or be an error vector without any")
    if not v.id.startswith(f"{v.op}/"):
        found.append("its id must begin with its op")
    for name, x in stored(v.tensors).items():
        if x.dtype not in (np.float32, np.int32):
            found.append(f"{name} is {x.dtype}, not float32 or int32")
    for output, e in v.expected.items():
        found += [f"{output} {trouble}" for trouble in lint_expected(e)]
        if laws(v.tensors) and not all(np.all(np.isfinite(b)) for b in e.budget.values()):
            found.append(f"{output} has a budget without bound: choose better conditioned inputs")
    return found


def misfit(e: Expected) -> str | None:
    """What does not fit together in an expected output; None if all does."""
    parts = {"hi": e.hi, "lo": e.lo, "radius": e.radius}
    parts |= {f"budget.{p}": b for p, b in e.budget.items()}
    for part, x in parts.items():
        if x.shape != e.hi.shape or x.dtype != np.float64:
            return f"{part} must be float64 of hi's shape {e.hi.shape}"
    if e.at is not None:
        inside = e.at.dtype == np.int64 and np.all((e.at >= 0) & (e.at < np.prod(e.full_shape)))
        if e.at.shape != e.hi.shape or not inside:
            return f"has samples outside its shape {e.full_shape}"
    return None


def lint_expected(e: Expected) -> list[str]:
    """Whether the numbers fit together and are proven sharply.  Clauses: GSS-CNF-8."""
    if trouble := misfit(e):
        return [trouble]
    found = []
    for precision, budget in e.budget.items():
        judged = np.isfinite(e.hi) & np.isfinite(budget)
        if not np.all(e.radius[judged] <= RADIUS_SHARE * budget[judged]):
            found.append(f"is proven less sharply than 2^-10 of its {precision} budget")
        if np.any(np.isnan(budget)) or np.any(budget < 0):
            found.append(f"has a {precision} budget that is negative or NaN")
    return found
