"""Small cases of every op, drawn by hypothesis, with what random numbers never reach.

A case is what the conformance kit takes it to be: an op, tensors in real layout, JSON-able options.
All numbers are float32 exactly, so that a case serves both precisions.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refgss import config as cfg
from refgss import ops, reference
from refgss.conformance.vectors import cases

LENGTHS = st.sampled_from([0, 1, 2, 3, 5, 7, 8, 11, 13])  # empty, single, odd, prime, even
SOME = st.integers(1, 3)


@dataclass(frozen=True)
class Case:
    op: str
    tensors: dict[str, np.ndarray]
    options: dict

    def at(self, precision):
        """The tensors as an op takes them: complex where they are, in "f32" or "f64"."""
        narrow = ops.at_precision(self.tensors, precision)
        return {name: ops.from_real(name, x) for name, x in narrow.items()}

    def run(self, precision, **changes):
        """The reference's outputs by name; no overflow and no invalid operation on the way."""
        with np.errstate(all="raise", under="ignore"):
            return ops.call(reference, self.op, self.at(precision) | changes, self.options)


# --- numbers -----------------------------------------------------------------------------------


def floats(low, high):
    return st.floats(low, high, width=32, allow_subnormal=False)


def tensors(*shape, size=3):
    """Elements chosen one by one, which shrink well, or all at random, which coincide nowhere."""
    chosen = arrays(np.float32, shape, elements=floats(-size, size), fill=st.nothing())
    random = st.integers(0, 2**32 - 1).map(
        lambda seed: np.random.default_rng(seed).uniform(-size, size, shape).astype(np.float32)
    )
    return st.one_of(chosen, random)


DAMPING = st.one_of(
    floats(0.125, 3),
    floats(2**-20, 2**-10),  # slow
    st.just(0.0),  # undamped
    floats(100, 300),  # Ā underflows in binary32
)
FREQUENCY = st.one_of(
    floats(-4, 4),
    floats(-(2**-10), 2**-10),
    floats(-(2**-120), 2**-120),  # z subnormal
    floats(-1000, 1000),
)


@st.composite
def modes(draw, n, form, growing=False):
    """Λ (n,2).  `growing` admits Re Λ > 0."""
    lam = np.array([(-draw(DAMPING), draw(FREQUENCY)) for _ in range(n)], np.float32).reshape(n, 2)
    if growing:
        lam[:, 0] *= np.where(draw(arrays(bool, n)), -0.125, 1).astype(np.float32)
    if form.method == "dss-softmax":
        lam[np.abs(lam).max(-1, initial=0) < 2**-20, 0] = -1  # Λ = 0 is refused, 1/Λ² is finite
    return lam


@st.composite
def steps(draw, form, h):
    """Δ: a number, (h,) or, for the dss methods, (h,2)."""
    shapes = [(), (h,)] + [(h, 2)] * form.method.startswith("dss")
    return draw(arrays(np.float32, draw(st.sampled_from(shapes)), elements=floats(2**-7, 2)))


def forms(length=13):
    return st.sampled_from(
        [
            cfg.GSS,
            cfg.S4D_ZOH,
            cfg.S4D_BILINEAR,
            cfg.KernelForm("bilinear"),
            cfg.DSS_EXP,
            cfg.KernelForm("dss-exp", eps=0.5, pairs=True),  # clamps much
            cfg.dss_softmax(max(length, 1)),
            cfg.dss_softmax(length + 4),
            cfg.DSS_EXP_SHIFTED,
            cfg.KernelForm("dss-exp", eps=0.5, pairs=True, reciprocal="shifted"),
            cfg.dss_softmax_shifted(max(length, 1)),
            cfg.dss_softmax_shifted_sum(length + 4),
            *(
                cfg.KernelForm("dss-softmax", eps=0.5, length=length + 1, reciprocal=reciprocal)
                for reciprocal in cfg.RECIPROCALS["dss-softmax"][1:]
            ),
        ]
    )


# --- ops ---------------------------------------------------------------------------------------


@st.composite
def parameterizations(draw):
    n = draw(st.integers(0, 4))
    real = {"a": draw(tensors(n, size=8)), "b": draw(tensors(n, size=8))}
    return Case("gss_lambda", real, {"imag": draw(st.sampled_from(["exp", "identity"]))})


@st.composite
def discretizations(draw, form=None):
    form = form or draw(forms())
    lam, delta = draw(modes(draw(st.integers(0, 4)), form)), draw(steps(form, draw(SOME)))
    return Case("discretize", {"lam": lam, "delta": delta}, {"form": ops.encode_option(form)})


@st.composite
def kernels(draw, form=None):
    length, h, n = draw(LENGTHS), draw(SOME), draw(st.integers(0, 4))
    form = form or draw(forms(length))
    lam = draw(modes(n, form, growing=form.method == "dss-softmax"))
    given = {"lam": lam, "c": draw(tensors(h, n, 2)), "delta": draw(steps(form, h))}
    return Case("ssm_kernel", given, {"form": ops.encode_option(form), "length": length})


@st.composite
def convolutions(draw):
    b, length, taps, h = draw(st.integers(0, 2)), draw(LENGTHS), draw(LENGTHS), draw(SOME)
    return Case("causal_conv", {"u": draw(tensors(b, length, h)), "k": draw(tensors(h, taps))}, {})


@st.composite
def scans(draw, op="ssm_scan", form=None):
    b, h, n, length = draw(st.integers(0, 2)), draw(SOME), draw(SOME), draw(LENGTHS)
    form = form or draw(forms(length))
    given = {"u": draw(tensors(b, h) if op == "ssm_step" else tensors(b, length, h))}
    given |= {"lam": draw(modes(n, form)), "c": draw(tensors(h, n, 2))}
    given |= {"delta": draw(steps(form, h))}
    if draw(st.booleans()):
        given["state"] = draw(tensors(b, h, n, 2))
    return Case(op, given, {"form": ops.encode_option(form)})


@st.composite
def norms(draw):
    shape = (*draw(st.sampled_from([(), (0,), (3,), (2, 2)])), draw(st.integers(1, 5)))
    mean = draw(st.sampled_from([0, 1000]))  # large beside the deviation
    x = draw(tensors(*shape)) + mean
    given = {"x": x.astype(np.float32)} | {w: draw(tensors(shape[-1])) for w in ("weight", "bias")}
    return Case("layer_norm", given, {"eps": draw(st.sampled_from([1e-5, 1e-6]))})


def activations():
    return tensors(2, 3, size=40).map(lambda x: Case("gelu", {"x": x}, {}))


@st.composite
def products(draw):
    rows, i, o = draw(st.sampled_from([(), (0,), (3,), (2, 2)])), draw(LENGTHS), draw(SOME)
    given = {"x": draw(tensors(*rows, i)), "weight": draw(tensors(i, o))}
    return Case("dense", given | ({"bias": draw(tensors(o))} if draw(st.booleans()) else {}), {})


def state_or_none(draw, *shape):
    return {"state": draw(tensors(*shape, 2))} if draw(st.booleans()) else {}


@st.composite
def layers(draw):
    config = draw(st.sampled_from([config for config, *_ in cases.LAYERS.values()]))
    op = "gss_layer" if isinstance(config, cfg.GSSConfig) else "dss_layer"
    b, length, e, n = draw(SOME), draw(st.sampled_from([0, 1, 5])), draw(SOME), draw(SOME)
    h = draw(SOME) if op == "gss_layer" else e
    params = cases.layer_params(cases.Draw(str(draw(st.integers(0)))), config, e, 4, h, n)
    given = cases.named(params) | {"x": draw(tensors(b, length, e))} | state_or_none(draw, b, h, n)
    return Case(op, given, {"config": ops.encode_option(config)})


@st.composite
def models(draw, op):
    config = draw(st.sampled_from([config for config, _ in cases.MODELS.values()]))
    b, length, v, e, n = draw(SOME), draw(st.sampled_from([1, 5])), 5, draw(SOME), 2
    h = draw(SOME) if isinstance(config.layer, cfg.GSSConfig) else e
    params = cases.model_params(cases.Draw(str(draw(st.integers(0)))), config, v, e, 4, h, n)
    tokens = arrays(np.int32, (b, length), elements=st.integers(0, v - 1))
    given = cases.named(params) | {"tokens": draw(tokens)}
    given |= {"targets": draw(tokens)} if op == "lm_loss" else {}
    given |= state_or_none(draw, config.depth, b, h, n)
    return Case(op, given, {"config": ops.encode_option(config)})


FORWARD = {
    "gss_lambda": parameterizations(),
    "discretize": discretizations(),
    "ssm_kernel": kernels(),
    "causal_conv": convolutions(),
    "ssm_scan": scans(),
    "ssm_step": scans("ssm_step"),
    "layer_norm": norms(),
    "gelu": activations(),
    "dense": products(),
    "layers": layers(),
    "lm_logits": models("lm_logits"),
    "lm_loss": models("lm_loss"),
}


def cotangent_names(op):
    """The arguments of op_vjp that op does not have, in the order of op's outputs."""
    before = ops.OPS[op].arguments + ops.OPS[op].keywords
    return [name for name in ops.OPS[f"{op}_vjp"].arguments if name not in before]


@st.composite
def gradients(draw, forward):
    """A case of `op` made one of `op_vjp`: with a cotangent for each output."""
    case = draw(forward)
    outputs = case.run("f64").values()
    shapes = [ops.to_real(y).shape for y in outputs]
    given = {
        name: draw(tensors(*shape, size=1))
        for name, shape in zip(cotangent_names(case.op), shapes, strict=True)
    }
    return Case(f"{case.op}_vjp", case.tensors | given, case.options)
