"""On CPUs: the kernels of refgss.native as custom operators, each with its gradient.

`torch.ops.refgss.NAME(tensors, case)` is an op of the standard on a case of it: the tensors by the
names under which they travel (refgss.ops), and JSON with these names and the options.  A tensor and
the array that a kernel sees are the same memory.  The gradient of NAME is the operator NAME_vjp; so
both are numbers of refgss.native, under autograd, `torch.compile` and `torch.export` too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import numpy as np
import torch

from refgss import checks, ops
from refgss.config import AttentionForm
from refgss.torch.inputs import Tensor, gradient_of, regrouped, tensors_of

KEEPING = "_keeping"  # a forward pass that returns KEPT too
Shaped = Callable[[Mapping[str, Tensor], Mapping[str, Any]], dict[str, Tensor]]


@cache
def backend() -> ModuleType | str:
    """refgss.native, or why it cannot be used."""
    try:
        from refgss import native
    except ImportError as e:
        return str(e)
    return native


def obstacle() -> str | None:
    """Why the kernels cannot be used, or None."""
    found = backend()
    return found if isinstance(found, str) else None


# --- a case -------------------------------------------------------------------------------------


@torch.compiler.assume_constant_result
def written(names: Sequence[str], options: Mapping[str, Any]) -> str:
    return json.dumps({"tensors": list(names), "options": dict(options)})


@cache
def read(case: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    found = json.loads(case)
    return tuple(found["tensors"]), found["options"]


def array(op: str, name: str, x: Tensor) -> np.ndarray:
    """A tensor's memory.  Raises TypeError for a type that NumPy lacks."""
    try:
        return x.detach().resolve_conj().resolve_neg().numpy()
    except TypeError as e:
        raise TypeError(
            f"{op}: {name} must be of float32 or float64 (complex64 or complex128 where it is "
            f"complex), not {checks.type_of(x)}"
        ) from e


# --- outputs, by name -----------------------------------------------------------------------------


def empty(x: Tensor, *shape: Any, numbers: str | None = None) -> Tensor:
    """A tensor of this shape, "real" or "complex" of the precision of x, or of its own type."""
    double = x.dtype in (torch.float64, torch.complex128)
    dtype = {
        None: x.dtype,
        "real": torch.float64 if double else torch.float32,
        "complex": torch.complex128 if double else torch.complex64,
    }[numbers]
    return x.new_empty(shape, dtype=dtype)


def like_x(t: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"y": empty(t["x"], *t["x"].shape)}


def modes(t: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    shape = (*t["delta"].shape[:1], *t["lam"].shape)
    return {name: empty(t["lam"], *shape) for name in ("abar", "bbar")}


def scanned(t: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    state = empty(t["c"], t["u"].shape[0], *t["c"].shape)
    return {"y": empty(t["u"], *t["u"].shape), "state": state}


def attended(t: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    q, k, slots = t["q"], t["k"], AttentionForm(**options["window"]).slots
    shape = q.shape[0], slots, k.shape[-2], k.shape[-1]
    dtype = torch.int32
    if "state.t" in t:
        dtype = torch.promote_types(t["state.t"].dtype, dtype)
    return {
        "y": empty(q, *q.shape),
        "state.k": empty(k, *shape),
        "state.v": empty(k, *shape),
        "state.t": q.new_empty(q.shape[:1], dtype=dtype),
    }


def of_layer(t: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    x, c = t["x"], t["params.ssm.c"]
    return {"y": empty(x, *x.shape), "state": empty(c, x.shape[0], *c.shape)}


def of_layer_keeping(t: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    (B, L, _), (H, F) = t["x"].shape, t["params.w_uc"].shape
    kept = zip(KEPT, (F, H, H, F), strict=True)
    return of_layer(t, options) | {name: empty(t["x"], B, L, width) for name, width in kept}


OUTPUTS: dict[str, Shaped] = {
    "gss_lambda": lambda t, _: {"lam": empty(t["a"], *t["a"].shape, numbers="complex")},
    "discretize": modes,
    "ssm_kernel": lambda t, o: {"k": empty(t["c"], t["c"].shape[0], o["length"], numbers="real")},
    "causal_conv": lambda t, _: {"y": empty(t["u"], *t["u"].shape)},
    "ssm_scan": scanned,
    "ssm_step": scanned,
    "layer_norm": like_x,
    "rms_norm": like_x,
    "gelu": like_x,
    "rope": like_x,
    "dense": lambda t, _: {"y": empty(t["x"], *t["x"].shape[:-1], t["weight"].shape[1])},
    "t5_bias": lambda t, o: {"bias": empty(t["table"], t["table"].shape[0], o["length"])},
    "attention": attended,
    "attention_step": attended,
    "gss_layer": of_layer,
    "gss_layer_keeping": of_layer_keeping,
    "dss_layer": of_layer,
}
OPS = tuple(op for op in OUTPUTS if op in ops.OPS)  # the others are composed of them


KEPT = tuple(f"kept.{name}" for name in ("v", "u", "y", "uc"))  # refgss_gss_layer_kept


@cache
def sources(vjp: str, names: tuple[str, ...]) -> dict[str, str]:
    """The outputs of a gradient by name, each with the tensor that it is the gradient of."""
    found: dict[str, str] = {}
    for output in ops.OPS[vjp].outputs:
        of = {"dstate0": "state", "dx": "x" if "x" in names else "dy"}.get(output, output[1:])
        if output == "dstate0" and any(base(name) == "dstate" for name in names):
            of = "dstate"  # there where the state is None, too
        for name in names:
            if base(name) == of and not ops.is_integer(name):
                found[output + name.removeprefix(of)] = name
    return found


def base(name: str) -> str:
    return name.partition(".")[0]


@torch.compiler.assume_constant_result
def outputs(op: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the outputs of an operator, in order."""
    if op.endswith("_vjp"):
        return tuple(sources(op, names))
    if op.startswith("attention"):
        return "y", "state.k", "state.v", "state.t"
    return (*ops.OPS[op.removesuffix(KEEPING)].outputs, *(KEPT if op.endswith(KEEPING) else ()))


# --- the operators --------------------------------------------------------------------------------


def arranged(op: str, tensors: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a function of refgss.native."""
    contract = ops.OPS[op]
    found = {n: ops.decode_option(op, n, options[n]) for n in options}
    for name in contract.arguments + contract.keywords:
        if name not in ops.SCALARS:
            found[name] = tensors[name] if name in tensors else ops.gathered(tensors, name)
    return found


def computed(
    op: str, arrays: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The outputs of refgss.native by name."""
    if op.endswith(KEEPING):
        from refgss.native.layers import gss_layer_keeping

        y, state, kept = gss_layer_keeping(**arranged("gss_layer", arrays, options))
        return {"y": y, "state": state, **dict(zip(KEPT, kept, strict=True))}
    if KEPT[0] in arrays:
        from refgss.native.layers import gss_layer_back

        given = arranged(op, arrays, options)
        kept = tuple(arrays[name] for name in KEPT)
        return ops.named_outputs(op, gss_layer_back(**given, kept=kept))
    return ops.call(backend(), op, arrays, options)


def run(op: str, tensors: list[Tensor], case: str) -> list[Tensor]:
    """A kernel on the memory of the tensors."""
    names, options = read(case)
    arrays = {n: array(op, n, x) for n, x in zip(names, tensors, strict=True)}
    with np.errstate(all="ignore"):
        found = computed(op, arrays, options)
    return [torch.from_numpy(np.asarray(found[name])) for name in outputs(op, names)]


def without_values(op: str, tensors: list[Tensor], case: str) -> list[Tensor]:
    """Outputs of the right shapes and types, for whoever traces."""
    names, options = read(case)
    given = dict(zip(names, tensors, strict=True))
    if op.endswith("_vjp"):
        return [empty(given[of], *given[of].shape) for of in sources(op, names).values()]
    found = OUTPUTS[op](given, options)
    return [found[name] for name in outputs(op, names)]


def cotangents(
    op: str, given: Mapping[str, Tensor], arriving: Mapping[str, Tensor | None], options: Any
) -> dict[str, Tensor]:
    """The cotangents by the names that the gradient of an op has for them; zeros where none came.

    Only the gradient of a GSS layer that was kept can do without that of the state.
    """
    new = [n for n in ops.OPS[f"{op}_vjp"].arguments if n not in ops.OPS[op].arguments]
    named = dict(zip(ops.OPS[op].outputs, new, strict=True))
    shapes = OUTPUTS[op](given, options) if None in arriving.values() else {}
    found = {}
    for name, x in arriving.items():
        if base(name) not in named or ops.is_integer(name):
            continue
        if x is None and name == "state" and KEPT[0] in given:
            continue
        cotangent = named[base(name)] + name.removeprefix(base(name))
        found[cotangent] = torch.zeros_like(shapes[name]) if x is None else x
    return found


def differentiated(name: str) -> tuple[Callable[..., None], Callable[..., Any]]:
    """What the gradient of an operator keeps, and how it is computed: by NAME_vjp."""
    op = name.removesuffix(KEEPING)
    vjp = ops.OPS[f"{op}_vjp"]
    wanted = vjp.arguments + vjp.keywords

    def remember(ctx: Any, inputs: tuple[list[Tensor], str], output: list[Tensor]) -> None:
        tensors, ctx.case = inputs
        names = read(ctx.case)[0]
        known = [*zip(names, tensors, strict=True), *zip(outputs(name, names), output, strict=True)]
        used = {n: x for n, x in known[: len(names)] if base(n) in wanted}
        used |= {n: x for n, x in known[len(names) :] if n in KEPT}
        ctx.names = tuple(used)
        ctx.save_for_backward(*used.values())
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, arriving: list[Tensor | None]) -> tuple[list[Tensor | None], None]:
        names, options = read(ctx.case)
        if all(x is None for x in arriving):
            return [None] * len(names), None
        given = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        of_outputs = dict(zip(outputs(name, names), arriving, strict=True))
        given |= cotangents(op, given, of_outputs, options)
        found = called(f"{op}_vjp", given, options)
        return [found.get(gradient_of(n)) for n in names], None

    return remember, backward


def called(
    name: str, tensors: Mapping[str, Tensor], options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """An operator on tensors by name; its outputs by name."""
    names = tuple(tensors)
    case = written(names, options)
    found = getattr(torch.ops.refgss, name)(list(tensors.values()), case)
    return dict(zip(outputs(name, names), found, strict=True))


def define(name: str) -> None:
    """The operator refgss::NAME."""
    operator = torch.library.custom_op(
        f"refgss::{name}",
        partial(run, name),
        mutates_args=(),
        device_types="cpu",
        schema="(Tensor[] tensors, str case) -> Tensor[]",
    )
    operator.register_fake(partial(without_values, name))
    if not name.endswith("_vjp"):
        remember, backward = differentiated(name)
        operator.register_autograd(backward, setup_context=remember)


if obstacle() is None:
    for op in OUTPUTS:
        define(op)
    for op in OPS:
        define(f"{op}_vjp")


# --- the ops as refgss.torch calls them -----------------------------------------------------------


def wants_gradient(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a gradient may follow: then what it needs is kept."""
    if not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return False
    return any(x.requires_grad for x in tensors.values())


def kernel(op: str) -> Callable[..., Any]:
    """An op of the standard, its arguments by name."""

    def call(**arguments: Any) -> Any:
        tensors = tensors_of(op, arguments)
        options = {n: ops.encode_option(x) for n, x in arguments.items() if n in ops.SCALARS}
        name = op
        if op == "gss_layer" and wants_gradient(tensors):
            name += KEEPING
        return regrouped(op, called(name, tensors, options))

    return call


KERNELS = {name: kernel(name) for op in OPS for name in (op, f"{op}_vjp")}
