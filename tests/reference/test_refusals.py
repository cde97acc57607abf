"""Bad input: every refusal of the contract, the options and the reference is one clear sentence."""

import ast
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from refgss import checks, ops, reference
from refgss import config as cfg
from refgss.conformance.vectors import cases
from refgss.layers import block_recurrent, transformer
from refgss.layers.tensor import Tensor
from refgss.reference import initialization

from . import hard_cases

DRAW = cases.Draw("refusals")


def params_of(given):
    return {k: ops.from_real(k, v) for k, v in given.items()}


LAM = np.array([-1 + 2j, -0.5])
C = np.ones((3, 2), complex)
ONE = np.float64(1)
GSS_LAYER = params_of(cases.layer_params(DRAW, cfg.GSS_PYTORCH, 4, 6, 3, 2))
DSS_LAYER = params_of(cases.layer_params(DRAW, cfg.DSSConfig(), 4, 6, 4, 2))
MODEL = cfg.LMConfig(cfg.PAPER, depth=2)
MODEL_PARAMS = params_of(cases.model_params(DRAW, MODEL, 5, 4, 6, 3, 2))
TOKENS = np.array([[0, 4]])
ROPE = {"base": 10000.0, "pairing": "half"}
WINDOW = cfg.AttentionForm(3)
HEADS = {"q": np.ones((1, 5, 4, 2)), "k": np.ones((1, 5, 2, 2)), "v": np.ones((1, 5, 2, 2))}
SLOTS = {"k": np.zeros((1, 3, 2, 2)), "v": np.zeros((1, 3, 2, 2)), "t": np.zeros(1, int)}
LEARNED = cfg.TransformerConfig(2, chunk=3, visible="sliding", position="learned", positions=5)
TRANSFORMER = {
    k: np.ones(t.shape) for k, t in transformer.parameters(LEARNED, transformer.Sizes(4)).items()
}
LAST = {"k": np.zeros((1, 3, 2, 2)), "v": np.zeros((1, 3, 2, 2))}
RECURRENT = cfg.BlockRecurrentConfig(heads=2, window=3, states=2, update="dual")
BLOCK_RECURRENT = {
    k: np.ones(t.shape)
    for k, t in block_recurrent.parameters(RECURRENT, block_recurrent.Sizes(4)).items()
}
MEMORY = {
    k: np.zeros(t.shape, int if t.numbers == "integer" else float)
    for k, t in block_recurrent.state(RECURRENT, block_recurrent.Sizes(4), 1).items()
}
SZF = {n: np.ones((2, 4)) for n in "szf"}

GOOD = {  # op -> positional arguments, keywords
    "s4d_lambda": ({"n": 4}, {"init": "lin"}),
    "gss_lambda": ({"a": np.ones(2), "b": np.ones(2)}, {"imag": "exp"}),
    "discretize": ({"lam": LAM, "delta": ONE}, {"form": cfg.GSS}),
    "ssm_kernel": ({"lam": LAM, "c": C, "length": 4}, {"delta": ONE, "form": cfg.GSS}),
    "causal_conv": ({"u": np.ones((1, 4, 3)), "k": np.ones((3, 4))}, {}),
    "ssm_scan": (
        {"u": np.ones((1, 4, 3)), "lam": LAM, "c": C, "state": None},
        {"delta": ONE, "form": cfg.GSS},
    ),
    "ssm_step": (
        {"u": np.ones((1, 3)), "lam": LAM, "c": C, "state": None},
        {"delta": ONE, "form": cfg.GSS},
    ),
    "layer_norm": ({"x": np.ones((2, 4)), "weight": np.ones(4), "bias": np.ones(4)}, {"eps": 1e-5}),
    "gelu": ({"x": np.ones(3)}, {}),
    "gelu_vjp": ({"x": np.ones(3), "dy": np.ones(3)}, {}),
    "dense": ({"x": np.ones((2, 4)), "weight": np.ones((4, 3)), "bias": np.ones(3)}, {}),
    "rope": ({"x": np.ones((1, 2, 3, 4)), "r": np.arange(2)[None]}, ROPE),
    "t5_bias": ({"table": np.ones((2, 32)), "length": 3}, {}),
    "attention": (HEADS | {"bias": np.ones((4, 3)), "state": SLOTS}, {"window": WINDOW}),
    "attention_step": (
        {k: x[:, 0] for k, x in HEADS.items()} | {"bias": None, "state": None},
        {"window": WINDOW},
    ),
    "transformer_layer": (
        {"params": TRANSFORMER, "x": np.ones((1, 5, 4)), "state": None},
        {"config": LEARNED},
    ),
    "l2_normalize": ({"x": np.ones((2, 4))}, {"eps": 1e-6}),
    "window_attention": (
        {n: np.ones((1, 5, 2, 2)) for n in "qkv"}
        | {"bias": np.ones((2, 4)), "scale": np.ones(2), "state": LAST},
        {"window": 3},
    ),
    "state_attention": (
        {"q": np.ones((1, 5, 2, 2)), "k": np.ones((1, 4, 2, 2)), "v": np.ones((1, 4, 2, 2))}
        | {"scale": np.ones(2)},
        {},
    ),
    "gate": (SZF | {"i": None}, {"kind": "full"}),
    "block_recurrent_layer": (
        {"params": BLOCK_RECURRENT, "x": np.ones((1, 5, 4)), "state": MEMORY},
        {"config": RECURRENT},
    ),
    "block_recurrent_step": (
        {"params": BLOCK_RECURRENT, "x": np.ones((1, 4)), "state": MEMORY},
        {"config": RECURRENT},
    ),
    "gss_layer": (
        {"params": GSS_LAYER, "x": np.ones((1, 5, 4), np.float32), "state": None},
        {"config": cfg.GSS_PYTORCH},
    ),
    "dss_layer": (
        {"params": DSS_LAYER, "x": np.ones((1, 5, 4), np.float32), "state": None},
        {"config": cfg.DSSConfig()},
    ),
    "lm_logits": ({"params": MODEL_PARAMS, "tokens": TOKENS, "state": None}, {"config": MODEL}),
    "lm_loss": (
        {"params": MODEL_PARAMS, "tokens": TOKENS, "targets": TOKENS, "state": None},
        {"config": MODEL},
    ),
}


@dataclass(frozen=True)
class Bad:
    """A good call, with some arguments changed, and what its refusal must say."""

    op: str
    says: str
    error: type = ValueError
    changes: dict = field(default_factory=dict)

    def __str__(self):
        return f"{self.op}: {self.says}"


def bad(op, says, error=ValueError, **changes):
    return Bad(op, says, error, changes)


def without(params, name):
    return {k: v for k, v in params.items() if k != name}


SOFTMAX = cfg.dss_softmax(4)
EVERY_OP_WITH_LAMBDA = ("discretize", "ssm_kernel", "ssm_scan", "ssm_step")
REFUSALS = [
    bad("s4d_lambda", "n must be at least 1", n=0),
    bad("s4d_lambda", "unknown init 'random'", init="random"),
    bad("gss_lambda", "a must be an array, not list", TypeError, a=[1.0, 2.0]),
    bad("gss_lambda", "a must be float32 or float64, not int64", TypeError, a=np.arange(2)),
    bad("gss_lambda", "a must have axes (N)", a=np.ones((2, 2))),
    bad("gss_lambda", "b must have shape (2,)", b=np.ones(3)),
    bad("gss_lambda", "imag must be 'exp' or 'identity'", imag="log"),
    *(bad(op, "lam must be complex", TypeError, lam=LAM.real) for op in EVERY_OP_WITH_LAMBDA),
    *(bad(op, "Re lam must not be positive (GSS-DIS-6)", lam=-LAM) for op in EVERY_OP_WITH_LAMBDA),
    *(bad(op, "lam must be finite (GSS-NFI-2)", lam=LAM + np.nan) for op in EVERY_OP_WITH_LAMBDA),
    *(bad(op, "lam must be finite (GSS-NFI-2)", lam=LAM - np.inf) for op in EVERY_OP_WITH_LAMBDA),
    *(bad(op, "delta must be positive", delta=-ONE) for op in EVERY_OP_WITH_LAMBDA),
    *(bad(op, "delta must be positive", delta=0 * ONE) for op in EVERY_OP_WITH_LAMBDA),
    *(bad(op, "delta must be positive", delta=ONE * np.nan) for op in EVERY_OP_WITH_LAMBDA),
    *(bad(op, "delta must be positive", delta=ONE * np.inf) for op in EVERY_OP_WITH_LAMBDA),
    *(bad(op, "lam must not be 0", lam=LAM * 0, form=SOFTMAX) for op in EVERY_OP_WITH_LAMBDA),
    bad("discretize", "delta must be a scalar, (H,) or (H,2)", delta=np.ones((3, 3))),
    bad("discretize", "belong to the dss methods only", delta=np.ones((3, 2))),
    bad("discretize", "Re lam must not be positive (GSS-DIS-6)", lam=-LAM, form=SOFTMAX),
    bad("discretize", "delta must be float32 or float64", TypeError, delta=np.arange(1, 4)),
    *(
        bad("discretize", "delta must be a real number or an array, not ", TypeError, delta=delta)
        for delta in (np.array(1j), True, np.True_, "1", None)
    ),
    bad("ssm_kernel", "delta has 2 channels where c has 3", delta=np.ones(2)),
    bad("ssm_kernel", "c must have axes (H,N)", c=C[0]),
    bad("ssm_kernel", "c has 1 states where lam has 2", c=C[:, :1]),
    bad("ssm_kernel", "length must be an integer, not float", TypeError, length=4.0),
    bad("ssm_kernel", "length must be an integer, not bool", TypeError, length=True),
    bad("ssm_kernel", "length must be between 0 and", length=-1),
    bad("ssm_kernel", "length must be between 0 and", length=2**40),
    bad("ssm_kernel", "length 5 exceeds the softmax's declared 4", length=5, form=SOFTMAX),
    bad("causal_conv", "u must have axes (B,L,H)", u=np.ones((4, 3))),
    bad("causal_conv", "u has 3 channels where k has 2", k=np.ones((2, 4))),
    bad("causal_conv", "u must be float32 or float64", TypeError, u=np.ones((1, 4, 3), np.float16)),
    bad("ssm_scan", "u has 2 channels where c has 3", u=np.ones((1, 4, 2))),
    bad("ssm_scan", "state must have shape (1, 3, 2)", state=np.ones((1, 2, 3), complex)),
    bad("ssm_scan", "state must be complex", TypeError, state=np.ones((1, 3, 2))),
    bad("ssm_scan", "length 4 exceeds the softmax's declared 3", form=cfg.dss_softmax(3)),
    bad("ssm_step", "u must have axes (B,H)", u=np.ones((1, 1, 3))),
    bad("ssm_step", "u has 2 channels where c has 3", u=np.ones((1, 2))),
    bad("layer_norm", "a last axis that is not empty", x=np.ones((2, 0))),
    bad("layer_norm", "weight must have shape (4,)", weight=np.ones(3)),
    bad("layer_norm", "eps must be positive", eps=0.0),
    bad("layer_norm", "eps must be positive and finite", eps=np.nan),
    bad("layer_norm", "eps must be positive and finite", eps=np.float32(np.inf)),
    *(
        bad("layer_norm", "eps must be a number, not ", TypeError, eps=eps)
        for eps in ("1", None, True, 1j, np.ones(1))
    ),
    bad("gelu", "x must be float32 or float64, not complex128", TypeError, x=LAM),
    bad("gelu_vjp", "dy must have shape (3,)", dy=np.ones(2)),
    bad("dense", "does not end in the 4 rows of weight", x=np.ones((2, 3))),
    bad("dense", "bias must have shape (3,)", bias=np.ones(4)),
    bad("rope", "x must have pairs of numbers, not 3 a head", x=np.ones((1, 2, 3, 3))),
    bad("rope", "r must have shape (1, 2)", r=np.arange(2)),
    bad("rope", "r must be an integer type", TypeError, r=np.ones((1, 2))),
    bad("rope", "pairing must be 'half' or 'interleaved', not 'pairs'", pairing="pairs"),
    bad("rope", "base must be positive", base=0.0),
    bad("t5_bias", "table must have 32 buckets, not 31", table=np.ones((2, 31))),
    bad("t5_bias", "length must be between 0 and", length=-1),
    bad("attention", "window must be an AttentionForm, not int", TypeError, window=3),
    bad("attention", "k must have the batch, length and width of q", k=np.ones((1, 4, 2, 2))),
    bad("attention", "the 3 heads of k must divide the 4 heads of q", k=np.ones((1, 5, 3, 2))),
    bad("attention", "v must have shape (1, 5, 2, 2)", v=np.ones((1, 5, 4, 2))),
    bad("attention", "bias has 2 heads where q has 4", bias=np.ones((2, 3))),
    bad("attention", "bias must have 3 distances, not 2", bias=np.ones((4, 2))),
    bad("attention", "state must be a mapping with k, v, t", state=SLOTS["k"]),
    bad(
        "attention",
        "state.k must have shape (1, 6, 2, 2)",
        window=cfg.AttentionForm(3, "look1"),
        bias=None,
    ),
    bad(
        "attention",
        "state.t must be at least 0 and below the chunk, 3",
        state=SLOTS | {"t": np.array([3])},
    ),
    bad(
        "attention",
        "state.t must be at least 0",
        state=SLOTS | {"t": np.array([-1])},
        window=cfg.AttentionForm(3, "sliding"),
    ),
    bad("attention_step", "q must have axes (B,Hq,D)", q=np.ones((1, 1, 4, 2))),
    bad(
        "transformer_layer", "5 learned positions, and token 6 is beyond them", x=np.ones((1, 6, 4))
    ),
    bad(
        "transformer_layer",
        "3 heads do not divide the width 4 of the attention",
        config=cfg.TransformerConfig(3),
    ),
    bad(
        "transformer_layer",
        "rope-half turns pairs, and 1 numbers a head are odd",
        config=cfg.TransformerConfig(4, position="rope-half"),
    ),
    bad("transformer_layer", "the parameter w_1 is missing", params=without(TRANSFORMER, "w_1")),
    bad("l2_normalize", "x must have a last axis that is not empty", x=np.ones((2, 0))),
    bad("l2_normalize", "eps must be positive and finite", eps=0.0),
    bad("window_attention", "window must be an integer, not float", TypeError, window=3.0),
    bad("window_attention", "window must be at least 1, not 0", window=0),
    bad("window_attention", "k has 4 tokens where q has 5", k=np.ones((1, 4, 2, 2))),
    bad("window_attention", "bias must have 4 distances, not 3", bias=np.ones((2, 3))),
    bad("window_attention", "bias has 1 heads where q has 2", bias=np.ones((1, 4))),
    bad("window_attention", "scale must have shape (2,)", scale=np.ones(1)),
    bad("window_attention", "state must be a mapping with k, v", state=LAST["k"]),
    bad("window_attention", "state.k must have shape (1, 2, 2, 2)", window=2),
    bad(
        "state_attention",
        "q must have at least one head and a width",
        **dict.fromkeys("qkv", np.ones((1, 5, 2, 0))),
    ),
    bad("state_attention", "k has 3 heads where q has 2", k=np.ones((1, 4, 3, 2))),
    bad("state_attention", "v must have shape (1, 4, 2, 2)", v=np.ones((1, 5, 2, 2))),
    bad("gate", "kind must be 'fixed', 'lstm' or 'full', not 'bias'", kind="bias"),
    bad("gate", "s must have a last axis", s=np.float64(1)),
    bad("gate", "f must have shape (4,), not (2, 4)", kind="fixed"),
    bad("gate", "i belongs to the kind 'lstm', and only to it", i=np.ones((2, 4))),
    bad("gate", "i belongs to the kind 'lstm', and only to it", kind="lstm"),
    bad(
        "block_recurrent_layer",
        "state.t must be at least 0 and below two windows, 6",
        state=MEMORY | {"t": np.array([6])},
    ),
    bad(
        "block_recurrent_layer",
        "state.k must have shape (1, 4, 2, 2), not (1, 6, 2, 2)",
        config=cfg.BlockRecurrentConfig(heads=2, window=2, states=2, update="dual"),
    ),
    bad(
        "block_recurrent_layer",
        "the parameter state.w_1 is missing",
        params=without(BLOCK_RECURRENT, "state.w_1"),
    ),
    bad(
        "block_recurrent_layer",
        "3 heads do not divide the width 4 of the attention",
        config=cfg.BlockRecurrentConfig(heads=3, window=3, states=2, update="dual"),
    ),
    bad("block_recurrent_step", "x must have axes (B,E)", x=np.ones((1, 1, 4))),
    bad("gss_layer", "norm.weight is missing", params=without(GSS_LAYER, "norm.weight")),
    bad("gss_layer", "ssm.norm.bias is missing", params=without(GSS_LAYER, "ssm.norm.bias")),
    bad("gss_layer", "b_o has no meaning", config=cfg.GSSConfig(ssm_norm=True)),
    bad("gss_layer", "w_u must have shape (4, 3)", params=GSS_LAYER | {"w_u": np.ones((3, 4))}),
    bad("gss_layer", "x has width 5 where the layer has 4", x=np.ones((1, 5, 5))),
    bad("gss_layer", "x must have axes (B,L,E)", x=np.ones((5, 4))),
    bad("gss_layer", "state must have shape (1, 3, 2)", state=np.ones((2, 3, 2), complex)),
    bad("dss_layer", "ssm.log_delta is missing", params=without(DSS_LAYER, "ssm.log_delta")),
    bad("lm_logits", "embedding.weight is missing", params={}),
    bad("lm_logits", "tokens must be between 0 and 4", tokens=TOKENS + 1),
    bad("lm_logits", "tokens must be between 0 and 4", tokens=-TOKENS),
    bad("lm_logits", "tokens must be an integer type", TypeError, tokens=TOKENS + 0.5),
    bad("lm_logits", "norm.weight is missing", params=without(MODEL_PARAMS, "norm.weight")),
    bad("lm_logits", "head.weight has no meaning", config=cfg.LMConfig(cfg.PAPER, 2, tied=True)),
    bad(
        "lm_logits",
        "state must have shape (2,...), a state for each layer",
        state=np.ones((1, 1, 3, 2), complex),
    ),
    bad("lm_logits", "state must have 2 entries, one a layer, not 1", state=(None,)),
    bad("lm_loss", "targets must be between 0 and 4", targets=TOKENS + 1),
    bad("lm_loss", "targets must have shape (1, 2)", targets=TOKENS[:, :1]),
    bad("lm_loss", "the mean over no tokens", tokens=TOKENS[:, :0], targets=TOKENS[:, :0]),
]
OPTIONS = {  # a config that cannot be made, and what its refusal must say
    "unknown method 'euler'": lambda: cfg.KernelForm("euler"),
    "eps belongs to dss-exp": lambda: cfg.KernelForm("zoh", eps=1e-7),
    "and only to them": lambda: cfg.KernelForm("dss-exp"),
    "has no reciprocal 'clamped': use exact or shifted or shifted-sum": lambda: cfg.KernelForm(
        "dss-softmax", length=3, eps=1e-7, reciprocal="clamped"
    ),
    "method 'zoh' has no reciprocal 'shifted': leave reciprocal out": lambda: cfg.KernelForm(
        "zoh", reciprocal="shifted"
    ),
    "length belongs to dss-softmax": lambda: cfg.KernelForm("zoh", length=4),
    "eps must be positive": lambda: cfg.KernelForm("dss-exp", eps=0.0),
    "the softmax length must be at least 1": lambda: cfg.dss_softmax(0),
    "chunk must be a whole number of at least 1, not 0": lambda: cfg.AttentionForm(0),
    "chunk must be a whole number of at least 1, not -4": lambda: cfg.TransformerConfig(chunk=-4),
    "unknown visibility 'all': use chunk, sliding, look1 or strict": lambda: cfg.AttentionForm(
        4, "all"
    ),
    "unknown position 'rope'": lambda: cfg.TransformerConfig(position="rope"),
    "3 kv_heads do not divide 8 heads": lambda: cfg.TransformerConfig(8, 3),
    "states must be a whole number of at least 0, not -1": lambda: cfg.BlockRecurrentConfig(
        states=-1
    ),
    "window must be a whole number of at least 1, not 0": lambda: cfg.BlockRecurrentConfig(
        window=0
    ),
    "unknown gate 'bias'": lambda: cfg.BlockRecurrentConfig(gate="bias"),
    "unknown update 'triple'": lambda: cfg.BlockRecurrentConfig(update="triple"),
    "unknown position 'alibi'": lambda: cfg.BlockRecurrentConfig(position="alibi"),
    "normalize_keys must be True or False, not 'yes'": lambda: cfg.BlockRecurrentConfig(
        normalize_keys="yes"
    ),
    "rope_base must be positive and finite": lambda: cfg.TransformerConfig(rope_base=-1.0),
    "positions belong to the learned position": lambda: cfg.TransformerConfig(positions=9),
    "a chunk of 8 needs as many learned positions, not 4": lambda: cfg.TransformerConfig(
        chunk=8, position="learned", positions=4
    ),
    "learned positions under the visibility 'sliding' need positions": lambda: (
        cfg.TransformerConfig(visible="sliding", position="learned")
    ),
    "at least one layer": lambda: cfg.LMConfig(cfg.PAPER, depth=0),
    "a pattern of layers has at least one of them": lambda: cfg.LMConfig((), depth=2),
    "must be a mapping with k, v": lambda: checks.check_parts(
        "attention", "state", None, dict.fromkeys("kv", Tensor((1,)))
    ),
}


def call(case):
    arguments, keywords = GOOD[case.op]
    arguments = {k: case.changes.get(k, v) for k, v in arguments.items()}
    keywords = {k: case.changes.get(k, v) for k, v in keywords.items()}
    assert case.changes.keys() <= arguments.keys() | keywords.keys()
    return getattr(reference, case.op)(*arguments.values(), **keywords)


def assert_one_sentence(error):
    """One line that names the op or the option, with no other error behind it."""
    assert "\n" not in str(error) and len(str(error)) < 200
    assert error.__cause__ is None and error.__context__ is None


@pytest.mark.parametrize("op", GOOD)
def test_the_call_that_the_bad_ones_start_from_is_good(op):
    call(Bad(op, ""))


@pytest.mark.parametrize("case", REFUSALS, ids=str)
def test_bad_arguments_are_refused_in_one_sentence(case):
    with pytest.raises(case.error) as caught:
        call(case)
    assert str(caught.value).startswith(f"{case.op}: ") and case.says in str(caught.value)
    assert_one_sentence(caught.value)


@pytest.mark.parametrize("says", OPTIONS)
def test_bad_options_are_refused_in_one_sentence(says):
    with pytest.raises(ValueError) as caught:
        OPTIONS[says]()
    assert says in str(caught.value)
    assert_one_sentence(caught.value)


def raised_in(action, file):
    """The line of `file` where the action raised."""
    try:
        action()
    except (TypeError, ValueError) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return frame.lineno if frame.filename == str(file) else None


@pytest.mark.parametrize("module", [checks, cfg, initialization], ids=lambda m: m.__name__)
def test_no_refusal_is_left_out_of_the_tables(module):
    file = Path(module.__file__)
    raises = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Raise)]
    actions = [*OPTIONS.values(), *((lambda case=case: call(case)) for case in REFUSALS)]
    reached = {raised_in(action, file) for action in actions}
    left_out = [n.lineno for n in raises if not reached & set(range(n.lineno, n.end_lineno + 1))]
    assert not left_out, f"no test reaches the refusals at lines {left_out} of {file.name}"


@pytest.mark.parametrize("name", hard_cases.FORWARD)
def test_a_cotangent_of_another_shape_is_refused(name):
    @settings(max_examples=5)
    @given(hard_cases.gradients(hard_cases.FORWARD[name]))
    def check(case):
        for cotangent in hard_cases.cotangent_names(case.op.removesuffix("_vjp")):
            with pytest.raises(ValueError) as caught:
                case.run("f64", **{cotangent: case.at("f64")[cotangent][None]})
            assert str(caught.value).startswith(f"{case.op}: {cotangent} must have shape")
            assert_one_sentence(caught.value)

    check()


@pytest.mark.parametrize("form", [SOFTMAX, cfg.dss_softmax(9)])
def test_a_softmax_kernel_may_grow(form):
    """The one exception of GSS-DIS-6."""
    k = reference.ssm_kernel(-LAM, C, 4, delta=ONE, form=form)
    assert np.all(np.isfinite(k))
