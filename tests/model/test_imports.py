"""Import: a model of gated-state-spaces-pytorch, converted by the command, gives its logits."""

import sys

import numpy as np
import pytest
import torch
from gated_state_spaces_pytorch import GatedStateSpacesLM
from safetensors.torch import save_file

from refgss import native, reference
from refgss.cli import run
from refgss.model import load_checkpoint
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
