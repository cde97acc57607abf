"""Presentations: other ways to put a case to a candidate that takes arrays in memory.

The numbers are the same, so the answer must be: however the arguments lie in memory, whether or not
they may be written to, and whatever was asked before, after or at the same time.
"""

from __future__ import annotations

import mmap
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from refgss.conformance.judging.compare import Answer, Failure, Outcome, Outputs

Arrays = Mapping[str, np.ndarray]
Layout = Callable[[str, np.ndarray], np.ndarray]  # an argument's name and values -> the same values


class Asking(Protocol):
    """One op of a candidate, with its options."""

    def once(self, tensors: Arrays, layout: Layout) -> Answer:
        """Its answer to arguments that are laid out anew."""

    def many(self, tensors: Arrays) -> Callable[[], Answer]:
        """A function that asks about the same arguments each time, at as little cost as it can."""

    def truth(self, tensors: Arrays, precision: str = "f64") -> Answer:
        """What the reference answers."""


LINE = 64  # bytes: what allocators align large arrays to
MUCH = 1 / 16  # of the largest element: a difference that two different answers cannot round away
THREAD_SECONDS = 0.2  # for which two threads ask
SWITCH_SECONDS = 1e-5  # between two turns of threads that hold Python's lock


# --- how an argument lies in memory --------------------------------------------------------------


def contiguous(name: str, x: np.ndarray) -> np.ndarray:
    """As it is: in row-major order."""
    return x


def negative(name: str, x: np.ndarray) -> np.ndarray:
    """Every axis runs backwards."""
    backwards: Any = (..., *(slice(None, None, -1),) * x.ndim)  # "...": no axis is an array too
    return np.array(x[backwards], order="C")[backwards]


def gapped(x: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """Every steps[i]-th element of axis i of a larger array; what lies between is no number."""
    nothing = np.nan if x.dtype.kind in "fc" else np.iinfo(x.dtype).max
    each = list(zip(steps, x.shape, strict=True))
    larger = np.full([step * n + 2 for step, n in each], nothing, x.dtype)
    between: Any = (..., *(slice(1, 1 + step * n, step) for step, n in each))
    inner = larger[between]
    inner[...] = x
    return inner


def padded(name: str, x: np.ndarray) -> np.ndarray:
    """Rows, and blocks of rows, are longer than what they hold."""
    return gapped(x, (1,) * x.ndim)


def stepped(name: str, x: np.ndarray) -> np.ndarray:
    """No two elements are neighbours."""
    return gapped(x, (2,) * x.ndim)


def broadcast(name: str, x: np.ndarray) -> np.ndarray:
    """Axes along which nothing changes have the stride 0."""
    first = x
    for axis in constant_axes(x):
        first = first[(slice(None),) * axis + (slice(0, 1),)]
    return np.broadcast_to(np.array(first), x.shape)


def constant_axes(x: np.ndarray) -> list[int]:
    """The axes of length 2 or more along which an array has the same bits."""
    bits = np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape, -1) if x.size else x
    return [
        axis
        for axis in range(x.ndim if x.size else 0)
        if x.shape[axis] > 1 and np.all(bits == np.take(bits, [0], axis))
    ]


def unaligned(name: str, x: np.ndarray) -> np.ndarray:
    """One number away from a multiple of 64 bytes, so that no wide load is aligned."""
    room = np.empty(x.nbytes + 2 * LINE, np.uint8)
    start = -room.ctypes.data % LINE + x.dtype.itemsize
    found = room[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    found[...] = x
    return found


def fortran(name: str, x: np.ndarray) -> np.ndarray:
    """Column-major order."""
    return np.array(x, order="F")


def read_only(name: str, x: np.ndarray) -> np.ndarray:
    """On pages that the system lets nobody write to."""
    if not x.size:
        return x
    with tempfile.TemporaryFile() as file:
        file.write(x.tobytes())
        file.flush()
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(pages, x.dtype).reshape(x.shape)


class WroteElsewhereError(Exception):
    """A library wrote to memory that is no output; the message says where."""


@dataclass(frozen=True)
class Laid:
    """Arguments laid out in memory, and what that memory held."""

    arrays: dict[str, np.ndarray]
    before: dict[str, bytes]

    def changed(self) -> str | None:
        """The first argument that is no longer as it was, or whose surroundings are not."""
        return next(
            (name for name, x in self.arrays.items() if whole(x).tobytes() != self.before[name]),
            None,
        )


def laid(arrays: Arrays, layout: Layout) -> Laid:
    """All arguments of a call in the memory that the layout gives them."""
    found = {name: layout(name, x) for name, x in arrays.items()}
    return Laid(found, {name: whole(x).tobytes() for name, x in found.items()})


def whole(x: np.ndarray) -> np.ndarray:
    """All the memory of which an array is a part."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x


def of_output(layout: Layout, whole_rows: bool) -> Layout:
    """How an output lies in memory where the arguments have this layout: in memory of its own.

    whole_rows: the elements of its last axis must be neighbours.
    """
    if layout in (broadcast, read_only):
        return contiguous
    chosen = padded if whole_rows and layout in (negative, stepped, fortran) else layout
    return lambda name, x: chosen(f"output {name}", x)


# --- when and beside what a case is asked --------------------------------------------------------


def other_values(tensors: Arrays) -> dict[str, np.ndarray]:
    """Arguments of the same shapes that are valid too: numbers halved, tokens in reverse order."""
    return {
        name: np.asarray(x * x.dtype.type(0.5)) if x.dtype.kind == "f" else x[..., ::-1].copy()
        for name, x in tensors.items()
    }


def in_used_memory(ask: Asking, tensors: Arrays) -> Answer:
    """The arguments take the place of others that were asked about just before."""
    places: dict[str, np.ndarray] = {}

    def same_place(name: str, x: np.ndarray) -> np.ndarray:
        place = places.setdefault(name, np.empty_like(x, order="C"))
        place[...] = x
        return place

    ask.once(other_values(tensors), same_place)
    return ask.once(tensors, same_place)


def held(ask: Asking, tensors: Arrays) -> Answer:
    """The result is read only after the next one was computed."""
    answer = ask.once(tensors, contiguous)
    ask.once(other_values(tensors), contiguous)
    return answer


def with_one_changed(ask: Asking, tensors: Arrays) -> Answer:
    """Each argument in turn is another, beside the others as they were: so must the answer be."""
    answer = ask.once(tensors, contiguous)
    truth, rough = ask.truth(tensors), ask.truth(tensors, "f32")
    if not isinstance(answer, Outputs):
        return answer
    if not isinstance(truth, Outputs) or not isinstance(rough, Outputs):
        return answer
    for name, other in other_values(tensors).items():
        changed = {**tensors, name: other}
        right, again = ask.truth(changed), ask.once(changed, contiguous)
        if not isinstance(right, Outputs) or not isinstance(again, Outputs):
            continue
        for output, y in answer.arrays.items():
            before, after = truth.arrays[output], right.arrays[output]
            if not differs(before, after) or differs(before, rough.arrays[output]):
                continue  # that is only rounded: a sum that cancels
            if again.arrays[output].tobytes() == y.tobytes():
                why = f"{output} is what it was, though {name} is another than in the call before"
                return Failure(Outcome.WRONG_VALUE, why)
    return answer


def differs(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether two finite results are apart by much more than any rounding."""
    if x.shape != y.shape or not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        return False
    largest = max(np.max(np.abs(x), initial=0), np.max(np.abs(y), initial=0))
    return bool(np.max(np.abs(x - y), initial=0) > MUCH * largest)


def from_two_threads(ask: Asking, tensors: Arrays) -> Answer:
    """Another thread asks about other values; of all answers, the one least like that alone."""
    worst = alone = ask.once(tensors, contiguous)
    if not isinstance(alone, Outputs):
        return alone
    steps = [ask.many(tensors), ask.many(other_values(tensors))]
    together = threading.Barrier(2)
    deadline = time.monotonic() + THREAD_SECONDS

    def beside() -> None:
        together.wait()
        while time.monotonic() < deadline:
            steps[1]()

    other = threading.Thread(target=beside)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        other.start()
        together.wait()
        while time.monotonic() < deadline:
            if not same_bytes(answer := steps[0](), alone):
                worst = max(worst, kept(answer, alone), key=lambda x: distance(x, alone))
        other.join()
    finally:
        sys.setswitchinterval(interval)
    return worst


def same_bytes(answer: Answer, alone: Outputs) -> bool:
    return isinstance(answer, Outputs) and all(
        y.tobytes() == alone.arrays[name].tobytes() for name, y in answer.arrays.items()
    )


def kept(answer: Answer, alone: Outputs) -> Answer:
    """A copy of an answer whose memory will be used again, in the shapes of the one given alone."""
    if not isinstance(answer, Outputs) or answer.arrays.keys() != alone.arrays.keys():
        return answer
    shapes = {name: y.shape for name, y in alone.arrays.items()}
    return Outputs(
        {
            name: (y.reshape(shapes[name]) if y.size == alone.arrays[name].size else y).copy()
            for name, y in answer.arrays.items()
        }
    )


def distance(answer: Answer, alone: Outputs) -> float:
    """The largest difference of an element; infinite where the answers cannot be compared."""
    if not isinstance(answer, Outputs) or answer.arrays.keys() != alone.arrays.keys():
        return np.inf
    largest = 0.0
    for name, x in answer.arrays.items():
        y = alone.arrays[name]
        if x.shape != y.shape:
            return np.inf
        if x.tobytes() != y.tobytes():
            with np.errstate(all="ignore"):
                apart = np.where((x == y) | (np.isnan(x) & np.isnan(y)), 0, np.abs(x - y))
            largest = max(largest, float(np.max(np.nan_to_num(apart, nan=np.inf), initial=0)))
    return largest


# --- the table -----------------------------------------------------------------------------------

AGAIN = "asked a second time"  # what every candidate can be: no matter of memory
THREADS = "from two threads at once"
ZERO = "with strides of zero"

Way = Callable[[Asking, Arrays], Answer]


def as_laid(layout: Layout) -> Way:
    return lambda ask, tensors: ask.once(tensors, layout)


LAYOUTS: dict[str, Layout] = {
    "with negative strides": negative,
    "with padded rows": padded,
    "with gaps between elements": stepped,
    ZERO: broadcast,
    "at an odd address": unaligned,
    "in Fortran order": fortran,
    "in read-only memory": read_only,
}
WAYS: dict[str, Way] = {name: as_laid(layout) for name, layout in LAYOUTS.items()} | {
    "in memory that held other arguments": in_used_memory,
    "with the result read after the next call": held,
    "with one argument changed": with_one_changed,
    THREADS: from_two_threads,
}
NOT_IN = {  # the framework has no such arrays
    "numpy": frozenset[str](),
    "torch": frozenset({"with negative strides"}),
    "jax": frozenset(LAYOUTS),
}
UNTOUCHED = ("GSS-CNF-12", "GSS-ARR-4")
CLAUSES = {name: ("GSS-CNF-11", "GSS-ARR-3") for name in LAYOUTS} | {
    "in read-only memory": UNTOUCHED
}


def ways_of(arrays: str) -> tuple[str, ...]:
    """The ways in which a candidate that takes these arrays is asked."""
    return tuple(name for name in WAYS if name not in NOT_IN[arrays])


def clauses_of(way: str) -> tuple[str, ...]:
    """The clauses that a wrong answer to a case asked in this way breaks."""
    return CLAUSES.get(way, ("GSS-CNF-13",))


def present(way: str, ask: Asking, tensors: Arrays) -> Answer:
    """The answer to a case that is asked in one of the WAYS.  Clauses: GSS-CNF-11 … 13."""
    return WAYS[way](ask, tensors)
