"""What a command is connected to: closed pipes, full disks, narrow encodings, hostile names."""

import json
import os
import pty
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from refgss.cli import run, terminal
from refgss.conformance.reports.report import read
from refgss.conformance.vectors.format import write_vectors

WRONG = Path(__file__).parents[1] / "conformance" / "wrong.py"
REFGSS = [sys.executable, "-B", "-m", "refgss"]
NAME = "bad[/red]name[/]\x1b[31m\u202e\n[bold]"
SHOWN = "bad[/red]name[/]\ufffd[31m\ufffd [bold]"


def check(few, candidate="reference", *more):
    return [
        "check",
        "--candidate",
        candidate,
        "--vectors",
        few,
        "--fresh",
        "0",
        "--again",
        "0",
        *more,
    ]


def refgss(arguments, **how):
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | how
    return subprocess.run([*REFGSS, *map(str, arguments)], **how)


def one_sentence(err):
    return err.startswith("refgss") and len(err.splitlines()) == 1 and "defect" not in err


@pytest.fixture
def nobody():
    """The end for writing of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize(("name", "code"), [("Gelu", 0), ("Tanh", 0), ("Nan", 1)])
def test_a_closed_pipe_changes_no_verdict_and_loses_no_file(few, nobody, tmp_path, name, code):
    files = [x for option in ("report", "html", "junit", "badge") for x in (option, option)]
    files = [f"--{x}" if i % 2 == 0 else tmp_path / x for i, x in enumerate(files)]
    done = refgss(check(few, f"python:{WRONG}:{name}", *files), stdout=nobody)
    assert done.returncode == code and "refgss" not in done.stderr
    assert all((tmp_path / x).stat().st_size for x in ("report", "html", "junit", "badge"))
    assert read(tmp_path / "report").verdict == ("does not conform" if code else "conforms")
    for command in ("report", "verify"):
        done = refgss([command, tmp_path / "report"], stdout=nobody)
        assert (done.returncode, done.stderr) == (code if command == "report" else 0, "")


@pytest.mark.parametrize("arguments", [["spec", "--list"], ["vectors", "list"], ["--help"]])
def test_any_command_may_be_cut_short(nobody, arguments):
    done = refgss(arguments, stdout=nobody)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_output_that_cannot_be_written_is_one_sentence(few, tmp_path):
    with open("/dev/full", "w") as full:
        done = refgss(check(few, "reference", "--report", tmp_path / "r"), stdout=full)
        assert done.returncode == 2 and one_sentence(done.stderr)
        assert read(tmp_path / "r").verdict == "conforms"
        for arguments in (["spec", "--list"], ["--version"]):
            done = refgss(arguments, stdout=full)
            assert done.returncode == 2 and one_sentence(done.stderr)
        done = refgss(check(few), stderr=full)
        assert done.returncode == 0 and "conforms" in done.stdout
        assert refgss(["no-such-command"], stderr=full).returncode == 2


@pytest.mark.parametrize("option", ["--report", "--html", "--junit", "--badge"])
def test_a_file_that_cannot_be_written_is_one_sentence_and_the_result_is_shown(few, option, capsys):
    assert run([*map(str, check(few, "reference", option, "/dev/full"))]) == 2
    out, err = capsys.readouterr()
    assert "conforms" in out and one_sentence(err) and "/dev/full" in err


@pytest.mark.parametrize("export", [["check", "--new-candidate"], ["vectors", "export"]])
def test_no_half_files_where_the_disk_is_full(tmp_path, export):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = refgss([*export, tmp_path / "new.py"], preexec_fn=limit)
    assert done.returncode == 2 and one_sentence(done.stderr)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_of_few_characters_shows_everything(few, encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    how = {"env": environment, "encoding": "latin-1"}
    done = refgss(["spec", "GSS-KER-1"], **how)
    assert done.returncode == 0 and "GSS-KER-1 (MUST)" in done.stdout and done.stderr == ""
    done = refgss(check(few, f"python:{WRONG}:Nan"), **how)
    assert done.returncode == 1 and "GSS-NRM-3" in done.stdout


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(few, closed):
    command = [*REFGSS, *map(str, check(few, f"python:{WRONG}:Gelu"))]
    script = ["bash", "-c", f'"$@" {closed}', "bash", *command]
    done = subprocess.run(script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def named(tmp_path):
    """A candidate whose name, version and claims are made to disturb a terminal."""
    file = tmp_path / "named.py"
    claims = {"name": NAME, "version": "[/]", "ops": ["gelu", NAME], "profiles": ["f32", NAME]}
    file.write_text(
        f"from refgss.reference import gelu\ndef capabilities():\n    return {claims!r}\n"
    )
    return f"python:{file}"


def test_names_of_a_candidate_do_nothing_to_the_output(few, named, tmp_path, capsys):
    report = tmp_path / "r"
    assert run([*map(str, check(few, named, "--report", report, "--html", tmp_path / "h"))]) == 0
    out, err = capsys.readouterr()
    assert SHOWN in out and SHOWN in err and "\x1b" not in out + err and "\u202e" not in out + err
    for command in (["report"], ["verify"], ["diff", report]):
        assert run([*map(str, command), str(report)]) == 0
        out, err = capsys.readouterr()
        assert "\x1b" not in out + err and "\u202e" not in out + err
        assert SHOWN in out or command[0] == "diff"


def test_names_of_a_candidate_do_nothing_to_a_terminal(few, named):
    """Where there are bars and colours, whose markup a name could speak."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*REFGSS, *map(str, check(few, named))],
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "200"},
    ) as process:
        os.close(theirs)
        shown = b""
        while chunk := read_some(ours):
            shown += chunk
    os.close(ours)
    assert process.returncode == 0 and b"\x1b[31m[bold]" not in shown
    assert "bad[/red]name[/]\ufffd[31m".encode() in shown and "\u202e".encode() not in shown


def test_all_text_passes_through_one_file():
    """But the text that a model makes: that is what was asked for."""
    writes = re.compile(r"click\.s?echo|\bprint\(|std(out|err)\.write|\bConsole\(")
    package = Path(terminal.__file__).parents[1]
    found = {
        (str(file.relative_to(package)), line.strip())
        for folder in ("cli", "bench", "model", "training")
        for file in (package / folder).rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if writes.search(line) and ">>>" not in line and file.name != "terminal.py"
    }
    assert {(file, line) for file, line in found if "console(" not in line} == {
        ("cli/generate.py", "click.echo(heading, nl=False)"),
        ("cli/generate.py", "click.echo(self._decoder.decode(text), nl=False)"),
        ("cli/generate.py", 'click.echo(self._decoder.decode(b"", final=True))'),
    }


@pytest.mark.parametrize("where", ["out", "err"])
def test_whatever_is_printed_is_harmless(where, capsys):
    console = terminal.console(stderr=where == "err")
    table = Table("\x1b[31mhead")
    table.add_row("\x1b]0;title\x07")
    for text in (Text("\x1b[2J\u202e\x9b"), escape("[/]\x1b[2J"), table):
        console.print(text)
    terminal.say("\x1b[2J\n")
    terminal.complain("\x1b[2J\n")
    shown = getattr(capsys.readouterr(), where)
    assert shown.count("\ufffd") > 4
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_names_of_files_do_nothing_to_the_output(tmp_path, capsys, monkeypatch):
    pytest.importorskip("jax")
    from refgss.training import loop

    def trained(run, out, *_):
        (out / "metrics.jsonl").write_text('{"loss": 1.5}\n')
        return out / "model.safetensors"

    monkeypatch.setattr(loop, "train", trained)
    folder = tmp_path / NAME.replace("/", "")
    folder.mkdir()
    assert run(["train", "--data", str(tmp_path), "--out", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "is trained" in out and "loss 1.5" in out
    assert "\x1b" not in out + err and "\u202e" not in out + err
    assert len(out.splitlines()) == 2


def read_some(descriptor):
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # how Linux says that the other end is closed
        return b""


def test_arguments_that_are_no_text_are_one_sentence(capsys):
    for arguments in (["spec", "\udcff"], ["\udcff\x1b[31m"], ["check", "--op", "\udcff\n"]):
        assert run(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and one_sentence(err) and "\x1b" not in err


DEEP = ["[" * 200 + "]" * 200, '{"a":' * 900 + "1" + "}" * 900, "[" * 100_000]


@pytest.mark.parametrize("text", DEEP)
def test_json_nested_deeply_is_one_sentence(few, tmp_path, text, capsys):
    (tmp_path / "deep").write_text(text)
    for name in ("manifest", "index"):
        write_vectors(tmp_path / name, [], "2026-11-23")
        (tmp_path / name / f"{name}.json").write_text(text)
    config = f'{{"__metadata__":{{"refgss.config":{json.dumps(text)}}}}}'.encode()
    header = len(config).to_bytes(8, "little") + config
    (tmp_path / "model.safetensors").write_bytes(header)
    for code, arguments in (
        (2, check(few, "reference", "--waivers", tmp_path / "deep")),
        (1, ["verify", tmp_path / "deep"]),
        (1, ["report", tmp_path / "deep"]),
        (4, check(tmp_path / "manifest")),
        (4, check(tmp_path / "index")),
        (2, ["generate", tmp_path / "model.safetensors", "x"]),
    ):
        assert run([*map(str, arguments)]) == code, arguments
        assert one_sentence(capsys.readouterr().err)


def test_a_link_that_leads_to_itself_is_one_sentence(few, tmp_path, capsys):
    loop = tmp_path / "loop.py"
    loop.symlink_to(loop)
    for arguments in (
        check(few, "reference", "--report", loop),
        check(few, "reference", "--waivers", loop),
        check(loop),
        ["check", "--new-candidate", loop],
        ["verify", loop],
        ["vectors", "export", loop],
        check(few, f"python:{loop}"),
    ):
        assert run([*map(str, arguments)]) in (1, 2, 3, 4), arguments
        assert one_sentence(capsys.readouterr().err)


def test_devices_in_the_place_of_files_are_one_sentence(few, capsys):
    for arguments in (["verify", "/dev/null"], check(few, "reference", "--waivers", "/dev/null")):
        assert run([*map(str, arguments)]) in (1, 2)
        assert one_sentence(capsys.readouterr().err)
