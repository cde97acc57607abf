"""Import: a model of gated-state-spaces-pytorch, converted by the command, gives its logits."""

import sys

import numpy as np
import pytest
import torch
from gated_state_spaces_pytorch import GSS, GatedStateSpacesLM
from safetensors.torch import save_file

from refgss import native, reference
from refgss.cli import run
from refgss.model import CheckpointError, load_checkpoint, load_layer
from refgss.model.imports import from_gated_state_spaces_pytorch
from refgss.model.session import Session
from refgss.tensors import ModelError


@pytest.fixture
def theirs():
    torch.manual_seed(0)
    return GatedStateSpacesLM(
        num_tokens=256, dim=24, depth=2, dim_expansion_factor=2, dss_kernel_H=10, dss_kernel_N=9
    ).eval()


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_logits_are_those_of_the_package(theirs, tmp_path, ending):
    source, target = tmp_path / f"theirs.{ending}", tmp_path / "ours.safetensors"
    if ending == "pt":
        torch.save(theirs.state_dict(), source)
    else:
        save_file(theirs.state_dict(), source)
    assert run(["import", str(source), str(target)]) == 0
    checkpoint = load_checkpoint(target)
    assert checkpoint.tokenizer == "raw-bytes"
    tokens = torch.randint(256, (2, 40))
    with torch.no_grad():
        expected = theirs(tokens).numpy()
    for backend in (reference, native):
        logits, _ = backend.lm_logits(checkpoint.params, tokens.numpy(), config=checkpoint.config)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)
    session = Session(checkpoint, batch=2)
    np.testing.assert_allclose(session.prefill(tokens.numpy()), expected[:, -1], atol=1e-5)


def test_what_is_not_theirs_is_one_sentence(theirs):
    weights = {k: v.numpy() for k, v in theirs.state_dict().items()}
    for bad in (
        {k: v for k, v in weights.items() if k != "token_emb.weight"},
        {k: v for k, v in weights.items() if k != "layers.1.dss.C_real"},
        {k: v for k, v in weights.items() if not k.startswith("layers.0")},
        {**weights, "layers.0.attention.weight": weights["to_logits.weight"]},
        {**weights, "attention.weight": weights["to_logits.weight"]},
        {},
    ):
        with pytest.raises(ModelError, match=r"missing|no tensor of"):
            from_gated_state_spaces_pytorch(bad)


def state_of(theirs, kind):
    """The state dict as people have it."""
    weights = theirs.state_dict()
    return {
        "net": {f"net.{k}": v for k, v in weights.items()},
        "module.net": {f"module.net.{k}": v for k, v in weights.items()},
        "compiled": {f"_orig_mod.{k}": v for k, v in weights.items()},
        "model": {"model": weights, "optimizer": {"lr": 0.1}, "step": 5},
        "state_dict": {"epoch": 1, "state_dict": {f"module.{k}": v for k, v in weights.items()}},
        "float64": {k: v.double() for k, v in weights.items()},
        "bfloat16": {k: v.bfloat16() for k, v in weights.items()},
        "half": {k: v.half() for k, v in weights.items()},
    }[kind]


KINDS = ["net", "module.net", "compiled", "model", "state_dict", "float64", "bfloat16", "half"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_what_people_have_is_imported(theirs, tmp_path, kind, ending):
    weights = state_of(theirs, kind)
    source, target = tmp_path / f"theirs.{ending}", tmp_path / "ours.safetensors"
    if ending == "pt":
        torch.save(weights, source)
    elif kind in ("model", "state_dict"):
        return  # safetensors files hold tensors alone
    else:
        save_file(weights, source)
    assert run(["import", str(source), str(target)]) == 0
    dtype = {"bfloat16": torch.bfloat16, "half": torch.half}.get(kind, torch.float32)
    theirs.load_state_dict({k: v.to(dtype).float() for k, v in theirs.state_dict().items()})
    expected = from_gated_state_spaces_pytorch(
        {k: v.numpy() for k, v in theirs.state_dict().items()}
    )[0]
    found = load_checkpoint(target).params
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[k], x) for k, x in expected.items())


def test_a_small_vocabulary_is_read_as_bytes_and_others_are_refused(tmp_path, capsys):
    model = GatedStateSpacesLM(num_tokens=100, dim=8, depth=1, dss_kernel_H=4, dss_kernel_N=3)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    path = str(tmp_path / "m.safetensors")
    assert run(["import", str(tmp_path / "m.pt"), path]) == 0
    assert load_checkpoint(path).tokenizer == "raw-bytes"
    assert run(["generate", path, "abc", "--tokens", "20"]) == 0
    (tmp_path / "text").write_text("xyz")
    for command in (["generate", path, "xyz"], ["eval", path, str(tmp_path / "text")]):
        capsys.readouterr()
        assert run(command) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and ("below 100" in error or "0 and 99" in error), error


def test_a_single_layer_is_imported(tmp_path, capsys):
    torch.manual_seed(1)
    layer = GSS(dim=12, dim_expansion_factor=2, dss_kernel_H=6, dss_kernel_N=5).eval()
    torch.save({"module": layer.state_dict()}, tmp_path / "layer.pt")
    target = tmp_path / "layer.safetensors"
    assert run(["import", str(tmp_path / "layer.pt"), str(target)]) == 0
    params, config = load_layer(target)
    x = torch.randn(2, 30, 12)
    with torch.no_grad():
        expected = layer(x).numpy()
    for backend in (reference, native):
        y, _ = backend.gss_layer(params, x.numpy(), config=config)
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)
    capsys.readouterr()
    assert run(["generate", str(target), "x"]) == 2
    assert "no usable checkpoint" in capsys.readouterr().err
    content = target.read_bytes()
    for damage in (content[:-1], content.replace(b"imag", b"imog"), content[:40]):
        target.write_bytes(damage)
        with pytest.raises(CheckpointError):
            load_layer(target)


@pytest.mark.parametrize(
    "content",
    ["a module", [1, 2], {}, {"step": 3}, {"model": {"a": 1}}, {"model": {}}, 7, None],
)
def test_what_holds_no_state_dict_is_one_sentence(theirs, tmp_path, capsys, content):
    torch.save(theirs if content == "a module" else content, tmp_path / "m.pt")
    assert run(["import", str(tmp_path / "m.pt"), str(tmp_path / "out.safetensors")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "m.pt" in error and "weights_only" not in error, error
    if content == "a module":
        assert "torch.save(model.state_dict(), …)" in error


def test_tensors_of_other_types_and_shapes_are_one_sentence(theirs, tmp_path, capsys):
    weights = theirs.state_dict()
    for name, x in (
        ("token_emb.weight", torch.zeros(256, 24, dtype=torch.int64)),
        ("layers.0.dss.C_real", torch.zeros(3, 2, 2)),
        ("layers.0.dss.Lambda_real", torch.zeros(())),
        ("to_logits.weight", torch.zeros(5)),
        ("layers.0.dss.C_imag", torch.zeros(10, 9, dtype=torch.complex64)),
    ):
        torch.save({**weights, name: x}, tmp_path / "m.pt")
        assert run(["import", str(tmp_path / "m.pt"), str(tmp_path / "out.safetensors")]) == 2, name
        assert capsys.readouterr().err.count("\n") == 1


class Malice:
    def __reduce__(self):
        return sys.exit, (99,)


def test_a_hostile_pickle_is_not_executed(tmp_path, capsys):
    torch.save({"token_emb.weight": Malice()}, tmp_path / "bad.pt")
    (tmp_path / "text.pt").write_text("hello")
    for name in ("bad.pt", "text.pt", "missing.pt"):
        assert run(["import", str(tmp_path / name), str(tmp_path / "out.safetensors")]) == 2
        error = capsys.readouterr().err
        assert name in error and "Traceback" not in error and error.count("\n") == 1, error
    assert not (tmp_path / "out.safetensors").exists()
