"""The modules: compiled, exported, trained, and to and from files."""

from functools import partial

import numpy as np
import pytest
import torch
from torch_cases import VECTORS

import refgss.torch
from refgss import native, ops
from refgss.config import GSS_PYTORCH, PAPER, DSSConfig, LMConfig, TransformerConfig
from refgss.layers.states import named
from refgss.model import load_checkpoint
from refgss.tensors import ModelError
from refgss.torch import DSS, GSS, LanguageModel, Layer, TransformerLayer

ATTENTION = TransformerConfig(heads=2, chunk=4, position="rope-half")
HYBRID = LMConfig((PAPER, DSSConfig(), ATTENTION), 3)
SIZES = {"width": 8, "gate": 12, "channels": 6, "states": 5}


def model(config=HYBRID, **sizes):
    torch.manual_seed(1)
    wanted = SIZES | sizes if sizes else SIZES
    return LanguageModel(config, vocabulary=11, **wanted)


def tokens(*shape):
    return torch.randint(0, 11, shape, generator=torch.Generator().manual_seed(2))


def same(x, y):
    return all(torch.equal(a, b) for a, b in zip(named(x).values(), named(y).values(), strict=True))


def model_of_another_seed():
    return LanguageModel(HYBRID, vocabulary=11, **SIZES)


def test_it_starts_as_torch_manual_seed_says():
    first, again = model(), model()
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    torch.manual_seed(2)
    assert not torch.equal(
        GSS(8, gate=4, channels=3, states=2).w_v, first.layers.get_submodule("0").w_v
    )


def test_steps_and_pieces_are_the_whole():
    m, text = model(), tokens(2, 9)
    whole, _ = m(text)
    logits, state = m(text[:, :4], m.zero_state(2))
    assert torch.allclose(logits, whole[:, :4], atol=1e-5)
    for t in range(4, 9):
        logits, state = m.step(text[:, t], state)
        assert torch.allclose(logits, whole[:, t], atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        partial(GSS, 8, gate=12, channels=6, states=5, memory=100),
        partial(DSS, 8, states=5),
        partial(TransformerLayer, 8, config=ATTENTION),
    ],
)
def test_a_layer_steps_as_it_reads(layer):
    made, x = layer(), torch.randn(2, 5, 8)
    whole, _ = made(x)
    state = made.zero_state(2)
    for t in range(5):
        y, state = made.step(x[:, t], state)
        assert torch.allclose(y, whole[:, t], atol=1e-5)


def test_in_binary64():
    m = model().to(torch.float64)
    logits, state = m(tokens(1, 5), m.zero_state(1))
    assert logits.dtype == torch.float64 and state[0].dtype == torch.complex128


# --- files ----------------------------------------------------------------------------------------


def test_a_checkpoint_moves_both_ways(tmp_path):
    m, text = model(), tokens(1, 6)
    m.tokenizer, m.about = "raw-bytes", {"made": "here"}
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    m.save_checkpoint(first)
    found = load_checkpoint(first)
    assert found.config == m.config and found.about == m.about
    assert m.state_dict().keys() == found.params.keys()
    for name, x in m.state_dict().items():
        assert np.array_equal(x.numpy(), ops.to_real(found.params[name])), name
    again = LanguageModel.from_checkpoint(first)
    again.save_checkpoint(second)
    assert first.read_bytes() == second.read_bytes()
    logits, _ = native.lm_logits(found.params, text.numpy(), config=found.config)
    assert np.allclose(again(text)[0].detach().numpy(), logits, atol=1e-5)


def test_weights_of_gated_state_spaces_pytorch_move_both_ways():
    package = pytest.importorskip("gated_state_spaces_pytorch")
    theirs = package.GatedStateSpacesLM(
        num_tokens=11, dim=8, depth=2, dss_kernel_H=6, dss_kernel_N=5, dim_expansion_factor=2
    )
    text = tokens(1, 7)
    m = LanguageModel.from_gated_state_spaces_pytorch(theirs.state_dict())
    assert m.config == LMConfig(GSS_PYTORCH, 2, final_norm=False)
    assert torch.allclose(m(text)[0], theirs(text), atol=1e-3)
    back = m.to_gated_state_spaces_pytorch()
    assert back.keys() == theirs.state_dict().keys()
    assert all(torch.equal(x, theirs.state_dict()[name]) for name, x in back.items())
    with pytest.raises(ModelError, match="no final norm"):
        model().to_gated_state_spaces_pytorch()


# --- compiled and exported ------------------------------------------------------------------------


@pytest.fixture
def compiled():
    torch.compiler.reset()
    yield partial(torch.compile, fullgraph=True, backend="aot_eager")
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_and_gradients(compiled):
    m, text = model(), tokens(2, 6)
    wanted = m.loss(text, text)
    gradients = torch.autograd.grad(wanted, [*m.parameters()])
    loss = compiled(m.loss)(text, text)
    assert torch.equal(loss, wanted)
    found = torch.autograd.grad(loss, [*m.parameters()])
    assert all(map(torch.equal, found, gradients))
    logits, state = compiled(m)(text)
    assert torch.equal(logits, m(text)[0]) and same(state, m(text)[1])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_compiled_by_inductor():
    layer, x = GSS(8, gate=12, channels=6, states=5), torch.randn(2, 9, 8)
    y, _ = torch.compile(layer, fullgraph=True)(x)
    assert torch.equal(y, layer(x)[0])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_plain_pytorch_compiles_too(compiled):
    layer, x = GSS(8, gate=12, channels=6, states=5), torch.randn(2, 9, 8)
    op = partial(refgss.torch.plain.gss_layer, config=PAPER)
    y, state = compiled(op)(layer.params(), x)
    wanted, after = op(layer.params(), x)
    assert torch.allclose(y, wanted) and torch.allclose(state, after)


def test_what_is_exported_takes_any_length():
    m, text = model().eval(), tokens(1, 9)
    length = torch.export.Dim("L", min=2, max=4096)
    program = torch.export.export(m, (text,), dynamic_shapes={"tokens": {1: length}})
    called = {str(node.target) for node in program.graph.nodes}
    assert {"refgss.gss_layer.default", "refgss.dss_layer.default"} <= called
    longer = tokens(1, 23)
    assert torch.equal(program.module()(longer)[0], m(longer)[0])


# --- trained --------------------------------------------------------------------------------------


def test_three_steps_in_pytorch_and_in_jax_agree_within_the_budget():
    """The budgets of the gradients, certified at each step; the loss is Σ g·y, of a given g."""
    pytest.importorskip("flint")
    jax = pytest.importorskip("jax")
    from refgss import xla
    from refgss.conformance.vectors.build import vector
    from refgss.conformance.vectors.cases import Case

    rate, options = 2.0**-10, {"config": ops.encode_option(PAPER)}
    given = next(v for v in VECTORS if v.id == "gss_layer_vjp/paper-small").tensors
    params = {n: ops.from_real(n, x) for n, x in ops.parts(given, "params").items()}
    x, g = given["x"], given["dout"]
    layer, theirs = Layer.of(params, PAPER), params
    optimizer = torch.optim.SGD(layer.parameters(), rate)
    allowed = {name: 0.0 for name in params}

    def loss(p):
        return (xla.gss_layer(p, x, config=PAPER)[0] * g).sum()

    for _ in range(3):
        now = {f"params.{n}": w.detach().numpy().copy() for n, w in layer.state_dict().items()}
        case = now | {"x": x, "dout": g, "dstate": np.zeros_like(given["dstate"])}
        certified = vector(Case("gss_layer_vjp/here", "gss_layer_vjp", (), case, options))
        optimizer.zero_grad()
        (layer(torch.from_numpy(x))[0] * torch.from_numpy(g)).sum().backward()
        optimizer.step()
        gradient = jax.grad(loss)(theirs)  # of complex numbers the conjugate
        theirs = {n: np.asarray(w - rate * np.conj(gradient[n])) for n, w in theirs.items()}
        for name, w in theirs.items():
            budget = certified.expected[f"dparams.{name}"].budget["f32"]
            rounding = np.finfo(np.float32).eps * np.abs(ops.to_real(w))
            allowed[name] = allowed[name] + 2 * rate * budget + rounding
    for name, w in layer.state_dict().items():
        assert np.all(np.abs(w.numpy() - ops.to_real(theirs[name])) <= allowed[name]), name
        assert not np.array_equal(w.numpy(), ops.to_real(params[name]))
