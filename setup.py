"""The C++ backend: librefgss (the C ABI of include/refgss.h) and refgss.native._core on top of it.

Every file of csrc/kernels is compiled once per instruction set and chosen at run time, those of
csrc/kernels/amx for AMX alone; the rest is compiled once.  Every build compiles everything, and
nothing of an earlier build is installed.

Where the backend is not built, refgss/native/not_built.txt says why.  Without a C++17 compiler the
installation succeeds; a compiler that cannot compile the backend makes it fail, with the reason as
its last line.

    REFGSS_REQUIRE_NATIVE=1   a missing compiler is an error too
    REFGSS_REQUIRE_NATIVE=0   nothing is: refgss is installed without the backend where it must be
    REFGSS_SANITIZE=NAMES     builds with -fsanitize=NAMES (address,undefined or thread), to AVX2
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from pybind11.setup_helpers import has_flag
from setuptools import Extension, find_packages, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError

HERE = Path(__file__).parent
LIBRARY = "librefgss.dylib" if sys.platform == "darwin" else "librefgss.so"
HEADER = "refgss.h"
NOT_BUILT = "not_built.txt"
WITHOUT = "`REFGSS_REQUIRE_NATIVE=0 pip install` installs refgss without it, on NumPy alone"

# -ffp-contract=off: a product and a sum are fused where the code says so, and nowhere else
COMMON = ["-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
COMMON += ["-fvisibility=hidden", "-fvisibility-inlines-hidden", "-fPIC", "-Wall", "-Wextra"]
COMMON += ["-Wno-psabi"]  # vectors cross no boundary of the library
# the baseline comes first: where two objects share an inline function, the linker keeps the first
INSTRUCTION_SETS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"]
    INSTRUCTION_SETS["avx512"] += ["-mprefer-vector-width=512"]
    INSTRUCTION_SETS["amx"] = [*INSTRUCTION_SETS["avx512"], "-mavx512bf16", "-mamx-tile"]
    INSTRUCTION_SETS["amx"] += ["-mamx-bf16"]


def sanitizers() -> list[str]:
    """A build under sanitizers has no instruction set beyond AVX2: it takes long enough."""
    names = os.environ.get("REFGSS_SANITIZE")
    if not names:
        return ["-g0"]
    return [f"-fsanitize={names}", "-fno-omit-frame-pointer", "-g1", "-O1", "-DREFGSS_UP_TO_AVX2"]


def native_files(package: Path) -> list[Path]:
    """What a build leaves in refgss/native: extension, library and header, or why there is none."""
    return [*package.glob("_core.*"), *(package / f for f in (LIBRARY, HEADER, NOT_BUILT))]


def run_compiler(command: list[str]) -> None:
    """Runs a compiler or linker.  Raises CompileError with the first error that it prints."""
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="replace",
        )
    except OSError as e:
        raise CompileError(f"{command[0]} cannot be run: {e.strerror}") from e
    sys.stderr.write(done.stderr)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if re.search(r"\berror\b", line)]
        ended = f"{command[0]} ended with status {done.returncode}"
        raise CompileError(errors[0].strip() if errors else ended)


class BuildFromNothing(build):
    """pip installs all that lies in build/, so what earlier builds left there goes first."""

    def run(self) -> None:
        for folder in (Path(self.build_lib), *Path(self.build_base).glob("bdist.*")):
            shutil.rmtree(folder, ignore_errors=True)
        super().run()


class BuildNative(build_ext):
    """Compiles librefgss in parallel, then the extension, and puts them side by side."""

    def run(self) -> None:
        self.failure: CCompilerError | None = None
        super().run()
        required = os.environ.get("REFGSS_REQUIRE_NATIVE")
        if self.failure and (required == "1" or (self.has_compiler and required != "0")):
            raise CompileError(f"refgss: {self.failure}; {WITHOUT}")
        if self.failure:
            warnings.warn(f"refgss is installed on NumPy alone: {self.failure}", stacklevel=2)

    def build_extension(self, ext: Extension) -> None:
        package = Path(self.get_ext_fullpath(ext.name)).parent
        package.mkdir(parents=True, exist_ok=True)
        for file in native_files(package):
            file.unlink(missing_ok=True)
        self.compiler.spawn = self.compiler.call = run_compiler  # by its newer and older name
        self.has_compiler = has_flag(self.compiler, "-std=c++17")
        try:
            if not self.has_compiler:
                raise CompileError("there is no C++17 compiler: install g++ or clang++")
            self.link(ext, package, self.compile_all(ext))
            shutil.copy(HERE / "include" / HEADER, package / HEADER)
        except CCompilerError as e:
            what = "the C++ backend cannot be compiled: " if self.has_compiler else ""
            self.failure = CompileError(f"{what}{e}")
            (package / NOT_BUILT).write_text(f"{self.failure}\n", "utf-8")

    def compile_all(self, ext: Extension) -> list[str]:
        """The objects, in the order in which they are linked."""
        flags = COMMON + sanitizers()
        jobs = [
            (path, "once", [])
            for path in sorted(HERE.glob("csrc/*/*.cpp"))
            if path.parent.name != "kernels"
        ]
        for isa, isa_flags in INSTRUCTION_SETS.items():
            if isa == "amx" and not has_flag(self.compiler, "-mamx-bf16"):
                continue  # a compiler before gcc 11 or clang 12
            if isa in ("avx512", "amx") and "-DREFGSS_UP_TO_AVX2" in flags:
                continue
            flags += ["-DREFGSS_AMX"] if isa == "amx" else []
            kernels = sorted((HERE / "csrc/kernels").glob("amx/*.cpp" if isa == "amx" else "*.cpp"))
            jobs += [(path, isa, [*isa_flags, f"-DREFGSS_ISA={isa}"]) for path in kernels]

        def compile_one(job: tuple[Path, str, list[str]]) -> str:
            path, isa, extra = job
            python = ext.include_dirs if path.parent.name == "bindings" else []
            (made,) = self.compiler.compile(
                [str(path.relative_to(HERE))],
                output_dir=str(Path(self.build_temp) / isa),
                include_dirs=["include", "csrc", *python],
                macros=[
                    ("REFGSS_API", '__attribute__((visibility("default")))'),
                    ("REFGSS_VERSION", f'"{self.distribution.get_version()}"'),
                ],
                extra_postargs=flags + extra,
            )
            return made

        with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
            running = [workers.submit(compile_one, job) for job in jobs]
            try:
                return [job.result() for job in running]
            except CCompilerError:
                workers.shutdown(cancel_futures=True)  # the first error is enough
                raise

    def link(self, ext: Extension, package: Path, objects: list[str]) -> None:
        bindings = [o for o in objects if Path(o).parent.name == "bindings"]
        library = [o for o in objects if o not in bindings]
        mac = sys.platform == "darwin"
        name = ["-install_name", f"@rpath/{LIBRARY}"] if mac else [f"-Wl,-soname,{LIBRARY}"]
        rpath = "@loader_path" if mac else "$ORIGIN"
        self.compiler.link_shared_object(
            library,
            str(package / LIBRARY),
            extra_postargs=[*name, "-pthread", *sanitizers()],
            target_lang="c++",
        )
        self.compiler.link_shared_object(
            bindings,
            self.get_ext_fullpath(ext.name),
            extra_postargs=[str(package / LIBRARY), f"-Wl,-rpath,{rpath}", *sanitizers()],
            target_lang="c++",
        )

    def get_outputs(self) -> list[str]:
        built = native_files(Path(self.build_lib, "refgss/native"))
        return [] if self.inplace else [str(file) for file in built if file.exists()]

    def copy_extensions_to_source(self) -> None:  # build_ext --inplace and editable installs
        for old in native_files(HERE / "refgss/native"):
            old.unlink(missing_ok=True)
        for new in filter(Path.exists, native_files(Path(self.build_lib, "refgss/native"))):
            shutil.copy(new, HERE / "refgss/native")


setup(
    # the standard travels with the package: spec/ and include/ are installed inside it
    packages=[*find_packages(include=["refgss*"]), "refgss.spec", "refgss.include"],
    package_dir={"refgss.spec": "spec", "refgss.include": "include"},
    include_package_data=False,  # of spec/ and include/ what follows, and nothing else
    package_data={
        "refgss": [
            "py.typed",
            "**/*.html",
            "**/*.toml",
            "model/*.safetensors",
            "**/templates/gss.*",
        ],
        "refgss.spec": ["*.md", "*.json", "schemas/*.json", "vectors/*"],
        "refgss.include": ["*.h"],
    },
    cmdclass={"build": BuildFromNothing, "build_ext": BuildNative},
    ext_modules=[
        Extension(
            "refgss.native._core",
            sources=["csrc/bindings/module.cpp"],
            depends=["include/refgss.h"],
            include_dirs=[pybind11.get_include()],
            language="c++",
        )
    ],
)
