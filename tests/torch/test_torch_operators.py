"""The native kernels as custom operators: what PyTorch asks of them, and their gradients."""

import numpy as np
import pytest
import torch
from torch_cases import tensors_of, usual

import refgss.torch
from refgss import native, ops
from refgss.torch import kernels

pytestmark = pytest.mark.skipif(kernels.obstacle() is not None, reason=str(kernels.obstacle()))
FORWARD = [op for op in kernels.OPS if f"{op}_vjp" in kernels.KERNELS]


def case_of(vector, leaves):
    """The two arguments of an operator."""
    tensors = tensors_of(vector, leaves=leaves)
    return list(tensors.values()), kernels.written(list(tensors), vector.options)


@pytest.mark.parametrize("name", sorted(kernels.OUTPUTS) + [f"{op}_vjp" for op in FORWARD])
def test_opcheck(name):
    vector = usual(name.removesuffix(kernels.KEEPING))
    operator = getattr(torch.ops.refgss, name)
    torch.library.opcheck(operator, case_of(vector, leaves=not name.endswith("_vjp")))


@pytest.mark.parametrize("op", FORWARD)
def test_autograd_and_the_gradient_op_are_the_same_numbers(op):
    """Of the kernels' own bits, but that of a GSS layer, whose forward pass is kept."""
    vector = usual(f"{op}_vjp")
    given = tensors_of(vector, "f32")
    wanted = ops.call(refgss.torch, f"{op}_vjp", given, vector.options)
    new = [n for n in given if n.partition(".")[0] not in (*ops.OPS[op].arguments, "delta")]
    leaves = {n: x for n, x in tensors_of(vector, "f32", leaves=True).items() if n not in new}
    if op == "rope":
        leaves["x"] = torch.zeros_like(given["dy"]).requires_grad_()
    outputs = ops.call(refgss.torch, op, leaves, vector.options)
    moving = [y for y in outputs.values() if y.requires_grad]
    torch.autograd.backward(moving, [given[n] for n in new])
    for name, x in leaves.items():
        gradient = kernels.gradient_of(name)
        if gradient in wanted:
            assert torch.equal(x.grad, wanted[gradient]), name


def test_a_tensor_and_the_array_of_a_kernel_are_the_same_memory(monkeypatch):
    seen = {}

    def watched(u, k):
        seen["u"] = u
        return native.causal_conv(u, k)

    monkeypatch.setattr(
        kernels, "backend", lambda: type("B", (), {"causal_conv": staticmethod(watched)})
    )
    u, k = torch.randn(2, 3, 5).mT, torch.randn(3, 4)
    refgss.torch.causal_conv(u, k)
    assert seen["u"].ctypes.data == u.data_ptr() and seen["u"].strides == (60, 4, 20)


def test_a_gradient_of_a_gradient_is_refused_in_one_sentence():
    u, k = torch.randn(1, 4, 2, requires_grad=True), torch.randn(2, 4, requires_grad=True)
    (du,) = torch.autograd.grad(refgss.torch.causal_conv(u, k).square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="causal_conv_vjp"):
        du.sum().backward()


@pytest.mark.parametrize(
    "call, why",
    [
        (lambda t: t.gelu(np.ones(3)), "gelu: x must be a torch.Tensor, not ndarray"),
        (lambda t: t.gelu(torch.ones(3, dtype=torch.bfloat16)), "gelu: x must be .* not bfloat16"),
        (lambda t: t.dense(torch.ones(3)), "dense: the argument weight is missing"),
        (lambda t: t.gelu(torch.ones(3), y=1), "gelu: there is no argument y"),
        (lambda t: t.gelu(torch.ones(3), x=1), "gelu: x is given twice"),
        (lambda t: t.gelu(*torch.ones(3)), "gelu takes 1 arguments, not 3"),
    ],
)
@pytest.mark.parametrize("backend", [refgss.torch, refgss.torch.plain])
def test_what_is_no_case_is_refused_in_one_sentence(backend, call, why):
    with pytest.raises(TypeError, match=why):
        call(backend)
