"""What every op asks of its arguments: one sentence that says what to do, before any work.

Shared by the backends, so that the same mistake reads the same everywhere.  Shapes and dtypes are
checked for anything that has `shape` and `dtype`; values (Re Λ <= 0) wherever they are known, which
they are not while a compiler traces.  Wrong types raise TypeError, wrong shapes and values
ValueError.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any, get_args

import numpy as np

from refgss.config import (
    AttentionForm,
    BlockRecurrentConfig,
    Gate,
    KernelForm,
    LayerConfig,
    LMConfig,
    TransformerConfig,
)
from refgss.layers import kind_of
from refgss.layers.tensor import Tensor

MAX_LENGTH = 2**31 - 1
KINDS = {
    "f": ("float32 or float64", ("float32", "float64")),
    "c": ("complex64 or complex128", ("complex64", "complex128")),
    "i": ("an integer type", ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")),
}


def type_of(x: Any) -> str:
    """The type of an array's numbers, by the name that NumPy, JAX and PyTorch share."""
    return str(x.dtype).removeprefix("torch.")


def check_array(op: str, name: str, x: Any) -> None:
    """Something with a shape and a dtype.  Clauses: GSS-NFI-1."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise TypeError(f"{op}: {name} must be an array, not {type(x).__name__}")


def check_kind(op: str, name: str, x: Any, kind: str) -> None:
    """An array of a kind of element types.  Clauses: GSS-NFI-1, GSS-NFI-5."""
    check_array(op, name, x)
    wanted, names = KINDS[kind]
    if type_of(x) not in names:
        raise TypeError(f"{op}: {name} must be {wanted}, not {type_of(x)}")


def check_shape(op: str, name: str, x: Any, shape: tuple[int, ...], kind: str) -> None:
    """An array of exactly this shape.  Clauses: GSS-NFI-1."""
    check_kind(op, name, x, kind)
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{op}: {name} must have shape {tuple(shape)}, not {tuple(x.shape)}")


def check_rank(op: str, name: str, x: Any, axes: str, kind: str) -> None:
    """An array with these axes, of a kind of element types.  Clauses: GSS-NFI-1."""
    check_kind(op, name, x, kind)
    check_axes(op, name, x, axes)


def check_axes(op: str, name: str, x: Any, axes: str) -> None:
    """An array with these axes.  Clauses: GSS-NFI-1."""
    check_array(op, name, x)
    if len(x.shape) != len(axes.split(",")):
        raise ValueError(f"{op}: {name} must have axes ({axes}), not shape {tuple(x.shape)}")


def check_agree(op: str, what: str, name: str, x: Any, i: int, other: str, y: Any, j: int) -> None:
    """Axis i of x is as long as axis j of another argument.  Clauses: GSS-NFI-1."""
    if x.shape[i] != y.shape[j]:
        raise ValueError(
            f"{op}: {name} has {x.shape[i]} {what} where {other} has {y.shape[j]}: "
            f"shapes {tuple(x.shape)} and {tuple(y.shape)}"
        )


def check_real(op: str, name: str, x: Any) -> None:
    check_kind(op, name, x, "f")


def check_lambda_parameters(a: Any, b: Any, imag: str) -> None:
    """a, b (N,) of `gss_lambda`.  Clauses: GSS-NFI-1."""
    check_rank("gss_lambda", "a", a, "N", "f")
    check_shape("gss_lambda", "b", b, a.shape, "f")
    if imag not in ("exp", "identity"):
        raise ValueError(f"gss_lambda: imag must be 'exp' or 'identity', not {imag!r}")


def known(x: Any) -> np.ndarray | None:
    """The values of an array of NumPy, JAX or PyTorch; None of a tracer, which has none yet.

    Those of a device are waited for.  Of an array that lies on several hosts they are not asked.
    """
    if isinstance(x, np.ndarray | np.generic):
        return np.asarray(x)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return known_tensor(x, torch)
    jax = sys.modules.get("jax")  # an array of JAX is given only where JAX is imported
    if jax is None or not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
        return None
    return np.asarray(x) if x.is_fully_addressable else None


def known_tensor(x: Any, torch: Any) -> np.ndarray | None:
    """Of a tensor; None where a transformation of functions or a compiler traces it."""
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.is_meta:
        return None
    try:
        return x.detach().cpu().resolve_conj().numpy()
    except RuntimeError:  # of torch.func, whose tensors have no memory
        return None


def as_scalar(op: str, name: str, x: Any, like: Any) -> Any:
    """A number of any type, as an array () of the precision of `like`; other arrays as they are.

    Clauses: GSS-ARR-5.
    """
    if getattr(x, "shape", ()) != ():
        return x
    dtype = np.dtype(type_of(like)).type(0).real.dtype
    unnamed = "float" if isinstance(x, Real) else type(x).__name__
    kind = type_of(x) if hasattr(x, "dtype") else unnamed
    if isinstance(x, bool) or not kind.startswith(("float", "bfloat", "int", "uint")):
        raise TypeError(f"{op}: {name} must be a real number or an array, not {kind}")
    of_numpy = isinstance(like, np.ndarray) and known(x) is not None  # a value, of any library
    if not hasattr(x, "dtype") or isinstance(x, np.generic) or of_numpy:
        with np.errstate(over="ignore"):  # an infinity is refused, or judged, as any other
            return np.asarray(x, dtype)
    return x if type_of(x) == dtype.name else x.astype(dtype)


def positive(op: str, name: str, x: Any) -> float:
    """A positive number of any type as a number of Python, which promotes nothing.

    Clauses: GSS-ARR-5.
    """
    value = known(np.asarray(x) if isinstance(x, Real) and not isinstance(x, bool) else x)
    if value is None or value.shape != () or value.dtype.kind not in "fiu":
        raise TypeError(f"{op}: {name} must be a number, not {type(x).__name__}")
    if not 0 < value < np.inf:
        raise ValueError(f"{op}: {name} must be positive and finite, not {x}")
    return float(value)


def check_modes(op: str, lam: Any, delta: Any, form: KernelForm, c: Any | None = None) -> Any:
    """Λ and Δ; returns Δ as an array of Λ's real dtype if it was a number.

    Clauses: GSS-DIS-6..8, GSS-NFI-1..3.
    """
    check_rank(op, "lam", lam, "N", "c")
    delta = as_scalar(op, "delta", delta, lam)
    check_kind(op, "delta", delta, "f")
    separate = len(delta.shape) == 2 and delta.shape[1] == 2
    if len(delta.shape) > 1 and not separate:
        raise ValueError(f"{op}: delta must be a scalar, (H,) or (H,2), not {tuple(delta.shape)}")
    if separate and not form.method.startswith("dss"):
        raise ValueError(f"{op}: steps of their own for Re and Im belong to the dss methods only")
    if c is not None and len(delta.shape):
        check_agree(op, "channels", "delta", delta, 0, "c", c, 0)
    steps, modes = known(delta), known(lam)
    if steps is not None and not np.all((steps > 0) & np.isfinite(steps)):
        raise ValueError(f"{op}: every step delta must be positive and finite (GSS-NFI-3)")
    if modes is not None:
        allowed = form.method == "dss-softmax" and op.startswith("ssm_kernel")
        if not np.all(np.isfinite(modes)):
            raise ValueError(f"{op}: every lam must be finite (GSS-NFI-2)")
        if not allowed and not np.all(modes.real <= 0):
            raise ValueError(f"{op}: Re lam must not be positive (GSS-DIS-6)")
        if form.method == "dss-softmax" and np.any(modes == 0):
            raise ValueError(f"{op}: lam must not be 0 under dss-softmax (GSS-DIS-8)")
    return delta


def check_kernel(op: str, lam: Any, c: Any, length: int, delta: Any, form: KernelForm) -> Any:
    """Λ, C, Δ and a length; returns Δ.  Clauses: GSS-KER-6, GSS-NFI-1."""
    check_rank(op, "c", c, "H,N", "c")
    delta = check_modes(op, lam, delta, form, c)
    check_agree(op, "states", "c", c, 1, "lam", lam, 0)
    check_length(op, length)
    if form.length is not None and length > form.length:
        raise ValueError(f"{op}: length {length} exceeds the softmax's declared {form.length}")
    return delta


def check_length(op: str, length: Any) -> None:
    """A number of positions.  Clauses: GSS-KER-6."""
    if not isinstance(length, int | np.integer) or isinstance(length, bool):
        raise TypeError(f"{op}: length must be an integer, not {type(length).__name__}")
    if not 0 <= length <= MAX_LENGTH:
        raise ValueError(f"{op}: length must be between 0 and {MAX_LENGTH}, not {length}")


def check_convolution(op: str, u: Any, k: Any) -> None:
    """u (B,L,H), k (H,Lk).  Clauses: GSS-NFI-1."""
    check_rank(op, "u", u, "B,L,H", "f")
    check_rank(op, "k", k, "H,Lk", "f")
    check_agree(op, "channels", "u", u, 2, "k", k, 0)


def check_state(op: str, state: Any, c: Any, batch: int) -> Any:
    """The state (B,H,N); None becomes zeros.  Clauses: GSS-STA-2, GSS-NFI-1."""
    shape = (batch, c.shape[0], c.shape[1])
    if state is None:
        return np.zeros(shape, type_of(c))
    check_shape(op, "state", state, shape, "c")
    return state


def check_scan(
    op: str, u: Any, lam: Any, c: Any, state: Any, delta: Any, form: KernelForm
) -> tuple[Any, Any]:
    check_rank(op, "u", u, "B,L,H", "f")
    delta = check_kernel(op, lam, c, u.shape[1], delta, form)
    check_agree(op, "channels", "u", u, 2, "c", c, 0)
    return delta, check_state(op, state, c, u.shape[0])


def check_step(
    op: str, u: Any, lam: Any, c: Any, state: Any, delta: Any, form: KernelForm
) -> tuple[Any, Any]:
    check_rank(op, "u", u, "B,H", "f")
    delta = check_kernel(op, lam, c, 1, delta, form)
    check_agree(op, "channels", "u", u, 1, "c", c, 0)
    return delta, check_state(op, state, c, u.shape[0])


def check_layer_norm(op: str, x: Any, weight: Any, bias: Any, eps: Any) -> float:
    """x (...,E), weight and bias (E,); returns ε as a number of Python.  Clauses: GSS-NFI-1."""
    check_kind(op, "x", x, "f")
    if not x.shape or not x.shape[-1]:
        raise ValueError(f"{op}: x must have a last axis that is not empty")
    check_shape(op, "weight", weight, x.shape[-1:], "f")
    check_shape(op, "bias", bias, x.shape[-1:], "f")
    return positive(op, "eps", eps)


def check_rms_norm(op: str, x: Any, weight: Any, eps: Any) -> float:
    """x (...,E), weight (E,); returns ε as a number of Python.  Clauses: GSS-NFI-1."""
    return check_layer_norm(op, x, weight, weight, eps)


def check_rope(op: str, name: str, x: Any, r: Any, base: Any, pairing: str) -> float:
    """x (B,L,H,D), r (B,L) integers; returns the base.  Clauses: GSS-NFI-1."""
    check_rank(op, name, x, "B,L,H,D", "f")
    check_shape(op, "r", r, x.shape[:2], "i")
    if x.shape[3] % 2:
        raise ValueError(f"{op}: {name} must have pairs of numbers, not {x.shape[3]} a head")
    if pairing not in ("half", "interleaved"):
        raise ValueError(f"{op}: pairing must be 'half' or 'interleaved', not {pairing!r}")
    return positive(op, "base", base)


def check_table(op: str, table: Any, length: int) -> None:
    """table (H,32) and a number of distances.  Clauses: GSS-NFI-1."""
    check_rank(op, "table", table, "H,32", "f")
    if table.shape[1] != 32:
        raise ValueError(f"{op}: table must have 32 buckets, not {table.shape[1]}")
    check_length(op, length)


def check_attention(
    op: str, q: Any, k: Any, v: Any, bias: Any, state: Any, window: AttentionForm
) -> Mapping[str, Any]:
    """q (B,L,Hq,D), k, v (B,L,G,D), bias (Hq,M); returns the state, zeros for None.

    Clauses: GSS-NFI-1, GSS-ATT-6, GSS-ATT-15, GSS-ATT-26.
    """
    if not isinstance(window, AttentionForm):
        raise TypeError(f"{op}: window must be an AttentionForm, not {type(window).__name__}")
    check_rank(op, "q", q, "B,L,Hq,D", "f")
    check_rank(op, "k", k, "B,L,G,D", "f")
    (B, L, heads, D), groups = q.shape, k.shape[2]
    if (*k.shape[:2], k.shape[3]) != (B, L, D):
        raise ValueError(
            f"{op}: k must have the batch, length and width of q: "
            f"shapes {tuple(k.shape)} and {tuple(q.shape)}"
        )
    if not heads or not groups or not D or heads % groups:
        raise ValueError(f"{op}: the {groups} heads of k must divide the {heads} heads of q")
    check_shape(op, "v", v, k.shape, "f")
    if bias is not None:
        check_rank(op, "bias", bias, "Hq,M", "f")
        check_agree(op, "heads", "bias", bias, 0, "q", q, 2)
        if bias.shape[1] < window.distances:
            raise ValueError(
                f"{op}: bias must have {window.distances} distances, not {bias.shape[1]}"
            )
    slots = Tensor((B, window.slots, groups, D))
    if state is None:
        zeros = np.zeros(slots.shape, type_of(k))
        return {"k": zeros, "v": zeros, "t": np.zeros(B, np.int32)}
    check_parts(op, "state", state, {"k": slots, "v": slots, "t": Tensor((B,), "integer")})
    check_phases(op, state["t"], window)
    return state


def check_phases(op: str, t: Any, window: AttentionForm) -> None:
    """How many tokens each row has seen.  Clauses: GSS-ATT-26."""
    chunk = window.chunk
    check_counts(op, t, (chunk, f"the chunk, {chunk}") if window.visible == "chunk" else None)


def check_counts(op: str, t: Any, limit: tuple[int, str] | None) -> None:
    """Numbers of tokens, below a limit that has a name.  Clauses: GSS-ATT-26, GSS-BRT-18."""
    seen = known(t)
    if seen is None or not seen.size:
        return
    if seen.min() < 0 or (limit is not None and seen.max() >= limit[0]):
        below = "" if limit is None else f" and below {limit[1]}"
        raise ValueError(f"{op}: every state.t must be at least 0{below}")


def check_attention_cotangents(op: str, q: Any, state: Any, dy: Any, dstate: Any) -> None:
    """dy (B,L,Hq,D), dstate {"k", "v"}.  Clauses: GSS-NFI-1, GSS-ATT-9."""
    check_shape(op, "dy", dy, q.shape, "f")
    slots = Tensor(tuple(state["k"].shape))
    check_parts(op, "dstate", dstate, {"k": slots, "v": slots})


def check_attention_step(op: str, q: Any, k: Any, v: Any) -> None:
    """q (B,Hq,D), k, v (B,G,D): the rest is that of `check_attention`.  Clauses: GSS-NFI-1."""
    check_rank(op, "q", q, "B,Hq,D", "f")
    check_rank(op, "k", k, "B,G,D", "f")
    check_rank(op, "v", v, "B,G,D", "f")


def check_transformer(
    op: str, params: Mapping[str, Any], x: Any, state: Any, config: TransformerConfig
) -> None:
    """A layer, and tokens with a row of the table.  Clauses: GSS-NFI-1, GSS-ATT-26, GSS-HYB-10."""
    check_layer(op, params, x, state, config)
    check_positions(op, x.shape[1], state, config)


def check_positions(op: str, length: int, state: Any, config: TransformerConfig) -> None:
    """The phases of a state, and a row for each position.  Clauses: GSS-ATT-26, GSS-HYB-10."""
    if state is not None:
        check_phases(op, state["t"], config.form)
    if config.position != "learned" or config.visible == "chunk":
        return
    t = np.zeros(1, int) if state is None else known(state["t"])
    if t is not None and t.size and t.max() + length > config.rows:
        raise ValueError(
            f"{op}: there are {config.rows} learned positions, and token {t.max() + length} "
            "is beyond them"
        )


def check_heads(op: str, q: Any, k: Any, v: Any, axes: str, agree: tuple[int, ...]) -> None:
    """q with these axes, k and v alike, and as long as q along some.  Clauses: GSS-NFI-1."""
    check_rank(op, "q", q, axes, "f")
    check_rank(op, "k", k, axes, "f")
    for i in agree:
        check_agree(op, ("rows", "tokens", "heads", "numbers a head")[i], "k", k, i, "q", q, i)
    if not q.shape[-2] or not q.shape[-1]:
        raise ValueError(f"{op}: q must have at least one head and a width, not {tuple(q.shape)}")
    check_shape(op, "v", v, k.shape, "f")


def check_window_attention(
    op: str, q: Any, k: Any, v: Any, bias: Any, scale: Any, state: Any, window: int
) -> Mapping[str, Any]:
    """q, k, v (B,L,H,D), bias (H,M), scale (H,); returns the state, zeros for None.

    Clauses: GSS-NFI-1, GSS-BRT-7.
    """
    if isinstance(window, bool) or not isinstance(window, int | np.integer):
        raise TypeError(f"{op}: window must be an integer, not {type(window).__name__}")
    if window < 1:
        raise ValueError(f"{op}: window must be at least 1, not {window}")
    check_heads(op, q, k, v, "B,L,H,D", (0, 1, 2, 3))
    B, _, heads, D = q.shape
    if bias is not None:
        check_rank(op, "bias", bias, "H,M", "f")
        check_agree(op, "heads", "bias", bias, 0, "q", q, 2)
        if bias.shape[1] < window + 1:
            raise ValueError(f"{op}: bias must have {window + 1} distances, not {bias.shape[1]}")
    check_scale(op, scale, heads)
    slots = Tensor((B, window, heads, D))
    if state is None:
        zeros = np.zeros(slots.shape, str(k.dtype))
        return {"k": zeros, "v": zeros}
    check_parts(op, "state", state, {"k": slots, "v": slots})
    return state


def check_state_attention(op: str, q: Any, k: Any, v: Any, scale: Any) -> None:
    """q (B,T,H,D), k, v (B,M,H,D), scale (H,) or None.  Clauses: GSS-NFI-1."""
    check_heads(op, q, k, v, "B,T,H,D", (0, 2, 3))
    check_scale(op, scale, q.shape[2])


def check_scale(op: str, scale: Any, heads: int) -> None:
    """A number for each head, or None.  Clauses: GSS-NFI-1."""
    if scale is not None:
        check_shape(op, "scale", scale, (heads,), "f")


def check_l2_normalize(op: str, x: Any, eps: Any) -> float:
    """x (...,D); returns ε as a number of Python.  Clauses: GSS-NFI-1."""
    check_kind(op, "x", x, "f")
    if not x.shape or not x.shape[-1]:
        raise ValueError(f"{op}: x must have a last axis that is not empty")
    return positive(op, "eps", eps)


def check_gate(op: str, s: Any, z: Any, f: Any, i: Any, kind: str) -> None:
    """s, z (...,E), f (E,) under "fixed" and else (...,E), i under "lstm" alone.

    Clauses: GSS-NFI-1, GSS-BRT-13.
    """
    if kind not in get_args(Gate):
        raise ValueError(f"{op}: kind must be 'fixed', 'lstm' or 'full', not {kind!r}")
    check_kind(op, "s", s, "f")
    if not s.shape:
        raise ValueError(f"{op}: s must have a last axis")
    check_shape(op, "z", z, s.shape, "f")
    check_shape(op, "f", f, s.shape[-1:] if kind == "fixed" else s.shape, "f")
    if (i is not None) != (kind == "lstm"):
        raise ValueError(f"{op}: i belongs to the kind 'lstm', and only to it")
    if i is not None:
        check_shape(op, "i", i, s.shape, "f")


def check_block_recurrent(
    op: str, params: Mapping[str, Any], x: Any, state: Any, config: BlockRecurrentConfig
) -> Mapping[str, Any]:
    """A layer; returns the state, zeros for None.  Clauses: GSS-NFI-1, GSS-BRT-18."""
    check_layer(op, params, x, state, config)
    if state is None:
        return no_state(params, x, config)
    check_windows(op, state["t"], config)
    return state


def no_state(params: Mapping[str, Any], x: Any, config: LayerConfig) -> Mapping[str, Any]:
    """The parts of a state that is left out: zeros.  Clauses: GSS-STA-2."""
    kind = kind_of(config)
    parts = kind.state(config, kind.sizes(params), x.shape[0])
    types = {"real": str(x.dtype), "integer": "int32"}
    return {n: np.zeros(tensor.shape, types[tensor.numbers]) for n, tensor in parts.items()}


def check_windows(op: str, t: Any, config: BlockRecurrentConfig) -> None:
    """How many tokens each row has read.  Clauses: GSS-BRT-18."""
    check_counts(op, t, (2 * config.window, f"two windows, {2 * config.window}"))


def check_dense(op: str, x: Any, weight: Any, bias: Any) -> None:
    """x (...,I), weight (I,O), bias (O,) or None.  Clauses: GSS-NFI-1."""
    check_kind(op, "x", x, "f")
    check_rank(op, "weight", weight, "I,O", "f")
    if not x.shape or x.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"{op}: x {tuple(x.shape)} does not end in the {weight.shape[0]} rows of weight"
        )
    if bias is not None:
        check_shape(op, "bias", bias, weight.shape[1:], "f")


KIND_LETTERS = {"real": "f", "complex": "c", "integer": "i"}  # of a Tensor's numbers, in KINDS


def layer_shapes(params: Mapping[str, Any], config: LayerConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters, given those that tell the sizes of the kind.

    Clauses: GSS-NFI-1.
    """
    kind = kind_of(config)
    return {k: t.shape for k, t in kind.parameters(config, kind.sizes(params)).items()}


def check_layer(
    op: str, params: Mapping[str, Any], x: Any, state: Any, config: LayerConfig
) -> None:
    """Parameters, x and state of a layer.  Clauses: GSS-NFI-1."""
    kind = kind_of(config)
    for name, axes in kind.SIZED_BY.items():
        if name not in params:
            raise ValueError(f"{op}: the parameter {name} is missing")
        check_axes(op, name, params[name], axes)
    sizes = kind.sizes(params)
    wanted = parameters_of(op, config, sizes)
    if missing := wanted.keys() - params.keys():
        raise ValueError(f"{op}: the parameter {min(missing)} is missing")
    if unknown := params.keys() - wanted.keys():
        raise ValueError(f"{op}: the parameter {min(unknown)} has no meaning under {config}")
    for name, tensor in wanted.items():
        check_tensor(op, name, params[name], tensor)
    check_rank(op, "x", x, "B,L,E", "f")
    if x.shape[2] != sizes.width:
        raise ValueError(f"{op}: x has width {x.shape[2]} where the layer has {sizes.width}")
    if state is not None:
        check_parts(op, "state", state, kind.state(config, sizes, x.shape[0]))


def parameters_of(op: str, config: LayerConfig, sizes: Any) -> dict[str, Tensor]:
    """What the kind asks, unless its options and these sizes do not go together."""
    try:
        return kind_of(config).parameters(config, sizes)
    except ValueError as e:
        fault = f"{op}: {e}"
    raise ValueError(fault)


def check_tensor(op: str, name: str, x: Any, wanted: Tensor) -> None:
    check_shape(op, name, x, wanted.shape, KIND_LETTERS[wanted.numbers])


def check_parts(op: str, name: str, state: Any, wanted: Mapping[str, Tensor]) -> None:
    """A state of one part is an array, one of several a mapping of their names."""
    if len(wanted) == 1:
        (tensor,) = wanted.values()
        return check_tensor(op, name, state, tensor)
    if not isinstance(state, Mapping) or state.keys() != wanted.keys():
        raise ValueError(f"{op}: {name} must be a mapping with {', '.join(wanted)}")
    for part, tensor in wanted.items():
        check_tensor(op, f"{name}.{part}", state[part], tensor)


def check_layer_cotangents(
    op: str, params: Mapping[str, Any], x: Any, dout: Any, dstate: Any, config: LayerConfig
) -> None:
    """dout (B,L,E), dstate of the form of a state without its integers.  Clauses: GSS-NFI-1."""
    check_shape(op, "dout", dout, x.shape, "f")
    kind = kind_of(config)
    state = kind.state(config, kind.sizes(params), x.shape[0])
    check_parts(op, "dstate", dstate, {k: t for k, t in state.items() if t.numbers != "integer"})


def check_language_model(
    op: str, params: Mapping[str, Any], tokens: Any, state: Any, config: LMConfig
) -> None:
    """What surrounds the layers; each layer checks its own parameters.  Clauses: GSS-NFI-1."""
    check_tokens(op, "tokens", tokens, params)
    V, E = params["embedding.weight"].shape
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (V, E)}
    if config.final_norm:
        shapes |= {"norm.weight": (E,), "norm.bias": (E,)}
    if not config.tied:
        shapes["head.weight"] = (E, V)
    for name, shape in shapes.items():
        if name not in params:
            raise ValueError(f"{op}: the parameter {name} is missing")
        check_shape(op, name, params[name], shape, "f")
    layers = tuple(f"layers.{i}." for i in range(config.depth))
    for name in params:
        if name not in shapes and not name.startswith(layers):
            raise ValueError(f"{op}: the parameter {name} has no meaning under {config}")
    if state is not None:
        check_depth(op, "state", state, config.depth)
    for i, layer in enumerate(config.layers):  # before any layer is computed
        own = None if state is None else state[i]
        if isinstance(layer, TransformerConfig) and (own is None or "t" in own):
            check_positions(op, tokens.shape[1], own, layer)
        if isinstance(layer, BlockRecurrentConfig) and own is not None and "t" in own:
            check_windows(op, own["t"], layer)


def check_depth(op: str, name: str, state: Any, depth: int) -> None:
    """The states of all layers, stacked or as a tuple; each layer checks its own."""
    stacked = not isinstance(state, tuple)
    if stacked and tuple(state.shape[:1]) != (depth,):
        raise ValueError(
            f"{op}: {name} must have shape ({depth},...), a state for each layer, "
            f"not {tuple(state.shape)}"
        )
    if not stacked and len(state) != depth:
        raise ValueError(f"{op}: {name} must have {depth} entries, one a layer, not {len(state)}")


def check_targets(op: str, params: Mapping[str, Any], tokens: Any, targets: Any) -> None:
    """Tokens and targets of a loss.  Clauses: GSS-LM-6, GSS-NFI-1, GSS-NFI-4."""
    check_tokens(op, "tokens", tokens, params)
    check_tokens(op, "targets", targets, params)
    check_shape(op, "targets", targets, tokens.shape, "i")
    if not targets.shape[0] or not targets.shape[1]:
        raise ValueError(f"{op}: the mean over no tokens is undefined: give at least one")


def check_tokens(op: str, name: str, tokens: Any, params: Mapping[str, Any]) -> None:
    """Tokens or targets (B,L).  Clauses: GSS-LM-6, GSS-NFI-1."""
    if "embedding.weight" not in params:
        raise ValueError(f"{op}: the parameter embedding.weight is missing")
    check_rank(op, "embedding.weight", params["embedding.weight"], "V,E", "f")
    check_rank(op, name, tokens, "B,L", "i")
    V, found = params["embedding.weight"].shape[0], known(tokens)
    if found is not None and found.size and not (0 <= found.min() and found.max() < V):
        raise ValueError(f"{op}: {name} must be between 0 and {V - 1}")
