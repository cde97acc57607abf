"""The op contract as data: what each op takes, in which order, and what it returns.

One table drives everything that calls an op it did not write: the vectors, the candidates in other
languages, the C ABI and the mutants.  A case is an op, tensors by name, and JSON-able options.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

import numpy as np

from refgss.config import AttentionForm, DSSConfig, GSSConfig, KernelForm, LMConfig, to_json
from refgss.layers import kind_of_op, model_from_json, model_to_json


@dataclass(frozen=True)
class Op:
    """All that the contract says of an op: the names of its arguments in order, of its keywords and
    of its outputs, and the axes of its tensors.

    `params` and `dparams` are mappings: their tensors travel as `params.NAME`, and
    `checks.layer_shapes` tells their axes.  So do those of a state that has parts: as `state.k`,
    and as `state.1` or `state.1.k` where a model's is a tuple (GSS-FMT-18).  Arguments named in
    SCALARS are options, all others are tensors.  In `axes`, "..." stands for any leading axes, and
    axes of one letter are equally long; Δ ("delta") is a scalar, (H,) or (H,2).  Of a score op the
    arguments named in `axes` are tensors, all others are options, JSON values.  `kinds` tells which
    outputs are no real or complex numbers: INTEGER or TEXT, which are exact.
    """

    arguments: tuple[str, ...]
    keywords: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: Mapping[str, str]
    kinds: Mapping[str, str] = field(default_factory=dict)


INTEGER, TEXT = "integer", "text"
SCALARS = frozenset("length n init imag eps form config base pairing window kind".split())
SPREAD = frozenset({"params", "state", "dstate"})  # arguments whose parts may travel as tensors
OPTIONAL = frozenset({"state", "bias", "scale", "i"})  # tensors that may be None
IN_PARTS = frozenset({"dparams", "state", "dstate0"})  # outputs whose parts may travel so
WHOLES = {  # of one token: of many
    "ssm_step": "ssm_scan",
    "attention_step": "attention",
    "block_recurrent_step": "block_recurrent_layer",
}


def _op(arguments: str, keywords: str, outputs: str, axes: Mapping[str, str]) -> Op:
    return Op(tuple(arguments.split()), tuple(keywords.split()), tuple(outputs.split()), axes)


MODES = {"lam": "N", "delta": ""}
KERNEL = {"lam": "N", "c": "H N", "delta": ""}
SCAN = {"u": "B L H", "lam": "N", "c": "H N", "state": "B H N", "delta": ""}
STEP = SCAN | {"u": "B H"}
LAYER = {"params": "", "x": "B L E", "state": "B H N"}
LAYER_VJP = LAYER | {"dout": "B L E", "dstate": "B H N"}
# A: heads of queries; G: of keys and values; P: a head's width; S: slots; M: distances
WINDOW = {"state.k": "B S G P", "state.v": "B S G P", "state.t": "B"}
WINDOW_VJP = {"dstate.k": "B S G P", "dstate.v": "B S G P"}
ATTENTION = {"q": "B L A P", "k": "B L G P", "v": "B L G P", "bias": "A M"} | WINDOW
ATTENTION_STEP = ATTENTION | {"q": "B A P", "k": "B G P", "v": "B G P"}
TRANSFORMER = {"params": "", "x": "B L E"} | WINDOW
# H: heads; W: tokens of a window; T: queries, M: keys or distances; S: vectors of a state
OF_WINDOW = {"q": "B L H P", "k": "B L H P", "v": "B L H P", "bias": "H M", "scale": "H"}
OF_WINDOW |= {"state.k": "B W H P", "state.v": "B W H P"}
OF_STATE = {"q": "B T H P", "k": "B M H P", "v": "B M H P", "scale": "H"}
GATE = {"s": "... E", "z": "... E", "f": "", "i": "... E"}
SLOTS = {"state.s": "B S E", "state.k": "B W H P", "state.v": "B W H P", "state.t": "B"}
SLOTS_VJP = {"dstate.s": "B S E", "dstate.k": "B W H P", "dstate.v": "B W H P"}
RECURRENT = {"params": "", "x": "B L E"} | SLOTS
LM = {"params": "", "tokens": "B L", "state": "D B H N"}
OPS: dict[str, Op] = {
    "s4d_lambda": _op("n", "init", "lam", {}),
    "gss_lambda": _op("a b", "imag", "lam", {"a": "N", "b": "N"}),
    "gss_lambda_vjp": _op("a b dlam", "imag", "da db", {"a": "N", "b": "N", "dlam": "N"}),
    "discretize": _op("lam delta", "form", "abar bbar", MODES),
    "discretize_vjp": _op(
        "lam delta dabar dbbar", "form", "dlam ddelta", MODES | {"dabar": "N", "dbbar": "N"}
    ),
    "ssm_kernel": _op("lam c length", "delta form", "k", KERNEL),
    "ssm_kernel_vjp": _op(
        "lam c length dk", "delta form", "dlam dc ddelta", KERNEL | {"dk": "H L"}
    ),
    "causal_conv": _op("u k", "", "y", {"u": "B L H", "k": "H K"}),
    "causal_conv_vjp": _op("u k dy", "", "du dk", {"u": "B L H", "k": "H K", "dy": "B L H"}),
    "ssm_scan": _op("u lam c state", "delta form", "y state", SCAN),
    "ssm_scan_vjp": _op(
        "u lam c state dy dstate",
        "delta form",
        "du dlam dc dstate0 ddelta",
        SCAN | {"dy": "B L H", "dstate": "B H N"},
    ),
    "ssm_step": _op("u lam c state", "delta form", "y state", STEP),
    "ssm_step_vjp": _op(
        "u lam c state dy dstate",
        "delta form",
        "du dlam dc dstate0 ddelta",
        STEP | {"dy": "B H", "dstate": "B H N"},
    ),
    "layer_norm": _op("x weight bias", "eps", "y", {"x": "... E", "weight": "E", "bias": "E"}),
    "layer_norm_vjp": _op(
        "x weight bias dy",
        "eps",
        "dx dweight dbias",
        {"x": "B E", "weight": "E", "bias": "E", "dy": "B E"},
    ),
    "rms_norm": _op("x weight", "eps", "y", {"x": "... E", "weight": "E"}),
    "rms_norm_vjp": _op(
        "x weight dy", "eps", "dx dweight", {"x": "B E", "weight": "E", "dy": "B E"}
    ),
    "gelu": _op("x", "", "y", {"x": "..."}),
    "gelu_vjp": _op("x dy", "", "dx", {"x": "B E", "dy": "B E"}),
    "dense": _op("x weight bias", "", "y", {"x": "... I", "weight": "I O", "bias": "O"}),
    "dense_vjp": _op(
        "x weight bias dy",
        "",
        "dx dweight dbias",
        {"x": "B I", "weight": "I O", "bias": "O", "dy": "B O"},
    ),
    "rope": _op("x r", "base pairing", "y", {"x": "B L A P", "r": "B L"}),
    "rope_vjp": _op("r dy", "base pairing", "dx", {"r": "B L", "dy": "B L A P"}),
    "t5_bias": _op("table length", "", "bias", {"table": "A T"}),
    "t5_bias_vjp": _op("table length dbias", "", "dtable", {"table": "A T", "dbias": "A L"}),
    "attention": _op("q k v bias state", "window", "y state", ATTENTION),
    "attention_vjp": _op(
        "q k v bias state dy dstate",
        "window",
        "dq dk dv dbias dstate0",
        ATTENTION | {"dy": "B L A P"} | WINDOW_VJP,
    ),
    "attention_step": _op("q k v bias state", "window", "y state", ATTENTION_STEP),
    "attention_step_vjp": _op(
        "q k v bias state dy dstate",
        "window",
        "dq dk dv dbias dstate0",
        ATTENTION_STEP | {"dy": "B A P"} | WINDOW_VJP,
    ),
    "gss_layer": _op("params x state", "config", "y state", LAYER),
    "gss_layer_vjp": _op("params x state dout dstate", "config", "dparams dx dstate0", LAYER_VJP),
    "dss_layer": _op("params x state", "config", "y state", LAYER),
    "dss_layer_vjp": _op("params x state dout dstate", "config", "dparams dx dstate0", LAYER_VJP),
    "transformer_layer": _op("params x state", "config", "y state", TRANSFORMER),
    "transformer_layer_vjp": _op(
        "params x state dout dstate",
        "config",
        "dparams dx dstate0",
        TRANSFORMER | {"dout": "B L E"} | WINDOW_VJP,
    ),
    "l2_normalize": _op("x", "eps", "y", {"x": "... E"}),
    "l2_normalize_vjp": _op("x dy", "eps", "dx", {"x": "B E", "dy": "B E"}),
    "window_attention": _op("q k v bias scale state", "window", "y state", OF_WINDOW),
    "window_attention_vjp": _op(
        "q k v bias scale state dy dstate",
        "window",
        "dq dk dv dbias dscale dstate0",
        OF_WINDOW | {"dy": "B L H P", "dstate.k": "B W H P", "dstate.v": "B W H P"},
    ),
    "state_attention": _op("q k v scale", "", "y", OF_STATE),
    "state_attention_vjp": _op(
        "q k v scale dy", "", "dq dk dv dscale", OF_STATE | {"dy": "B T H P"}
    ),
    "gate": _op("s z f i", "kind", "y", GATE),
    "gate_vjp": _op("s z f i dout", "kind", "ds dz df di", GATE | {"dout": "... E"}),
    "block_recurrent_layer": _op("params x state", "config", "y state", RECURRENT),
    "block_recurrent_layer_vjp": _op(
        "params x state dout dstate",
        "config",
        "dparams dx dstate0",
        RECURRENT | {"dout": "B L E"} | SLOTS_VJP,
    ),
    "block_recurrent_step": _op("params x state", "config", "y state", RECURRENT | {"x": "B E"}),
    "block_recurrent_step_vjp": _op(
        "params x state dout dstate",
        "config",
        "dparams dx dstate0",
        RECURRENT | {"x": "B E", "dout": "B E"} | SLOTS_VJP,
    ),
    "lm_logits": _op("params tokens state", "config", "logits state", LM),
    "lm_logits_vjp": _op(
        "params tokens state dlogits dstate",
        "config",
        "dparams dstate0",
        LM | {"dlogits": "B L V", "dstate": "D B H N"},
    ),
    "lm_loss": _op("params tokens targets state", "config", "loss", LM | {"targets": "B L"}),
    "lm_loss_vjp": _op(
        "params tokens targets state dloss",
        "config",
        "dparams dstate0",
        LM | {"targets": "B L", "dloss": ""},
    ),
}


# --- scores: pure functions of records, in binary64 alone; no backend of layers has them --------


def _score(
    arguments: str,
    keywords: str,
    outputs: str,
    axes: Mapping[str, str] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Op:
    row = _op(arguments, keywords, outputs, axes or {})
    return Op(row.arguments, row.keywords, row.outputs, row.axes, kinds or {})


# n: samples; m: of the target; K: classes; M: bins; B: replicates; G: different answers
SCORES: dict[str, Op] = {
    "shown_choices": _score("choices", "seed", "shown", None, {"shown": TEXT}),
    "task_prompts": _score(
        "task",
        "shots max_examples seed",
        "prompts queries",
        None,
        {"prompts": TEXT, "queries": INTEGER},
    ),
    "task_options": _score(
        "task", "index", "options scores targets", None, {"options": TEXT, "targets": TEXT}
    ),
    "multiple_choice": _score(
        "log_probs target_scores sizes",
        "ties",
        "grade random brier calibration weighted_log weighted",
        {"log_probs": "N", "target_scores": "N", "sizes": "n"},
    ),
    "log_likelihood": _score(
        "log_probs sizes", "", "log_likelihood", {"log_probs": "N", "sizes": "n"}
    ),
    "text_match": _score("responses targets", "rule", "score"),
    "macro_f1": _score("predicted expected", "", "score"),
    "normalized_aggregate": _score(
        "scores low high", "", "aggregate", {"scores": "n", "low": "n", "high": "n"}
    ),
    "scaling": _score(
        "sizes scores",
        "count",
        "improvement linearity breakthroughness",
        {"sizes": "n", "scores": "n"},
    ),
    "extract_answer": _score("text", "which across_lines", "answer", None, {"answer": TEXT}),
    "boxed_answer": _score("text", "", "answer found", None, {"answer": TEXT, "found": INTEGER}),
    "normalize_answer": _score("text", "rules", "answer", None, {"answer": TEXT}),
    "equivalent": _score("first second", "rules method", "equal", None, {"equal": INTEGER}),
    "vote": _score(
        "answers", "invalid ties", "answer votes", None, {"answer": TEXT, "votes": INTEGER}
    ),
    "vote_score": _score("answers gold", "invalid", "score"),
    "majority_at_k": _score("counts", "gold invalid k", "score", {"counts": "G"}),
    "pass_at_k": _score("", "n c k", "score"),
    "softmax": _score("logits", "temperature", "p", {"logits": "n K"}),
    "renormalize": _score("p", "", "p", {"p": "n K"}),
    "nll": _score("logits labels", "temperature", "nll", {"logits": "n K", "labels": "n"}),
    "fit_temperature": _score(
        "logits labels",
        "",
        "temperature at_bound",
        {"logits": "n K", "labels": "n"},
        {"at_bound": INTEGER},
    ),
    "calibration_error": _score(
        "confidence correct",
        "bins edges binning",
        "ece mce rmsce counts hits confidence",
        {"confidence": "n", "correct": "n"},
        {"counts": INTEGER, "hits": INTEGER},
    ),
    "brier": _score("p labels", "per", "brier", {"p": "n K", "labels": "n"}),
    "confidence": _score("p", "score", "confidence", {"p": "n K"}),
    "atc": _score(
        "source correct target",
        "rule ties",
        "threshold source_accuracy target_accuracy",
        {"source": "n", "correct": "n", "target": "m"},
    ),
    "average_confidence": _score("target", "", "accuracy", {"target": "m"}),
    "difference_of_confidences": _score(
        "source correct target",
        "clip",
        "accuracy",
        {"source": "n", "correct": "n", "target": "m"},
    ),
    "importance_reweighting": _score(
        "source correct target",
        "bins",
        "accuracy dropped",
        {"source": "n", "correct": "n", "target": "m"},
        {"dropped": INTEGER},
    ),
    "agreement": _score("first second", "", "accuracy", {"first": "m K", "second": "m K"}),
    "resample": _score("group", "seed replicate", "indices", {"group": "n"}, {"indices": INTEGER}),
    "percentile_interval": _score("values", "percent", "low high", {"values": "B"}),
}
CONTRACT: dict[str, Op] = OPS | SCORES


def exact_kind(op: str, output: str) -> str | None:
    """INTEGER or TEXT where an output is exact; None where it is of real or complex numbers."""
    if op in SCORES:
        return SCORES[op].kinds.get(output.split(".")[0])
    return INTEGER if is_integer(output) else None


def decode_option(op: str, name: str, value: Any) -> Any:
    """A JSON value as what the op takes: a form, or the options of a layer or a model."""
    if op in SCORES:
        return value
    if name == "form":
        return KernelForm(**value)
    if name == "window" and isinstance(value, Mapping):  # else a number of tokens
        return AttentionForm(**value)
    if name != "config":
        return value
    base = op.removesuffix("_vjp")
    base = WHOLES.get(base, base)
    return kind_of_op(base).config_of(value) if base.endswith("_layer") else model_from_json(value)


def encode_option(value: Any) -> Any:
    """The inverse of `decode_option`; a layer tells its kind where the op does not."""
    if isinstance(value, LMConfig) and not isinstance(value.layer, GSSConfig | DSSConfig):
        return model_to_json(value)
    return to_json(value) if is_dataclass(value) else value


def invoke(module: Any, op: str, tensors: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """module.op(...) on a case; returns what the op returned."""
    contract = CONTRACT[op]

    def argument(name: str) -> Any:
        if op in SCORES:
            return tensors[name] if name in contract.axes else options[name]
        if name in SCALARS:
            return decode_option(op, name, options[name])
        if name in SPREAD and name not in tensors:
            return gathered(tensors, name)
        return tensors.get(name) if name in OPTIONAL else tensors[name]

    return getattr(module, op)(
        *(argument(n) for n in contract.arguments), **{n: argument(n) for n in contract.keywords}
    )


def parts(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The tensors that travel as `name.PART`, by PART."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}


def gathered(tensors: Mapping[str, Any], name: str) -> Any:
    """The inverse of `spread`: parameters or a state, from its parts; a state without: None."""
    own = parts(tensors, name)
    if name == "params" or not own:
        return own if name == "params" else None
    layers = sorted({int(part.split(".")[0]) for part in own if part[0].isdigit()})
    if not layers:
        return own
    return tuple(own[f"{i}"] if f"{i}" in own else parts(own, f"{i}") for i in layers)


def spread(name: str, value: Any) -> dict[str, Any]:
    """What an op returned under this name, one entry an array; None has none."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        inner: Any = value.items()
    elif isinstance(value, tuple | list):
        inner = enumerate(value)
    else:
        return {name: value}
    return {k: x for part, own in inner for k, x in spread(f"{name}.{part}", own).items()}


def call(
    module: Any, op: str, tensors: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """module.op(...) on a case; returns {output name: array} as the op gave them."""
    return named_outputs(op, invoke(module, op, tensors, options))


def named_outputs(op: str, result: Any) -> dict[str, Any]:
    """What an op returned, by name; parts are spread out, a None gradient is left out."""
    names = CONTRACT[op].outputs
    if len(names) == 1:
        result = (result,)
    if not isinstance(result, tuple | list) or len(result) != len(names):
        raise TypeError(f"{op} must return ({', '.join(names)})")
    outputs: dict[str, Any] = {}
    for name, value in zip(names, result, strict=True):
        if name == "dparams" and not isinstance(value, Mapping):
            raise TypeError(f"{op} must return dparams as a mapping of names to arrays")
        if op in SCORES:
            outputs |= spread(name, as_arrays(value, exact_kind(op, name)))
        elif name in IN_PARTS:
            outputs |= spread(name, value)
        elif value is not None:
            outputs[name] = value
    return outputs


def as_arrays(value: Any, kind: str | None) -> Any:
    """What a score op returned, as arrays: a text as its bytes in UTF-8, a list of texts in parts.

    Raises TypeError where the value is not of that kind.
    """
    if kind != TEXT:
        return np.asarray(value, np.int64) if isinstance(value, bool | int) else value
    if isinstance(value, list | tuple):
        return [as_arrays(text, kind) for text in value]
    if not isinstance(value, str):
        raise TypeError(f"a text is due, not {type(value).__name__}")
    return np.frombuffer(value.encode("utf-8", "surrogatepass"), np.uint8)


def to_real(x: Any) -> np.ndarray:
    """An array as files hold it: complex numbers as a trailing axis of two, in the same memory."""
    x = np.asarray(x)
    return x[..., None].view(x.real.dtype) if np.iscomplexobj(x) else x


FLOATS = {"f32": np.float32, "f64": np.float64}


def never_returned(given: Collection[str]) -> set[str]:
    """The outputs that are None for these arguments: the gradient of what was not given.

    A state that is not given means zeros, and has a gradient.
    """
    return {f"d{name}" for name in OPTIONAL - {"state"} if name not in given}


def at_precision(tensors: Mapping[str, np.ndarray], precision: str) -> dict[str, np.ndarray]:
    """The tensors of a case, in real layout, as copies of the working precision."""
    wanted = FLOATS[precision]
    return {k: x.astype(wanted if x.dtype.kind == "f" else x.dtype) for k, x in tensors.items()}


COMPLEX = frozenset("lam c state dlam dc dstate dstate0 abar bbar dabar dbbar".split())

OF_LAYER = re.compile(r"^(d?state0?)\.\d+$")  # a model's state, where it is a tuple


def is_complex(name: str) -> bool:
    """Whether the tensor of this name is complex: known from the name alone.

    A layer's state is complex where it is one array; states with parts (`state.k`) are not.
    """
    return OF_LAYER.sub(r"\1", name) in COMPLEX or name.endswith("ssm.c")


def is_integer(name: str) -> bool:
    """Whether the output of this name counts tokens: the part t of a state (GSS-ATT-7)."""
    return name.startswith("state.") and name.endswith(".t")


def from_real(name: str, x: np.ndarray) -> np.ndarray:
    """The inverse of `to_real`, the name telling which tensors are complex."""
    return joined_complex(x) if is_complex(name) else x


def joined_complex(x: np.ndarray) -> np.ndarray:
    """(...,2), re and im, as complex (...): a view, since re + i·im makes NaN of an infinity."""
    return np.ascontiguousarray(x).view(np.result_type(x.dtype, 1j))[..., 0]
