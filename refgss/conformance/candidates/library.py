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
VISIBLE = {"chunk": 1, "sliding": 2, "look1": 3, "strict": 4}  # enum refgss_visible
PAIRING = {"half": 1, "interleaved": 2}  # enum refgss_pairing
GATE = {"fixed": 1, "lstm": 2, "full": 3}  # enum refgss_gate_kind

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


PART = re.compile(r"(d?state0?)_([kvt])")  # of a state that has parts: state_k is state.k


def tensor(name: str) -> str:
    """The name under which the tensor of a parameter travels."""
    return PART.sub(r"\1.\2", name.removesuffix("_out"))


def meaning(name: str) -> str:
    """The argument, option or output of the op that a parameter of this name stands for."""
    return {"imag_is_exp": "imag"}.get(name, tensor(name).split(".")[0])


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
            name: as_c(ops.to_real(x))
            for k, value in given.items()
            if k not in ops.SCALARS
            for name, x in ops.spread(k, value).items()
        }
        dtype = next(x.dtype for x in tensors.values() if x is not None and x.dtype.kind == "f")
        outputs: Arrays = {name: room(op, name, given, tensors, dtype) for name in output_names(op)}
        pointwise = op.removesuffix("_vjp") in POINTWISE
        unseen(op, given, pointwise)
        rows = rows_of_matrices(given) if pointwise else frozenset()
        seen = [as_seen(arrays, rows) for arrays in (tensors, outputs)]
        into = laid(seen[0], of_numbers(self.layout))
        whole_rows = pointwise or "attention" in op
        out = laid(seen[1], of_numbers(of_output(self.layout, whole_rows)))
        keep: list[Any] = []  # what C sees must outlive the call
        values = [
            self.argument(name, given, into.arrays, out.arrays, keep)
            for name in self.parameters[op]
        ]
        run = partial(getattr(self.lib, f"refgss_{op}"), *values)
        t = (given.get("state") or {}).get("t") if "state.t" in contract.axes else None
        counts = np.promote_types(np.int32 if t is None else t.dtype, np.int32)
        return Prepared(op, counts, run, self.check, into, out, outputs, keep)

    def argument(
        self, name: str, given: Values, tensors: Values, outputs: Values, keep: list[Any]
    ) -> Any:
        """The C value of a parameter, by its name."""
        if name == "form":
            form = given["form"]
            fields = (form.number, form.pairs, form.eps or 0.0, form.length or 0)
            keep.append(self.ffi.new("refgss_form *", fields))
        elif name == "window" and isinstance(given["window"], int):
            return given["window"]
        elif name == "window":
            window = given["window"]
            numbers = window.chunk, VISIBLE[window.visible], window.scale == "one"
            keep.append(self.ffi.new("refgss_window *", numbers))
        elif name == "imag_is_exp":
            return given["imag"] == "exp"
        elif name == "pairing":
            return PAIRING[given["pairing"]]
        elif name == "kind":
            return GATE[given["kind"]]
        elif name in ops.SCALARS:
            return given[name]
        else:
            inside = meaning(name) in given and not name.endswith("_out")
            x = (tensors if inside else outputs).get(tensor(name))
            if x is None:
                return self.ffi.NULL
            keep.append(self.view(x, keep))
        return keep[-1]

    def view(self, x: np.ndarray, keep: list[Any]) -> Any:
        """A refgss_array of an array, or the integers themselves."""
        if x.dtype == np.int64:
            keep.append(x)
            return self.ffi.cast("int64_t *", x.ctypes.data)
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

    op: str
    counts: Any  # the dtype of numbers of tokens
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
        numbers = {k: ops.from_real(k, x) for k, x in results.items()}
        if "state.t" in numbers:
            numbers["state.t"] = numbers["state.t"].astype(self.counts)
        found = [
            numbers[name] if name in numbers else ops.parts(numbers, name) or None
            for name in ops.OPS[self.op].outputs
        ]
        return tuple(found) if len(found) > 1 else found[0]


# ---- Arrays as the header wants them -----------------------------------------------------------

POINTWISE = ("layer_norm", "rms_norm", "l2_normalize", "gelu", "dense", "gate")
# of these, all axes but the last are rows of a matrix
OF_ROWS = frozenset(("x", "y", "dx", "dy", *"szfi", "ds", "dz", "df", "di", "dout"))


def rows_of_matrices(given: Values) -> frozenset[str]:
    """The arrays of a pointwise op that C sees as matrices: not f of a gate that is fixed."""
    return OF_ROWS - {"f", "df"} if given.get("kind") == "fixed" else OF_ROWS


def as_c(x: np.ndarray) -> np.ndarray:
    """In row-major order; integers as the header has them."""
    wide = x.astype(np.int64) if x.dtype.kind in "iu" else x
    return np.ascontiguousarray(wide).reshape(x.shape)


def of_numbers(layout: Layout) -> Layout:
    """The layout, but for integers, which the header has in row-major order."""
    return lambda name, x: contiguous(name, x) if x.dtype.kind == "i" else layout(name, x)


def nothing(dtype: Any) -> Any:
    """What an output holds before a call."""
    return np.nan if np.dtype(dtype).kind == "f" else -1


def as_seen(arrays: Arrays, rows: frozenset[str]) -> dict[str, np.ndarray]:
    """What a function sees of its arrays: those that there are, some of them as matrices."""
    return {name: matrix(x) if name in rows else x for name, x in arrays.items() if x is not None}


def unseen(op: str, given: Values, pointwise: bool) -> None:
    """Raises NotImplementedError where C cannot see what is wrong with the arguments."""
    rows = [given[name] for name in rows_of_matrices(given) if given.get(name) is not None]
    if pointwise and len({x.shape[:-1] for x in rows}) > 1:
        raise NotImplementedError("refgss.h has matrices of rows, and no other axes, to compare")
    if op == "ssm_kernel_vjp" and given["dk"].shape[-1:] != (given["length"],):
        raise NotImplementedError("refgss.h has no length of a kernel but that of dk")
    if op == "t5_bias_vjp" and given["dbias"].shape != (given["table"].shape[0], given["length"]):
        raise NotImplementedError("refgss.h has no heads and no length but those of dbias")
    turned = given.get("x", given.get("dy"))
    if "r" in given and given["r"].shape != turned.shape[:2]:
        raise NotImplementedError("refgss.h has no shape of r: one number a token")
    state = given.get("state")
    if isinstance(state, Mapping) and "t" in state and state["t"].shape != given["q"].shape[:1]:
        raise NotImplementedError("refgss.h has no shape of the tokens seen: one number a row")


def taken(outputs: Laid) -> dict[str, np.ndarray]:
    """Copies of the outputs; their memory then holds NaN, as before the call."""
    found = {name: np.array(y, order="C") for name, y in outputs.arrays.items()}
    for y in outputs.arrays.values():
        y[...] = nothing(y.dtype)
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
    kind = np.dtype(np.int64) if name == "state.t" else dtype
    return np.full(shape, nothing(kind), kind)


def output_names(op: str) -> list[str]:
    """The outputs of an op, those of a state by its parts."""
    contract = ops.OPS[op]
    parts = [name for name in contract.axes if name.startswith("state.")]
    past = [name.replace("state", "dstate0") for name in parts if name != "state.t"]
    kept = {"state": parts, "dstate0": past} if parts else {}
    return [part for name in contract.outputs for part in kept.get(name, [name])]


def output_shape(op: str, name: str, given: Values, tensors: Values) -> Shape | None:
    """The shape of an output in real layout; None for the gradient of what was not given."""
    if name in FORWARD:
        return FORWARD[name](op, given, {k: x.shape for k, x in tensors.items()})
    primal = name.removeprefix("d").replace("state0", "state")
    if primal.split(".")[0] == "state" and primal not in tensors:
        return FORWARD[primal](op, given, {k: x.shape for k, x in tensors.items()})
    return tuple(tensors[primal].shape) if primal in tensors else None


def slots(op: str, given: Values, shapes: Mapping[str, Shape]) -> Shape:
    *_, groups, width = shapes["k"]
    window = given["window"]
    return shapes["q"][0], window if isinstance(window, int) else window.slots, groups, width


def discretized(op: str, given: Values, shapes: Mapping[str, Shape]) -> Shape:
    return (*shapes["delta"][:1], *shapes["lam"])


FORWARD: dict[str, Callable[[str, Values, Mapping[str, Shape]], Shape]] = {
    "lam": lambda op, given, s: (*s["a"], 2),
    "abar": discretized,
    "bbar": discretized,
    "k": lambda op, given, s: (s["c"][0], given["length"]),
    "bias": lambda op, given, s: (s["table"][0], given["length"]),
    "dx": lambda op, given, s: s["dy" if op == "rope_vjp" else "x"],
    "state.k": slots,
    "state.v": slots,
    "state.t": lambda op, given, s: (s["q"][0],),
    "state": lambda op, given, s: (s["u"][0], *s["c"]),
    "y": lambda op, given, s: (
        (*s["x"][:-1], s["weight"][1])
        if op == "dense"
        else next(s[name] for name in ("x", "u", "q", "s") if name in s)
    ),
}
