"""The backend as a whole: every instruction set conforms, layers are what they are made of, and the
C ABI alone gives the same numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest

from refgss import config as cfg
from refgss import reference
from refgss.conformance.vectors import cases

native = pytest.importorskip("refgss.native")
from refgss.native import abi  # noqa: E402

LEVELS = ["baseline", "avx2", "avx512", "amx"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("level", LEVELS[: LEVELS.index(native.simd()) + 1])
def test_every_instruction_set_conforms(level, threads):
    selection = ["--quick"] if threads == 1 else []  # the sums are the same, shared or not
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "refgss",
            "check",
            "--candidate",
            "native",
            "--fresh",
            "0",
            *selection,
        ],
        env=os.environ | {"REFGSS_SIMD": level, "REFGSS_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


LAYERS = [config for config, *_ in cases.LAYERS.values()]


def layer_case(config, dtype, e=6, h=5, n=4, length=37):
    params = cases.layer_params(cases.Draw("layer"), config, e, 8, e if is_dss(config) else h, n)
    real = {k: np.asarray(v) for k, v in params.items()}
    real["ssm.c"] = real["ssm.c"][..., 0] + 1j * real["ssm.c"][..., 1]
    cast = {
        k: v.astype(np.result_type(dtype, 1j) if "ssm.c" in k else dtype) for k, v in real.items()
    }
    x = np.random.default_rng(0).standard_normal((2, length, e)).astype(dtype)
    return cast, x


def is_dss(config):
    return isinstance(config, cfg.DSSConfig)


def layer_of(module, config):
    return module.dss_layer if is_dss(config) else module.gss_layer


@pytest.mark.parametrize("config", LAYERS)
def test_prepared_layers_and_pieces(config):
    params, x = layer_case(config, np.float64)
    if is_dss(config) and config.form.length is not None:
        config = cfg.DSSConfig(form=cfg.dss_softmax(x.shape[1]))
    want, state = layer_of(reference, config)(params, x, config=config)
    scale = np.abs(want).max()
    prepared = native.PreparedLayer(params, x.shape[1], config=config)
    y, last = prepared(x, None)
    assert np.abs(y - want).max() <= 1e-12 * scale
    assert np.abs(last - state).max() <= 1e-12 * np.abs(state).max()
    middle = None
    for piece in np.split(x, [0, 1, 2, 20], axis=1):
        y, middle = prepared(piece, middle)
    assert np.abs(y - want[:, 20:]).max() <= 1e-12 * scale
    assert np.abs(middle - state).max() <= 1e-12 * np.abs(state).max()


def test_a_layer_taller_than_its_tiles():
    """2100 rows: three tiles of at most 1024."""
    config = cfg.GSS_PYTORCH
    params, x = layer_case(config, np.float64, length=1050)
    y, _ = native.gss_layer(params, x, config=config)
    first, state = native.gss_layer(params, x[:, :500], config=config)
    rest, _ = native.gss_layer(params, x[:, 500:], state, config=config)
    whole = np.concatenate([first, rest], 1)
    assert np.abs(y - whole).max() <= 1e-12 * np.abs(y).max()
    some, _ = reference.gss_layer(params, x[:1, :40], config=config)
    assert np.abs(y[:1, :40] - some).max() <= 1e-12 * np.abs(y).max()


def cotangents(params, x, dtype):
    rng = np.random.default_rng(1)
    states = (len(x), *params["ssm.c"].shape)
    dstate = rng.standard_normal(states) + 1j * rng.standard_normal(states)
    return rng.standard_normal(x.shape).astype(dtype), dstate.astype(params["ssm.c"].dtype)


def assert_same_gradients(got, want, bound):
    assert got[0].keys() == want[0].keys()
    pairs = [(got[0][k], want[0][k]) for k in want[0]] + list(zip(got[1:], want[1:], strict=True))
    for a, b in pairs:
        assert a.shape == b.shape and np.abs(a - b).max() <= bound * np.abs(b).max()


@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("config", LAYERS)
def test_gradients_of_layers(config, with_states):
    params, x = layer_case(config, np.float64)
    if is_dss(config) and config.form.length is not None:
        config = cfg.DSSConfig(form=cfg.dss_softmax(x.shape[1]))
    dout, dstate = cotangents(params, x, np.float64)
    state = dstate[::-1] if with_states else None
    name = "dss_layer_vjp" if is_dss(config) else "gss_layer_vjp"
    given = params, x, state, dout, dstate * with_states
    want = getattr(reference, name)(*given, config=config)
    assert_same_gradients(getattr(native, name)(*given, config=config), want, 1e-12)


@pytest.mark.parametrize("length", [0, 37, 600])  # 1200 rows: two tiles of at most 1024
def test_gradients_from_what_the_forward_pass_kept(length):
    """The ABI's two ways, kept and computed anew, are one."""
    config = cfg.GSS_PYTORCH
    params, x = layer_case(config, np.float64, length=length)
    dout, dstate = cotangents(params, x, np.float64)
    want = native.gss_layer_vjp(params, x, None, dout, dstate, config=config)
    if length:
        reference_gradients = reference.gss_layer_vjp(params, x, None, dout, dstate, config=config)
        assert_same_gradients(want, reference_gradients, 1e-12)
    ffi, library = abi.open_library()
    alive = []

    def view(a):
        alive.append(abi.view(ffi, a))
        return alive[-1]

    names = "norm.weight norm.bias w_v w_u ssm.norm.weight ssm.norm.bias ssm.a ssm.b ssm.c ssm.d"
    names = [*names.split(), "w_uc", "w_o", "b_o"]

    def struct(arrays):
        views = [view(arrays[n]) if n in arrays else ffi.NULL for n in names]
        return ffi.new("refgss_gss_layer_params *", (*views, config.eps, config.imag == "exp"))

    f, h = params["w_v"].shape[1], params["w_u"].shape[1]
    kept = [np.empty((*x.shape[:2], width)) for width in (f, h, h, f)]
    keep = ffi.new("refgss_gss_layer_kept *", tuple(view(a) for a in kept))
    y, dx, dstate0 = np.empty_like(x), np.empty_like(x), np.empty_like(dstate)
    gradients = {k: np.empty_like(v) for k, v in params.items()}
    arguments = struct(params), view(x), ffi.NULL
    assert library.refgss_gss_layer_keeping(*arguments, view(y), ffi.NULL, keep) == 0
    np.testing.assert_array_equal(y, native.gss_layer(params, x, config=config)[0])
    status = library.refgss_gss_layer_vjp(
        *arguments, keep, view(dout), view(dstate), struct(gradients), view(dx), view(dstate0)
    )
    assert status == 0, ffi.string(library.refgss_last_error())
    for k in gradients:
        np.testing.assert_array_equal(gradients[k], want[0][k], k)
    np.testing.assert_array_equal(dx, want[1])
    np.testing.assert_array_equal(dstate0, want[2])

    def refused(*rest):
        assert library.refgss_gss_layer_vjp(*arguments, *rest) != 0
        return ffi.string(library.refgss_last_error()).decode()

    outputs = view(dx), view(dstate0)
    cotangent = view(dout), view(dstate)
    assert "NULL" in refused(ffi.NULL, *cotangent, ffi.NULL, *outputs)
    if length:
        same = struct(gradients | {"w_v": params["w_v"]})
        assert "shares memory" in refused(ffi.NULL, *cotangent, same, *outputs)
    fewer = struct({k: v for k, v in gradients.items() if k != "b_o"})
    assert "dparams" in refused(ffi.NULL, *cotangent, fewer, *outputs)


def test_the_abi_alone():
    ffi, library = abi.open_library()
    rng = np.random.default_rng(0)
    lam = (-np.exp(rng.standard_normal(7)) + 1j).astype(np.complex64)
    c = (rng.standard_normal((3, 7)) + 1j).astype(np.complex64)
    u, delta = rng.standard_normal((2, 50, 3)).astype(np.float32), np.array(0.5, np.float32)
    form = ffi.new("refgss_form *", (1, 0, 0.0, 0))
    y, state = np.empty_like(u), np.empty((2, 3, 7), np.complex64)
    arrays = [abi.view(ffi, a) for a in (u, lam, c, delta, y, state)]
    au, alam, ac, adelta, ay, astate = arrays
    status = library.refgss_ssm_scan(au, alam, ac, ffi.NULL, adelta, form, ay, astate)
    assert status == 0, ffi.string(library.refgss_last_error())
    want = native.ssm_scan(u, lam, c, None, delta=delta, form=cfg.GSS)
    np.testing.assert_array_equal(y, want[0])
    np.testing.assert_array_equal(state, want[1])

    def refused(*arguments):
        assert library.refgss_ssm_scan(*arguments) != 0
        return ffi.string(library.refgss_last_error()).decode()

    assert "y" in refused(au, alam, ac, ffi.NULL, adelta, form, au, astate)  # output over input
    assert "NULL" in refused(au, alam, ac, ffi.NULL, adelta, ffi.NULL, ay, astate)
    assert "lam" in refused(au, ffi.NULL, ac, ffi.NULL, adelta, form, ay, astate)
    wide = abi.view(ffi, lam.astype(np.complex128))
    assert "dtype" in refused(au, wide, ac, ffi.NULL, adelta, form, ay, astate)
    form.method = 9
    assert "method" in refused(au, alam, ac, ffi.NULL, adelta, form, ay, astate)
