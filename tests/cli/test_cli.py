"""The command line: exit codes, one sentence for every error, nothing passes by accident."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from refgss.cli import commands, exits, run
from refgss.conformance.candidates.targets import ALIASES
from refgss.conformance.judging.compare import Outcome
from refgss.conformance.reports.report import close, read, read_all, write
from refgss.conformance.vectors.format import Expected, Vector, read_vectors, write_vectors
from refgss.standard import spec_folder

WRONG = Path(__file__).parents[1] / "conformance" / "wrong.py"
RUDE = Path(__file__).parents[1] / "conformance" / "rude.py"
GELU = ["--op", "gelu", "--fresh", "0", "--seed", "1"]


PUBLISHED = spec_folder() / "vectors"
VECTORS = read_vectors(PUBLISHED)


def remembered(folder):
    """read_vectors, the published ones read once for all tests."""
    return VECTORS if folder == PUBLISHED else read_vectors(folder)


@pytest.fixture
def refgss_(capsys, monkeypatch):
    """Runs the command line; returns its exit code, output and errors."""
    for command in ("check", "spec", "vectors"):
        monkeypatch.setattr(sys.modules[f"refgss.cli.{command}"], "read_vectors", remembered)

    def call(*arguments):
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return code, captured.out, captured.err

    return call


def wrong(name):
    return f"python:{WRONG}:{name}"


def test_the_reference_conforms_in_every_profile(refgss_, tmp_path):
    code, out, err = refgss_("check", "--candidate", "reference", "--report", tmp_path / "r")
    assert code == 0, out + err
    report = read(tmp_path / "r")
    assert report.header["profiles"] == ["f32", "f64", "paper", "gss-pytorch"]
    assert report.footer["counts"].keys() == {"pass"}
    assert any(case.get("fresh") for case in report.cases)
    assert "conforms" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--candidate", wrong("Gelu"), *GELU], 0, "Gelu 1 conforms"),
        (["--candidate", wrong("Tanh"), *GELU], 1, "GSS-NRM-3"),
        (["--candidate", wrong("Segfault"), *GELU], 1, "SIGSEGV"),
        (["--candidate", wrong("Hangs"), *GELU, "--timeout", "0.3"], 1, "timed out"),
        (["--candidate", "reference", "--candidate", "native", "--badge", "b"], 2, "one --cand"),
        (["--candidate", "numpy"], 2, "unknown candidate"),
        (["--candidate", "nativ"], 2, "did you mean native?"),
        (["--candidate", "my_gss.py"], 2, "did you mean python:my_gss.py?"),
        (["--candidate", "cmd:'node gss.mjs"], 2, "No closing quotation"),
        (["--candidate", "reference", "--op", "fft"], 2, "refgss spec --ops"),
        (["--candidate", "reference", "--op", "gellu"], 2, "did you mean gelu?"),
        (["--candidate", "reference", "--clause", "nrm-3"], 2, "did you mean GSS-NRM-3?"),
        (["--candidate", "reference", "--report", "no/such/folder/r"], 2, "does not exist"),
        (["--candidate", "reference", "--timeout", "nan"], 2, "no number"),
        (["--candidate", "reference", "--memory", "0"], 2, "range"),
        (["--candidate", "reference", "--waivers", Path(__file__).parent], 2, "is a directory"),
        (["--candidate", "reference", "--shrink", Path(__file__).parent], 2, "not empty"),
        (["--new-candidate", "my_gss"], 2, ".py"),
        (["--candidat", "reference"], 2, "--candidate"),
        (["--candidate", wrong("Ambitious"), *GELU], 0, "did you mean f32?"),
        (["--candidate", wrong("Ambitious"), *GELU], 0, "did you mean gelu_vjp?"),
        (["--candidate", "reference", "--profile", "f16"], 2, "f16"),
        (["--candidate", "reference", "--clause", "GSS-KER-99"], 2, "GSS-KER-99"),
        (["--candidate", "reference", "--waivers", WRONG], 2, "not JSON"),
        (["--candidate", "reference", "--waivers", "no-such-file"], 2, "no-such-file"),
        (["--candidate", "python:no_such_module"], 3, "no_such_module"),
        (["--candidate", wrong("Boastful")], 3, "protocol"),
        (["--candidate", f"cmd:{sys.executable} {RUDE} 'prints garbage'", *GELU], 3, "garbage"),
        (["--candidate", "reference", "--op", "gelu", "--clause", "GSS-KER-1"], 4, "no vector"),
        (["--candidate", wrong("Gelu"), "--op", "dense"], 4, "claims none of the ops selected"),
        (["--candidate", wrong("Partial"), *GELU], 1, "claimed, and every case of it was declined"),
        (["--candidate", "reference", "--vectors", Path(__file__).parent], 4, "manifest.json"),
    ],
)
def test_check_leaves_with_the_right_code_and_says_why(refgss_, arguments, code, says):
    found, out, err = refgss_("check", *arguments)
    assert (found, says in out + err) == (code, True), out + err


def test_an_error_is_one_sentence(refgss_):
    for command in (["chek"], ["diff", "a"], ["verify", "no-such-file"], ["spec", "--nothing"]):
        code, out, err = refgss_(*command)
        assert code == 2 and out == "" and err.startswith("refgss") and len(err.splitlines()) == 1


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_check_ends_its_candidate_and_leaves_nothing(tmp_path, signal_, code):
    lock = tmp_path / "running"
    spec = f"cmd:{sys.executable} {RUDE} marks {lock}"
    command = [sys.executable, "-m", "refgss", "check", "--candidate", spec, *GELU]
    command += ["--report", str(tmp_path / "report")]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as check:
        while not lock.exists():
            time.sleep(0.05)
        check.send_signal(signal_)
        _, err = check.communicate(timeout=30)
    assert check.returncode == code and b"Traceback" not in err
    assert [*tmp_path.iterdir()] == [lock]
    with pytest.raises(ProcessLookupError):
        os.kill(int(lock.read_text()), 0)


def test_without_a_candidate_every_usable_backend_is_checked(refgss_, monkeypatch):
    monkeypatch.delitem(ALIASES, "jax")
    monkeypatch.delitem(ALIASES, "torch")
    monkeypatch.setitem(ALIASES, "native", "no_such_module")
    code, out, err = refgss_("check", *GELU)
    assert code == 0 and "refgss.reference 0.1.0 conforms" in out
    assert "native cannot be used here" in err


def test_a_defect_of_our_own_is_70_and_a_sentence(refgss_, monkeypatch):
    monkeypatch.setattr(sys.modules["refgss.cli.check"], "check_one", lambda *_: 1 / 0)
    code, _, err = refgss_("check", "--candidate", "reference")
    assert code == 70 and "ZeroDivisionError" in err and "report it" in err
    assert len(err.strip().splitlines()) == 1


def test_damaged_vectors_are_4(refgss_, tmp_path):
    folder = tmp_path / "vectors"
    shutil.copytree(spec_folder() / "vectors", folder)
    with (folder / "gelu.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    for command in (
        ["check", "--candidate", "reference"],
        ["vectors", "lint"],
        ["vectors", "list"],
    ):
        code, _, err = refgss_(*command, "--vectors", folder)
        assert code == 4 and "gelu.safetensors" in err


def test_an_empty_set_of_vectors_is_4(refgss_, tmp_path):
    write_vectors(tmp_path, [], "2026-11-23")
    code, _, err = refgss_("check", "--candidate", "reference", "--vectors", tmp_path)
    assert code == 4 and "no vector" in err


def write_waivers(path, id, expires="2999-12-31"):
    waiver = {"id": id, "reason": "known", "link": "https://example.org/1", "expires": expires}
    path.write_text(json.dumps({"waivers": [waiver]}))
    return path


def test_a_waiver_excuses_one_failure_and_stale_ones_fail(refgss_, tmp_path):
    one = np.ones(1)
    good, bad = (
        Vector(
            id=f"gelu/{id}",
            op="gelu",
            clauses=("GSS-NRM-3",),
            options={},
            tensors={"x": np.zeros(1, np.float32)},
            expected={"y": Expected(hi * one, 0 * one, 0 * one, {"f32": one / 8, "f64": one / 8})},
        )
        for id, hi in {"good": 0.0, "bad": 1.0}.items()
    )
    write_vectors(tmp_path / "v", [good, bad], "2026-11-23")
    check = ("check", "--candidate", "reference", *GELU, "--vectors", tmp_path / "v")
    assert refgss_(*check)[0] == 1
    code, out, _ = refgss_(*check, "--waivers", write_waivers(tmp_path / "w", "gelu/bad"))
    assert code == 0 and "2 waived" in out
    code, _, err = refgss_(*check, "--waivers", write_waivers(tmp_path / "w", "gelu/good"))
    assert code == 1 and "nothing left" in err, "a failure outweighs a stale waiver"
    check = (*check[:-1], tmp_path / "good")
    write_vectors(tmp_path / "good", [good], "2026-11-23")
    code, _, err = refgss_(*check, "--waivers", write_waivers(tmp_path / "w", "gelu/good"))
    assert code == 5 and "nothing left to waive" in err
    old = write_waivers(tmp_path / "w", "gelu/good", "2020-01-01")
    code, _, err = refgss_(*check, "--waivers", old)
    assert code == 5 and "expired" in err
    code, _, err = refgss_(*check, "--waivers", write_waivers(tmp_path / "w", "gelu/godo"))
    assert code == 2 and "did you mean gelu/good?" in err


def test_several_candidates_make_one_report_file(refgss_, tmp_path, monkeypatch):
    """Without a candidate too: the reports follow each other, and are shown and verified so."""
    monkeypatch.delitem(ALIASES, "jax")
    monkeypatch.delitem(ALIASES, "torch")
    file = tmp_path / "r"
    code, out, _ = refgss_("check", *GELU, "--report", file)
    assert code == 0
    assert [r.header["candidate"]["spec"] for r in read_all(file)] == ["reference", "native"]
    code, again, _ = refgss_("report", file)
    assert code == 0 and again == out
    code, out, _ = refgss_("verify", file)
    assert code == 0 and len(out.splitlines()) == 2
    code, _, err = refgss_("diff", file, file)
    assert code == 1 and "holds 2 reports" in err
    file.write_bytes(file.read_bytes() * 2)
    code, _, err = refgss_("verify", file)
    assert code == 1 and "two reports of reference" in err
    code, _, _ = refgss_(
        "check", *GELU, "--candidate", "reference", "--candidate", "reference", "--report", file
    )
    assert code == 0 and len(read_all(file)) == 1


def test_all_views_of_a_check(refgss_, tmp_path):
    files = {name: tmp_path / name for name in ("report", "junit", "html", "badge")}
    options = [x for name, path in files.items() for x in (f"--{name}", path)]
    code, _, _ = refgss_("check", "--candidate", wrong("Tanh"), *GELU, *options)
    assert code == 1 and all(path.stat().st_size for path in files.values())
    code, out, _ = refgss_("verify", files["report"])
    assert code == 0 and "intact" in out
    again = tmp_path / "again"
    code, out, _ = refgss_("report", files["report"], "--html", again, "--junit", tmp_path / "j")
    assert code == 1 and "does not conform" in out
    assert again.read_text() == files["html"].read_text()
    assert (tmp_path / "j").read_text() == files["junit"].read_text()
    shutil.copy(files["report"], tmp_path / "whole")
    files["report"].write_bytes(files["report"].read_bytes()[:-10])
    code, out, err = refgss_("verify", files["report"], tmp_path / "whole")
    assert code == 1 and "whole: intact" in out and "report" in err
    for command in ("verify", "report"):
        code, _, err = refgss_(command, files["report"])
        assert code == 1 and "report" in err


def resealed(report, path, number=None, change=(), **head):
    """The report with one case and its header changed, and a footer that fits."""
    cases = [dict(case) for case in report.cases]
    if number is not None:
        cases[number] = {k: v for k, v in (cases[number] | dict(change)).items() if v is not None}
    write(close(dict(report.header) | head, cases, report.footer.get("suspects", ())), path)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A report with a case that passes and one that fails, both with a ratio: pass, wrong value."""
    path = tmp_path_factory.mktemp("judged") / "r"
    check = ["check", "--candidate", wrong("Tanh"), *GELU, "--profile", "f32"]
    assert run([*check, "--report", str(path)]) == 1
    found = read(path)
    passed = next(c for c in found.cases if c["outcome"] == "pass" and c.get("ratio"))
    failed = next(c for c in found.cases if c["outcome"] == "wrong value")
    others = [c for c in found.cases if c not in (passed, failed)]
    return close(found.header, [passed, failed, *others], found.footer["suspects"])


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (0, {"ratio": 1e9}, "error/budget is 1e+09"),
        (0, {"ratio": 0.123}, "is another"),
        (0, {"ratio": "nan"}, "error/budget is nan"),
        (0, {"got": 1e30}, "is another"),
        (0, {"budget": -1.0}, "is another"),
        (1, {"outcome": "pass"}, "pass, though"),
        (1, {"ratio": 0.5}, "wrong value, though"),
        (1, {"ratio": None}, "without error/budget"),
        (1, {"outcome": "crashed"}, "crashed, though it has a ratio"),
        (1, {"outcome": "waived"}, "a reason is given"),
        (0, {"reason": "known"}, "a reason is given"),
        (1, {"outcome": "wrong on fresh input"}, "though it is a published vector"),
        (1, {"fresh": True}, "`fresh` disagree"),
        (0, {"id": "gelu/no-such-vector"}, "there is no such vector"),
        (0, {"clauses": ["GSS-KER-1"]}, "the vector is another"),
        (0, {"op": "dense"}, "does not claim dense"),
        (0, {"precision": "f64"}, "the profile f64"),
        (0, {"layer_profile": "paper"}, "the profile paper"),
        (1, "repeated", "is there 2 times"),
        (1, "repeated", "it lacks gelu/"),
    ],
)
def test_verify_refuses_what_cannot_be_true(refgss_, tmp_path, judged, number, change, says):
    resealed(judged, tmp_path / "r")
    assert refgss_("verify", tmp_path / "r")[0] == 0
    resealed(judged, tmp_path / "r", number, judged.cases[0] if change == "repeated" else change)
    code, out, err = refgss_("verify", tmp_path / "r")
    assert code == 1 and out == "" and "contradicts itself" in err and says in err


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ({"started": "yesterday"}, "no time"),
        ({"profiles": ["paper"]}, "no precision"),
        ({"profiles": ["f32", "f32"]}, "twice"),
        ({"only": {"ops": ["dense"]}}, "it lacks dense/"),
        (
            {"only": {"ops": ["gelu"], "clauses": ["GSS-KER-1"]}},
            "belongs to nothing that was asked",
        ),
        ({"selection": "thorough"}, "it lacks gelu/"),
    ],
)
def test_verify_refuses_a_header_that_cannot_be_true(refgss_, tmp_path, judged, head, says):
    resealed(judged, tmp_path / "r", **head)
    code, _, err = refgss_("verify", tmp_path / "r")
    assert code == 1 and says in err


def test_a_narrowed_check_is_told_from_a_whole_one(refgss_, tmp_path, judged):
    whole = {k: v for k, v in judged.header.items() if k != "only"}
    write(close(whole, judged.cases, judged.footer["suspects"]), tmp_path / "whole")
    code, out, err = refgss_("verify", tmp_path / "whole")
    assert code == 1 and out == "" and "it lacks " in err and "more contradictions" in err
    files = {name: tmp_path / name for name in ("report", "html", "badge")}
    options = [x for name, path in files.items() for x in (f"--{name}", path)]
    check = ("check", "--candidate", wrong("Gelu"), *GELU, "--fresh", 0, *options)
    code, out, _ = refgss_(*check, "--clause", "GSS-NRM-3")
    assert code == 0 and "conforms for gelu and GSS-NRM-3 alone (f32, f64)" in out
    assert read(files["report"]).header["only"] == {"ops": ["gelu"], "clauses": ["GSS-NRM-3"]}
    code, out, _ = refgss_("verify", files["report"])
    assert code == 0 and "conforms for gelu and GSS-NRM-3 alone (f32, f64)" in out
    assert "0 of them fresh, default selection" in out
    assert "partial" in files["badge"].read_text()
    assert "conforms for gelu and GSS-NRM-3 alone" in files["html"].read_text()


def test_diff_names_new_failures(refgss_, tmp_path):
    for name in ("Gelu", "Tanh"):
        refgss_("check", "--candidate", wrong(name), *GELU, "--report", tmp_path / name)
    code, out, _ = refgss_("diff", tmp_path / "Gelu", tmp_path / "Tanh")
    assert code == 1 and "gelu/grid (f32): pass became wrong value" in out
    refgss_(
        "check",
        "--candidate",
        wrong("Gelu"),
        *GELU,
        "--profile",
        "f32",
        "--report",
        tmp_path / "32",
    )
    code, out, _ = refgss_("diff", tmp_path / "32", tmp_path / "Tanh")
    assert code == 1 and "(f64): wrong value, only in the second report" in out
    code, out, _ = refgss_("diff", tmp_path / "Tanh", tmp_path / "32")
    assert code == 0 and "cases are only in the first report" in out
    code, out, _ = refgss_("diff", tmp_path / "Tanh", tmp_path / "Gelu")
    assert code == 0 and "wrong value became pass" in out
    code, out, _ = refgss_("diff", tmp_path / "Gelu", tmp_path / "Gelu")
    assert (code, out) == (0, "0 new failures\n")


def test_a_new_candidate_is_checked_as_it_is_written(refgss_, tmp_path):
    file = tmp_path / "my_gss.py"
    assert refgss_("check", "--new-candidate", file)[0] == 0
    assert refgss_("check", "--candidate", f"python:{file}", "--fresh", "0")[0] == 0
    code, _, err = refgss_("check", "--new-candidate", file)
    assert code == 2 and "exists" in err


@pytest.mark.parametrize(("name", "tool"), [("my.c", "cc"), ("my.rs", "rustc"), ("my.mjs", "node")])
def test_a_new_candidate_in_another_language_is_checked_by_the_commands_it_tells(
    refgss_, tmp_path, name, tool
):
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    code, out, _ = refgss_("check", "--new-candidate", tmp_path / name)
    assert code == 0
    *building, checking = [line for line in out.splitlines() if line.startswith("  ")]
    for command in building:
        subprocess.run(command, shell=True, check=True)
    candidate = shlex.split(checking)[3]
    code, out, _ = refgss_("check", "--candidate", candidate, "--op", "causal_conv", "--quick")
    assert code == 0 and "conforms" in out


def test_a_framework_is_for_python(refgss_, tmp_path):
    file = tmp_path / "my.c"
    code, _, err = refgss_("check", "--new-candidate", file, "--framework", "jax")
    assert code == 2 and "is for Python" in err and not file.exists()
    file = tmp_path / "my.py"
    assert refgss_("check", "--new-candidate", file, "--framework", "torch")[0] == 0
    assert "import torch" in file.read_text()


def test_spec_prints_clauses(refgss_):
    code, out, _ = refgss_("spec", "gss-ker-1")
    assert code == 0 and "reference.kernel.ssm_kernel" in out and "ssm_kernel/" in out
    code, out, _ = refgss_("spec", "--list")
    assert code == 0 and "GSS-CNV-1 (MUST)" in out
    code, out, _ = refgss_("spec", "gss_layer")
    assert code == 0 and out.startswith("gss_layer(params, x, state, *, config) -> y, state")
    assert "GSS-LAY-1 (MUST)" in out and "gss_layer/paper" in out and "GSS-KER-1 " not in out
    for area in ("GSS-LAY", "gss-lay-", "lay"):
        code, out, _ = refgss_("spec", area)
        assert code == 0 and "GSS-LAY-1 (MUST)" in out and "GSS-KER-1 " not in out
    for bad in (["GSS-KER-99"], [], ["GSS-KER-1", "--list"], ["layer"], [""], ["GSS"]):
        assert refgss_("spec", *bad)[0] == 2
    assert "did you mean gss_layer?" in refgss_("spec", "gss_layr")[2]


def test_coverage_fails_when_a_clause_loses_its_support(refgss_, monkeypatch):
    spec = sys.modules["refgss.cli.spec"]  # refgss.cli.spec is the command
    full = spec.coverage()
    everything = {id: ["x"] for id in spec.read_clauses(spec_folder())}
    whole = spec.Coverage(everything, everything, everything)
    monkeypatch.setattr(spec, "coverage", lambda: whole)
    assert refgss_("spec", "--coverage")[0] == 0
    for kind in ("functions", "vectors", "mutants"):
        less = {**vars(whole), kind: {k: v for k, v in everything.items() if k != "GSS-KER-1"}}
        monkeypatch.setattr(spec, "coverage", lambda less=less: spec.Coverage(**less))
        code, out, _ = refgss_("spec", "--coverage")
        assert code == 1 and "GSS-KER-1" in out
    assert full.functions["GSS-KER-1"]


def test_vectors_lists_and_exports(refgss_, tmp_path):
    code, out, _ = refgss_("vectors", "list", "--op", "gelu")
    assert code == 0 and all(line.startswith("gelu/") for line in out.splitlines())
    code, out, _ = refgss_("vectors", "export", tmp_path / "out")
    assert code == 0 and (tmp_path / "out" / "vectors" / "manifest.json").exists()
    assert refgss_("vectors", "lint", "--vectors", tmp_path / "out" / "vectors")[0] in (0, 4)
    assert refgss_("vectors", "export", tmp_path / "out")[0] == 2
    code, out, _ = refgss_("vectors")
    assert code == 0 and out.startswith(f"{len(VECTORS.vectors)} vectors of {VECTORS.date}")
    assert f"{sum(v.op == 'gelu' for v in VECTORS.vectors):6} gelu" in out.splitlines()


def test_bench_knows_every_work():
    from refgss.bench import WORKS

    command = sys.modules["refgss.cli.bench"]
    assert sorted(command.WORKS + command.MODEL_WORKS) == sorted(WORKS)


def test_info_says_what_can_be_used(refgss_, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    code, out, _ = refgss_("info")
    assert code == 0 and "OPENBLAS_CORETYPE=Haswell" in out
    assert any(line.startswith("reference     usable") for line in out.splitlines())


def test_help_names_every_command_and_a_pipe_gets_no_colours():
    command = [sys.executable, "-m", "refgss", "check", "--candidate", "reference", *GELU]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"\x1b" not in done.stdout and done.stderr == b""
    done = subprocess.run([sys.executable, "-m", "refgss", "-h"], capture_output=True, check=True)
    for name in ("check", "spec", "vectors", "report", "diff", "verify", "info", "bench"):
        assert f"\n  {name} " in done.stdout.decode()


def test_a_closed_pipe_is_no_defect():
    command = f"{sys.executable} -m refgss spec --list | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stderr == b""


def commands_of(group, *path):
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands_of(command, *path, name)


def test_every_command_explains_itself(refgss_):
    for path in commands_of(commands):
        code, out, err = refgss_(*path, "--help")
        assert code == 0 and err == "" and out.startswith("Usage: refgss"), path
    code, out, _ = refgss_("--help")
    assert code == 0 and "..." not in out.partition("Commands:")[2], "cut short"


def first_columns(heading):
    """The first cells of the table of chapter 14 under this heading."""
    text = (spec_folder() / "14-conformance.md").read_text("utf-8")
    table = text.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_chapter_14_names_the_exit_codes_and_outcomes_that_there_are():
    codes = [v for k, v in vars(exits).items() if k.isupper() and isinstance(v, int)]
    assert sorted(map(int, first_columns("exit code"))) == sorted([0, *codes, 130])
    outcomes = [name for cell in first_columns("outcome") for name in cell.split(", ")]
    assert sorted(outcomes) == sorted(map(str, Outcome))
