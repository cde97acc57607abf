"""The native kernels inside compiled programs: the same functions and gradients as plain JAX's."""

import shutil
import subprocess
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from refgss import config, xla
from refgss.layers import transformer
from refgss.xla import Plan, ffi

from .examples import complex_normal, layer_parameters, model_parameters, normal, worst

CSRC = Path(__file__).parents[2] / "csrc"
native = pytest.mark.skipif(ffi.obstacle() is not None, reason=str(ffi.obstacle()))
PLAIN = Plan(cpu_kernels="xla")
NATIVE = PLAIN if ffi.obstacle() else Plan(cpu_kernels="native")

# our structure, XLA's structure, fields in pairs
LAYOUT = {
    ("extension", "Extension_Base"): "size struct_size kind type next next",
    ("version", "Api_Version"): "size struct_size major major_version minor minor_version",
    ("metadata", "Metadata"): "size struct_size api api_version traits traits",
    ("metadata_extension", "Metadata_Extension"): "base extension_base answer metadata",
    ("buffer", "Buffer"): "size struct_size dtype dtype data data rank rank shape dims",
    ("buffers", "Args"): "size struct_size count size kinds types items args",
    ("buffers", "Rets"): "size struct_size count size kinds types items rets",
    ("text", "ByteSpan"): "characters ptr length len",
    ("scalar", "Scalar"): "dtype dtype value value",
    ("attributes", "Attrs"): "count size kinds types names names values attrs",
    ("failure_request", "Error_Create_Args"): "sentence message code errc",
    ("runtime", "Api"): "api api_version internals internal_api fail XLA_FFI_Error_Create",
    ("frame", "CallFrame"): "extensions extension_start xla api context ctx stage stage "
    "operands args results rets options attrs",
}
CONSTANTS = {
    "major_version": "API_MAJOR",
    "s32": "DataType_S32",
    "f32": "DataType_F32",
    "f64": "DataType_F64",
    "c64": "DataType_C64",
    "c128": "DataType_C128",
    "frame::execute": "ExecutionStage_EXECUTE",
    "attributes::scalar_kind": "AttrType_SCALAR",
    "metadata_extension::metadata_kind": "Extension_Metadata",
    "failure_request::invalid_argument": "Error_Code_INVALID_ARGUMENT",
    "failure_request::resource_exhausted": "Error_Code_RESOURCE_EXHAUSTED",
    "failure_request::internal": "Error_Code_INTERNAL",
}


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_calling_convention_is_that_of_the_installed_jax(tmp_path):
    lines = [
        '#include "xla/ffi/api/c_api.h"',
        '#include "abi/xla_ffi.hpp"',
        "using namespace refgss;",
    ]
    for (mine, theirs), fields in LAYOUT.items():
        names = fields.split()
        for a, b in zip(names[::2], names[1::2], strict=True):
            offset = f"offsetof(xla::{mine}, {a}) == offsetof(XLA_FFI_{theirs}, {b})"
            size = f"sizeof(xla::{mine}::{a}) == sizeof(XLA_FFI_{theirs}::{b})"
            lines += [f'static_assert({offset} && {size}, "{mine}.{a}");']
    for mine, theirs in CONSTANTS.items():
        lines += [f'static_assert(int(xla::{mine}) == int(XLA_FFI_{theirs}), "{mine}");']
    source = tmp_path / "layout.cpp"
    source.write_text("\n".join(lines))
    command = ["c++", "-std=c++17", "-fsyntax-only", f"-I{CSRC}", f"-I{jax.ffi.include_dir()}"]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def squares(f):
    """A scalar function of all outputs of f, so that every cotangent counts."""
    return lambda *a: sum((jnp.abs(y) ** 2).sum() for y in jax.tree.leaves(f(*a)))


def kernel(lam, c, delta, *, form, plan):
    return xla.ssm_kernel(lam, c, 21, delta=delta, form=form, plan=plan)


def scan(u, lam, c, state, delta, *, form, plan):
    return xla.ssm_scan(u, lam, c, state, delta=delta, form=form, plan=plan)


def output_of(layer, params, x, *, config, plan):
    return layer(params, x, config=config, plan=plan)[0]


def transformer_parameters(cfg):
    rng, sizes = np.random.default_rng(1), transformer.Sizes(8, 16, 12)
    return {k: normal(rng, *t.shape) for k, t in transformer.parameters(cfg, sizes).items()}


def attention(q, k, v, bias, keys, values, t, *, window, plan):
    """Its state apart, so that integers are no primals."""
    state = {"k": keys, "v": values, "t": t}
    y, after = xla.attention(q, k, v, bias, state, window=window, plan=plan)
    return y, after["k"], after["v"]


def fresh_attention(q, k, v, *, window, plan):
    return xla.attention(q, k, v, None, window=window, plan=plan)[0]


def cases_of_attention(rng):
    for visible, given in (("chunk", True), ("strict", True), ("look1", False)):
        window = config.AttentionForm(4, visible)
        q, k, v = (normal(rng, 3, 9, heads, 5) for heads in (4, 2, 2))
        if given:
            f = partial(attention, t=np.array([0, 1, 3], np.int32), window=window)
            old = [normal(rng, 3, window.slots, 2, 5) for _ in range(2)]
            yield f"attention {visible}", f, (q, k, v, normal(rng, 4, 7), *old)
        else:
            f = partial(fresh_attention, window=window)
            yield f"attention {visible}, fresh", f, (q, k, v)


def cases():
    """(name, a function of the primals and plan=, the primals)."""
    rng = np.random.default_rng(0)
    u, k = normal(rng, 2, 19, 3), normal(rng, 3, 19)
    lam = (-np.exp(normal(rng, 4) - 2) + 1j * normal(rng, 4)).astype(np.complex64)
    c, state = complex_normal(rng, 3, 4), complex_normal(rng, 2, 3, 4)
    x, w, b = normal(rng, 2, 1, 5, 2, 6), normal(rng, 6, 4), normal(rng, 4)
    yield "causal_conv", xla.causal_conv, (u, k)
    for form, delta in (config.GSS, np.float32(1)), (config.DSS_EXP, np.exp(normal(rng, 3, 2))):
        yield f"ssm_kernel {form.method}", partial(kernel, form=form), (lam, c, delta)
        yield f"ssm_scan {form.method}", partial(scan, form=form), (u, lam, c, state, delta)
    yield "layer_norm", partial(xla.layer_norm, eps=1e-5), (x, w[:, 0], w[:, 1])
    yield "rms_norm", partial(xla.rms_norm, eps=1e-5), (x, w[:, 0])
    yield "gelu", xla.gelu, (x,)
    yield "dense", xla.dense, (x, w, b)
    yield "dense without bias", xla.dense, (x, w)
    for cfg in (config.GSS_PYTORCH, config.DSSConfig()):
        p, name = layer_parameters(cfg), type(cfg).__name__[:3].lower() + "_layer"
        x, state = normal(rng, 2, 33, 8), complex_normal(rng, 2, *p["ssm.c"].shape)
        f = partial(getattr(xla, name), config=cfg)
        yield f"{name} from a state", f, (p, x, state)
    p, x = layer_parameters(config.PAPER), normal(rng, 2, 33, 8)
    yield "gss_layer", partial(xla.gss_layer, config=config.PAPER), (p, x)
    yield from cases_of_attention(rng)
    cfg = config.TransformerConfig(heads=2, chunk=4, position="t5", norm="rms", mlp="glu")
    f = partial(output_of, xla.transformer_layer, config=cfg)
    yield "transformer_layer's output", f, (transformer_parameters(cfg), x)
    yield "gss_layer's output", partial(output_of, xla.gss_layer, config=config.PAPER), (p, x)


def wide(x):
    """As float64 or complex128: an error of meaning is far above 2^-30, roundings far below."""
    return np.asarray(x, np.result_type(x, np.float64))


@pytest.fixture(autouse=True)
def small_programs():
    """What takes time is to compile them well."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def agree(f, primals):
    """The value and all derivatives of f(..., plan=) with and without the kernels, in binary64."""
    every = tuple(range(len(primals)))
    with jax.enable_x64(True):
        primals = jax.tree.map(wide, primals)
        got, want = (
            jax.jit(jax.value_and_grad(squares(partial(f, plan=plan)), every))(*primals)
            for plan in (NATIVE, PLAIN)
        )
    differences = jax.tree.map(worst, got, want)
    assert max(jax.tree.leaves(differences)) < 2.0**-30, differences


@native
@pytest.mark.parametrize("f, primals", [pytest.param(*c[1:], id=c[0]) for c in cases()])
def test_values_and_gradients(f, primals):
    agree(f, primals)


@native
def test_batches_of_calls():
    rng = np.random.default_rng(3)

    def f(u, k, plan):
        return jax.vmap(partial(xla.causal_conv, plan=plan))(u, k)

    agree(f, (normal(rng, 4, 2, 15, 3), normal(rng, 4, 3, 15)))


@native
def test_a_language_model():
    cfg = config.LMConfig(config.PAPER, depth=3)
    tokens = np.random.default_rng(0).integers(0, 7, (2, 12), np.int32)
    loss = partial(xla.lm_loss, tokens=tokens[:, :-1], targets=tokens[:, 1:], config=cfg)
    agree(loss, (model_parameters(cfg),))


@native
def test_the_program_holds_the_kernels():
    p, x = layer_parameters(config.PAPER), np.ones((1, 9, 8), np.float32)
    layer = partial(xla.gss_layer, config=config.PAPER, plan=NATIVE)
    f = jax.jit(jax.grad(lambda p, x: layer(p, x)[0].sum()))
    text = f.lower(p, x).compile().as_text()
    assert "refgss_gss_layer_keeping" in text and "refgss_gss_layer_vjp" in text
    assert "fft" not in text and " dot(" not in text


@native
def test_what_a_kernel_refuses_is_one_sentence():
    growing = jnp.asarray([0.1 + 1j], jnp.complex64)  # a tracer under jit: seen by the kernel alone
    f = jax.jit(
        lambda lam: xla.ssm_kernel(
            lam,
            jnp.ones((1, 1), jnp.complex64),
            4,
            delta=np.float32(1),
            form=config.GSS,
            plan=NATIVE,
        )
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="Re lam"):
        f(growing).block_until_ready()


def test_plans_choose():
    with pytest.raises(ValueError, match="unknown cpu_kernels 'fast': use native or xla"):
        Plan(cpu_kernels="fast")
    assert not xla.plan_for("tpu").native


def test_without_the_library_the_plan_says_why(monkeypatch):
    monkeypatch.setattr(ffi, "obstacle", lambda: "it is not built")
    with pytest.raises(ValueError, match="cannot be used here: it is not built"):
        Plan(cpu_kernels="native")
