"""What an installation leaves, and what it says where the C++ backend is not built.

The project that is built here has this setup.py and a C++ backend of a few lines.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import refgss
from refgss.children import python

ROOT = Path(__file__).parents[1]
INSTALLED = Path(refgss.__file__).parents[1]  # the folder of this refgss, with its backend
MODULE = """#include <Python.h>
#include "core/number.hpp"
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core"};
PyMODINIT_FUNC PyInit__core() { return number ? PyModule_Create(&module) : nullptr; }
"""
BROKEN = "const int number = ;\n"


@pytest.fixture
def project(tmp_path):
    """A project of the shape of this one that compiles in a second."""
    root = tmp_path / "project"
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "include/refgss.h"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / file)
    for file in ("__init__.py", "native/__init__.py", "native/interpreter.py", "native/missing.py"):
        (root / "refgss" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "refgss" / file, root / "refgss" / file)
    write(root / "spec/README.md", "")
    write(root / "csrc/core/number.hpp", "const int number = 1;\n")
    write(root / "csrc/core/number.cpp", '#include "core/number.hpp"\nint f() { return number; }\n')
    write(root / "csrc/bindings/module.cpp", MODULE)
    return root


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def setup(root, *arguments, **environment):
    """`python setup.py ARGUMENTS`, without what is set for the build of this checkout."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("REFGSS_")}
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        cwd=root,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )


def built(root, folder="build/lib*"):
    """Names of what the build left of the backend."""
    found = {p.name.partition(".")[0] for p in root.glob(f"{folder}/refgss/native/*")}
    return found & {"_core", "librefgss", "not_built"}


def importing_native(folder):
    """What `import refgss.native` in the folder says, of the working folder's refgss."""
    command = [sys.executable, "-c", "import refgss.native"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1]


def test_nothing_of_an_earlier_build_is_installed(project):
    assert setup(project, "build").returncode == 0
    assert built(project) == {"_core", "librefgss"}
    (lib,) = project.glob("build/lib*")
    write(lib / "refgss/moved_away.py", "")
    write(project / "build/bdist.some/wheel/refgss/moved_away.py", "")
    write(project / "csrc/core/number.hpp", BROKEN)
    failed = setup(project, "build")
    assert failed.returncode == 1
    assert built(project) == {"not_built"}
    assert not list(project.glob("build/**/moved_away.py"))
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "error: refgss: the C++ backend cannot be compiled: csrc/core/number.hpp:1:20: error: "
    )
    assert last.endswith(
        "`REFGSS_REQUIRE_NATIVE=0 pip install` installs refgss without it, on NumPy alone"
    )


def test_a_changed_header_is_compiled_in(project):
    assert setup(project, "build").returncode == 0
    (lib,) = project.glob("build/lib*")
    before = next(lib.glob("refgss/native/_core*")).read_bytes()
    header = project / "csrc/core/number.hpp"
    times = header.stat()
    header.write_text("const int number = 0;\n")
    os.utime(header, ns=(times.st_atime_ns, times.st_mtime_ns))  # as unpacking an archive does
    assert setup(project, "build").returncode == 0
    assert next(lib.glob("refgss/native/_core*")).read_bytes() != before


def test_a_failed_build_in_place_leaves_no_backend(project):
    assert setup(project, "build_ext", "--inplace").returncode == 0
    assert built(project, ".") == {"_core", "librefgss"}
    write(project / "csrc/core/number.hpp", BROKEN)
    assert setup(project, "build_ext", "--inplace").returncode == 1
    assert built(project, ".") == {"not_built"}
    write(project / "csrc/core/number.hpp", "const int number = 2;\n")
    assert setup(project, "build_ext", "--inplace").returncode == 0
    assert built(project, ".") == {"_core", "librefgss"}


def test_where_it_need_not_be_built_the_installation_says_why_it_is_not(project):
    write(project / "csrc/core/number.hpp", BROKEN)
    done = setup(project, "build", REFGSS_REQUIRE_NATIVE="0")
    why = "the C++ backend cannot be compiled: csrc/core/number.hpp:1:20: error: "
    assert done.returncode == 0
    assert f"refgss is installed on NumPy alone: {why}" in done.stderr
    (lib,) = project.glob("build/lib*")
    said = importing_native(lib)
    assert said.startswith(f"ImportError: refgss.native is not built: {why}")
    assert said.endswith("install refgss again")


@pytest.mark.parametrize("compiler", ["/nonexistent", "false"])
def test_without_a_compiler_refgss_is_installed_all_the_same(project, compiler):
    done = setup(project, "build_ext", "--inplace", CC=compiler, CXX=compiler)
    why = "there is no C++17 compiler: install g++ or clang++"
    assert done.returncode == 0
    assert f"refgss is installed on NumPy alone: {why}" in done.stderr
    again = f"run `pip install --editable .` in {project}"
    assert importing_native(project) == (
        f"ImportError: refgss.native is not built: {why}, and {again}"
    )
    required = {"CC": compiler, "CXX": compiler, "REFGSS_REQUIRE_NATIVE": "1"}
    assert setup(project, "build_ext", "--inplace", **required).returncode == 1


def test_the_source_archive_has_all_that_the_commands_of_the_readme_need(tmp_path):
    """Every file of this folder, but for what is made in it."""
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile"):
        shutil.copy(ROOT / file, tmp_path)
    folders = [p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")]
    made = ("build", "dist", "refgss.egg-info")
    for folder in [*set(folders) - set(made), ".ci"]:
        (tmp_path / folder).symlink_to(ROOT / folder)
    done = setup(tmp_path, "egg_info")
    assert done.returncode == 0, done.stderr
    listed = set((tmp_path / "refgss.egg-info/SOURCES.txt").read_text().splitlines())
    binary = re.compile(
        r"__pycache__|\.(so|dylib)$|refgss/native/(refgss\.h|not_built\.txt)$|\.hypothesis"
    )
    found = {
        str(Path(folder, p.relative_to(ROOT / folder)))
        for folder in [*set(folders) - set(made), ".ci"]
        for p in (ROOT / folder).rglob("*")
        if p.is_file() and not binary.search(str(p))
    }
    assert found <= listed, sorted(found - listed)
    assert "Makefile" in listed


@pytest.mark.parametrize("goal", ["demo", "test"])
@pytest.mark.parametrize("changed", ["include/refgss.h", "csrc/core/array.hpp", "setup.py"])
def test_make_builds_again_what_has_changed(tmp_path, goal, changed):
    for stamp in (".demo", ".test"):
        (tmp_path / stamp).touch()
    command = ["make", "-n", f"VENV={tmp_path}", goal]
    assert "pip install" not in subprocess.check_output(command, cwd=ROOT, text=True)
    assert "pip install" in subprocess.check_output([*command, "-W", changed], cwd=ROOT, text=True)


# --- a checkout whose backend is not built, in front of an installed package -------------------


@pytest.fixture(scope="module")
def unbuilt(tmp_path_factory):
    """A checkout as git makes it, as far as Python is concerned."""
    root = tmp_path_factory.mktemp("checkout")
    binary = shutil.ignore_patterns("_core.*", "librefgss.*", "refgss.h", "not_built.txt", "*.pyc")
    shutil.copytree(ROOT / "refgss", root / "refgss", ignore=binary)
    for folder in ("spec", "include"):
        (root / folder).symlink_to(ROOT / folder)
    shutil.copy(ROOT / "setup.py", root)
    return root


def run(folder, *command):
    """In the folder, with this refgss as the installed one."""
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(INSTALLED)},
        capture_output=True,
        text=True,
    )


def sentence(unbuilt):
    return (
        f"the source in {unbuilt}, where refgss.native is not built, hides the installed refgss "
        f"of {INSTALLED}: start Python in another folder, or run `pip install --editable .` in "
        f"{unbuilt}"
    )


def test_an_unbuilt_source_says_that_it_hides_the_installed_package(unbuilt):
    done = run(unbuilt, sys.executable, "-c", "from refgss import native")
    assert done.stderr.splitlines()[-1] == f"ImportError: {sentence(unbuilt)}"
    assert "ModuleNotFoundError" not in done.stderr


def test_numpy_is_never_used_in_silence(unbuilt):
    arguments = ("-m", "refgss", "generate", "def f", "--tokens", "3", "--temperature", "0")
    slow = run(unbuilt, sys.executable, *arguments)
    assert slow.returncode == 0
    notes = [line for line in slow.stderr.splitlines() if line.startswith("note:")]
    assert notes == [f"note: NumPy computes, slowly: {sentence(unbuilt)}"]
    assert slow.stdout == run(unbuilt, sys.executable, "-P", *arguments).stdout  # the text alone
    asked_for = run(unbuilt, sys.executable, *arguments, "--backend", "reference")
    assert "note:" not in asked_for.stderr
    library = "from refgss.model.session import default_backend; print(default_backend().__name__)"
    warned = run(unbuilt, sys.executable, "-c", library)
    assert warned.stdout == "refgss.reference\n"
    assert f"RuntimeWarning: NumPy computes, slowly: {sentence(unbuilt)}" in warned.stderr


def test_what_needs_the_native_backend_says_so_in_one_sentence(unbuilt):
    done = run(unbuilt, sys.executable, "-m", "refgss", "bench", "conv")
    assert done.returncode == 2
    assert done.stderr.startswith(f"refgss bench: {sentence(unbuilt)}")
    assert len(done.stderr.splitlines()) == 1
    info = run(unbuilt, sys.executable, "-m", "refgss", "info")
    assert f"native        not usable: {sentence(unbuilt)}" in info.stdout


def test_a_backend_of_another_python_is_told_from_none(project):
    write(project / "refgss/native/_core.cpython-30-none.so", "")
    assert importing_native(project).startswith(
        "ImportError: refgss.native was built for another Python, system or librefgss: run `pip"
    )


# --- children ----------------------------------------------------------------------------------


def test_children_import_the_package_of_their_parent(unbuilt, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(INSTALLED))
    monkeypatch.chdir(unbuilt)
    where = "import refgss, sys; print(refgss.__file__)"
    child = subprocess.run(python("-c", where), capture_output=True, text=True)
    assert Path(child.stdout.strip()).samefile(refgss.__file__)
    both = f"{where}; import subprocess; from refgss.children import python; "
    both += f"subprocess.run(python('-c', {where!r}))"
    said = run(unbuilt, sys.executable, "-u", "-c", both).stdout.splitlines()
    assert [Path(p) for p in said] == [unbuilt / "refgss/__init__.py"] * 2


def test_a_candidate_of_the_working_folder_is_found_all_the_same(unbuilt):
    write(unbuilt / "mine.py", "from refgss.reference import capabilities, gelu\n")
    checking = ("check", "--candidate", "python:mine", "--op", "gelu", "--profile", "f32")
    done = run(unbuilt, sys.executable, "-P", "-m", "refgss", *checking, "--fresh", "0")
    assert done.returncode == 0 and "conforms" in done.stdout, done.stderr


@pytest.mark.parametrize("folder", ["refgss", "benchmarks"])
def test_no_child_is_started_in_another_way(folder):
    """`python -I` is all right too: it looks into no folder of the caller."""
    for file in (ROOT / folder).rglob("*.py"):
        if file != ROOT / "refgss/children.py":
            assert not re.search(r"sys\.executable(?!, \"-I\")", file.read_text("utf-8")), file
