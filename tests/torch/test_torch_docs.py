"""docs/torch.md, run as it is written."""

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/torch.md").read_text("utf-8")


def test_its_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    names = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "mine.safetensors").exists()
    assert names["logits"].shape == (4, 10, 257) and names["c"].grad is not None


def test_its_commands_name_what_there_is():
    import refgss.torch
    from refgss.conformance.candidates.targets import ALIASES

    commands = re.findall(r"^refgss check --candidate (\S+)", PAGE, re.MULTILINE)
    assert commands == ["torch", "python:refgss.torch:plain"]
    assert commands[0] in ALIASES and callable(refgss.torch.plain.ssm_scan)
