"""A shared library behind include/refgss.h, as a candidate: `lib:FILE`.

The header is the contract: a function `refgss_OP` whose parameters have the names of the op's
arguments, options and outputs is that op.  What it takes is read from its declaration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cffi
import numpy as np

from refgss import ops
from refgss.conformance.candidates.claims import CandidateError
from refgss.conformance.candidates.presentation import (
    Laid,
    Layout,
    WroteElsewhereError,
    contiguous,
    laid,
    of_output,
)
from refgss.conformance.judging.compare import Answer, Failure, Outcome, Outputs
from refgss.standard import header_file

ABI_VERSION = 2
DTYPES = {"float32": 1, "float64": 2}  # enum refgss_dtype
MOST_AXES = 4

Shape = tuple[int, ...]
Values = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray | None]


def declarations(header: str) -> str:
    """The header without comments and preprocessor lines, as cffi reads it."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.DOTALL)
    text = re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)
    return text.replace("REFGSS_API", "")


def parameters(declared: str) -> dict[str, list[str]]:
    """By op, the names of its function's parameters in order.

    Functions that take more than the op's arguments (the layers, with prepared maps) are left out.
    """
    found = {}
    for op, inside in re.findall(r"\bint32_t\s+refgss_(\w+)\(([^)]*)\)\s*;", declared):
        names = [re.split(r"[\s*]+", p.strip())[-1] for p in inside.split(",")]
        if op in ops.OPS and {meaning(name) for name in names} <= names_of(op):
            found[op] = names
    return found


def meaning(name: str) -> str:
    """The argument, option or output of the op that a parameter of this name stands for."""
    return {"imag_is_exp": "imag"}.get(name, name.removesuffix("_out"))


def names_of(op: str) -> set[str]:
    contract = ops.OPS[op]
    return {*contract.arguments, *contract.keywords, *contract.outputs}


class Library:
    """The ops of a library as functions with the reference's names and signatures."""

    def __init__(self, path: str):
        if not Path(path).is_file():
            raise CandidateError(f"there is no library {path}")
        declared = declarations(header_file().read_text("utf-8"))
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(declared)
        self.lib: Any
        try:
            self.lib = self.ffi.dlopen(str(Path(path).resolve()))
            version = self.lib.refgss_abi_version()
        except (OSError, AttributeError) as e:
            why = (
                str(e)
                .split(".  ")[0]
                .removeprefix(f"cannot load library '{Path(path).resolve()}': ")
            )
            raise CandidateError(f"{path} cannot be used as a library of refgss.h: {why}") from e
        if version != ABI_VERSION:
            raise CandidateError(
                f"{path} implements version {version} of refgss.h, and this refgss calls version "
                f"{ABI_VERSION}: compile the library with {header_file()}"
            )
        self.path, self.parameters = path, parameters(declared)
        self.ops = self.offered()
        self.bind(contiguous)

    def bind(self, layout: Layout) -> None:
        """Offer the ops, with arrays that the library sees in this layout."""
        self.layout = layout
        for op in self.ops:
            setattr(self, op, partial(self.call, op))

    def laid_out(self, layout: Layout) -> Library:
        """The same library, given arrays of another layout."""
        if layout is self.layout:
            return self
        other = copy(self)
        other.bind(layout)
        return other

    def offered(self) -> list[str]:
        return [op for op in self.parameters if hasattr(self.lib, f"refgss_{op}")]

    def capabilities(self) -> dict[str, Any]:
        name, version = self.text("refgss_name"), self.text("refgss_version")
        return {
            "name": name or Path(self.path).name,
            "version": version,
            "ops": self.offered(),
            "profiles": ["f32", "f64"],
        }

    def text(self, function: str) -> str:
        """What an optional function of the header says; "" where the library has none."""
        said = getattr(self.lib, function)() if hasattr(self.lib, function) else self.ffi.NULL
        return (
            "" if said == self.ffi.NULL else self.ffi.string(said, 200).decode("utf-8", "replace")
        )

    def call(self, op: str, *arguments: Any, **keywords: Any) -> tuple[Any, ...] | Any:
        """One call through the C ABI; outputs complex where the contract has complex ones."""
        return self.prepare(op, *arguments, **keywords).results()

    def prepare(self, op: str, *arguments: Any, **keywords: Any) -> Prepared:
        """A call through the C ABI, its arguments and outputs in memory that C can see."""
        contract = ops.OPS[op]
        given = dict(zip(contract.arguments, arguments, strict=True)) | keywords
        tensors: Arrays = {
            k: np.ascontiguousarray(ops.to_real(x)).reshape(ops.to_real(x).shape)
            for k, x in given.items()
            if k not in ops.SCALARS and x is not None
        }
        dtype = next(x.dtype for x in tensors.values() if x is not None)
        outputs: Arrays = {name: room(op, name, given, tensors, dtype) for name in contract.outputs}
        pointwise = op.removesuffix("_vjp") in POINTWISE
        unseen(op, given, pointwise)
        seen = [as_seen(arrays, pointwise) for arrays in (tensors, outputs)]
        into, out = laid(seen[0], self.layout), laid(seen[1], of_output(self.layout, pointwise))
        keep: list[Any] = []  # what C sees must outlive the call
        values = [
            self.argument(name, given, into.arrays, out.arrays, keep)
            for name in self.parameters[op]
        ]
        run = partial(getattr(self.lib, f"refgss_{op}"), *values)
        return Prepared(run, self.check, into, out, outputs, keep)

    def argument(
        self, name: str, given: Values, tensors: Values, outputs: Values, keep: list[Any]
    ) -> Any:
        """The C value of a parameter, by its name."""
        if name == "form":
            form = given["form"]
            fields = (form.number, form.pairs, form.eps or 0.0, form.length or 0)
            keep.append(self.ffi.new("refgss_form *", fields))
        elif name == "imag_is_exp":
            return given["imag"] == "exp"
        elif name in ops.SCALARS:
            return given[name]
        else:
            x = tensors.get(name) if name in given else outputs.get(meaning(name))
            if x is None:
                return self.ffi.NULL
            keep.append(self.view(x, keep))
        return keep[-1]

    def view(self, x: np.ndarray, keep: list[Any]) -> Any:
        """A refgss_array of an array."""
        if x.ndim > MOST_AXES or x.dtype.name not in DTYPES:
            raise NotImplementedError(f"refgss.h has no array of {x.ndim} axes of {x.dtype}")
        keep.append(x)
        data = self.ffi.cast("void *", x.ctypes.data) if x.size else self.ffi.NULL
        strides = [step // x.itemsize for step in x.strides]
        if not x.size:  # NumPy's are odd then
            strides = [math.prod(x.shape[i + 1 :]) for i in range(x.ndim)]
        fields = {"data": data, "dtype": DTYPES[x.dtype.name]}
        fields |= {"rank": x.ndim, "shape": list(x.shape), "stride": strides}
        return self.ffi.new("refgss_array *", fields)

    def check(self, status: int) -> None:
        """Raise what a status other than OK means."""
        if status == self.lib.REFGSS_OK:
            return
        sentence = self.ffi.string(self.lib.refgss_last_error()).decode("utf-8", "replace")
        kinds = {self.lib.REFGSS_ERROR_TYPE: TypeError, self.lib.REFGSS_ERROR_VALUE: ValueError}
        raise kinds.get(status, RuntimeError)(sentence or f"status {status}")


@dataclass(frozen=True)
class Prepared:
    """A call of a library that can be made again and again, on the same memory."""

    run: Callable[[], int]  # the call itself: a status
    check: Callable[[int], None]
    into: Laid
    out: Laid
    outputs: Arrays  # by name in the contract's order, of the contract's shapes; None if not given
    keep: list[Any]

    def step(self) -> Answer:
        """The call and nothing else; the outputs stay where they are, and of the shapes seen."""
        status = self.run()
        return Outputs(self.out.arrays) if status == 0 else Failure(Outcome.RAISED, f"{status}")

    def results(self) -> tuple[Any, ...] | Any:
        """One call, checked: its outputs as the contract has them."""
        self.check(self.run())
        shapes = {name: y.shape for name, y in self.outputs.items() if y is not None}
        results = {name: y.reshape(shapes[name]) for name, y in taken(self.out).items()}
        if changed := self.into.changed():
            raise WroteElsewhereError(f"the argument {changed} was changed")
        if changed := self.out.changed():
            raise WroteElsewhereError(f"memory beside the output {changed} was written to")
        found = [ops.from_real(k, results[k]) if k in results else None for k in self.outputs]
        return tuple(found) if len(found) > 1 else found[0]


# ---- Arrays as the header wants them -----------------------------------------------------------

POINTWISE = ("layer_norm", "gelu", "dense")
OF_ROWS = ("x", "y", "dx", "dy")  # of these, all axes but the last are rows of a matrix


def as_seen(arrays: Arrays, pointwise: bool) -> dict[str, np.ndarray]:
    """What a function sees of its arrays: those that there are, signals as matrices if it asks."""
    return {
        name: matrix(x) if pointwise and name in OF_ROWS else x
        for name, x in arrays.items()
        if x is not None
    }


def unseen(op: str, given: Values, pointwise: bool) -> None:
    """Raises NotImplementedError where C cannot see what is wrong with the arguments."""
    if pointwise and "dy" in given and given["dy"].shape[:-1] != given["x"].shape[:-1]:
        raise NotImplementedError("refgss.h has matrices of rows, and no other axes, to compare")
    if op == "ssm_kernel_vjp" and given["dk"].shape[-1:] != (given["length"],):
        raise NotImplementedError("refgss.h has no length of a kernel but that of dk")


def taken(outputs: Laid) -> dict[str, np.ndarray]:
    """Copies of the outputs; their memory then holds NaN, as before the call."""
    found = {name: np.array(y, order="C") for name, y in outputs.arrays.items()}
    for y in outputs.arrays.values():
        y[...] = np.nan
    return found


def matrix(x: np.ndarray) -> np.ndarray:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1] if x.ndim else 1)


def room(op: str, name: str, given: Values, tensors: Values, dtype: Any) -> np.ndarray | None:
    """An output filled with NaN, so that what the library leaves alone is noticed."""
    try:
        shape = output_shape(op, name, given, tensors)
    except (IndexError, KeyError):
        shape = ()  # the arguments do not fit together: the library has to say so
    if shape is None:
        return None
    if min(shape, default=0) < 0:
        raise ValueError("a length must not be negative")  # there is no such array to pass
    return np.full(shape, np.nan, dtype)


def output_shape(op: str, name: str, given: Values, tensors: Values) -> Shape | None:
    """The shape of an output in real layout; None for the gradient of what was not given."""
    if name in FORWARD:
        return FORWARD[name](op, given, {k: x.shape for k, x in tensors.items()})
    primal = {"dstate0": "state"}.get(name, name.removeprefix("d"))
    if primal == "state" and "state" not in tensors:
        return FORWARD["state"](op, given, {k: x.shape for k, x in tensors.items()})
    if given.get(primal) is None:
        return None
    return tuple(tensors[primal].shape)


def discretized(op: str, given: Values, shapes: Mapping[str, Shape]) -> Shape:
    return (*shapes["delta"][:1], *shapes["lam"])


FORWARD: dict[str, Callable[[str, Values, Mapping[str, Shape]], Shape]] = {
    "lam": lambda op, given, s: (*s["a"], 2),
    "abar": discretized,
    "bbar": discretized,
    "k": lambda op, given, s: (s["c"][0], given["length"]),
    "state": lambda op, given, s: (s["u"][0], *s["c"]),
    "y": lambda op, given, s: (
        (*s["x"][:-1], s["weight"][1]) if op == "dense" else s["x"] if "x" in s else s["u"]
    ),
}
