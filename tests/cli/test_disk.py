"""A disk that is full, or takes no file so long: one sentence, exit code 2, and no half file."""

import errno
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from refgss.cli import run
from refgss.config import PAPER, LMConfig
from refgss.model import initialize, save_checkpoint

TANH = f"python:{Path(__file__).parents[1] / 'conformance' / 'wrong.py'}:Tanh"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no limits of resources")


@contextmanager
def files_of_at_most(size):
    """What a full disk does, for this process and its children."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def checking(few):
    return ["check", "--candidate", TANH, "--vectors", few, "--fresh", "0", "--again", "0"]


def theirs(file):
    """A layer of gated-state-spaces-pytorch."""
    torch, package = map(pytest.importorskip, ("torch", "gated_state_spaces_pytorch"))
    layer = package.GSS(dim=12, dim_expansion_factor=2, dss_kernel_H=6, dss_kernel_N=5)
    torch.save(layer.state_dict(), file)


@pytest.fixture(scope="module")
def made(tmp_path_factory, few):
    """Files that the commands read."""
    folder = tmp_path_factory.mktemp("made")
    config = LMConfig(PAPER, 1)
    sizes = {"width": 8, "gate": 8, "channels": 4, "states": 2}
    params = initialize(config, sizes, vocabulary=257, seed=1)
    save_checkpoint(folder / "model.safetensors", params, config)
    assert run([*map(str, [*checking(few), "--report", folder / "report"])]) == 0
    (folder / "text").write_text("a line of text\n" * 300)
    return folder


def contents(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def commands(made, few, target):
    """Each writes `target`; those that show a result show it all the same."""
    model = made / "model.safetensors"
    training = "--steps 1 --batch 1 --length 8 --width 8 --gate 8 --channels 4 --states 2 --depth 1"
    return {
        "check --report": [*checking(few), "--report", target],
        "check --html": [*checking(few), "--html", target],
        "check --junit": [*checking(few), "--junit", target],
        "check --badge": [*checking(few), "--badge", target],
        "check --new-candidate": ["check", "--new-candidate", f"{target}.py"],
        "report --html": ["report", made / "report", "--html", target],
        "report --junit": ["report", made / "report", "--junit", target],
        "vectors export": ["vectors", "export", target],
        "quantize": ["quantize", model, target, "--weights", "int8"],
        "import": ["import", made / "theirs.pt", target],
        "generate": ["generate", model, "def", "--tokens", 3, "--save-state", target],
        "train": ["train", "--data", made / "text", "--out", target, *training.split()],
    }


@pytest.mark.parametrize("name", commands(Path(), "", ""))
def test_no_half_file_is_left(made, few, tmp_path, capsys, name):
    if name == "import":
        theirs(made / "theirs.pt")
    command = commands(made, few, tmp_path / "target")[name]
    with files_of_at_most(200):
        code = run([*map(str, command)])
    out, err = capsys.readouterr()
    complaints = [line for line in err.splitlines() if line.startswith("refgss")]
    assert code == 2, (out, err)
    assert len(complaints) == 1 and "defect" not in err, err
    if name.startswith("check --") and name != "check --new-candidate":
        assert "conforms" in out
    if name == "generate":
        assert out.strip()
    left = contents(tmp_path)
    if name == "train":  # its folder, and what no other command takes for a result
        assert not [p for p in left if p.suffix in (".safetensors", ".png", ".tmp")]
    else:
        assert left == {}


def test_counterexamples_are_saved_whole_or_not_at_all(tmp_path, capsys, monkeypatch):
    def written(folder, vectors, date):
        (folder / "index.json").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys.modules["refgss.cli.check"], "write_vectors", written)
    options = ["--case", "gelu/grid", "--profile", "f32", "--fresh", "0", "--again", "0"]
    code = run(["check", "--candidate", TANH, *options, "--shrink", str(tmp_path / "new")])
    out, err = capsys.readouterr()
    assert code == 2 and "does not conform" in out
    assert [line for line in err.splitlines() if "No space left" in line]
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["quantize", "generate", "check --report", "report --html"])
def test_an_older_file_stays(made, few, tmp_path, capsys, name):
    (tmp_path / "target").write_text("older")
    with files_of_at_most(200):
        assert run([*map(str, commands(made, few, tmp_path / "target")[name])]) == 2
    assert contents(tmp_path) == {tmp_path / "target": b"older"}
