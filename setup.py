"""The C++ backend: librefgss (the C ABI of include/refgss.h) and refgss.native._core on top of it.

Every file of csrc/kernels is compiled once per instruction set and chosen at run time, those of
csrc/kernels/amx for AMX alone; the rest is compiled once.  Without a C++17 compiler the
installation succeeds without the backend.

    REFGSS_REQUIRE_NATIVE=1   a failure to build the backend is an error
    REFGSS_SANITIZE=NAMES     builds with -fsanitize=NAMES (address,undefined or thread)
"""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from pybind11.setup_helpers import has_flag
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
LIBRARY = "librefgss.dylib" if sys.platform == "darwin" else "librefgss.so"
HEADER = "refgss.h"

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
    names = os.environ.get("REFGSS_SANITIZE")
    return [f"-fsanitize={names}", "-fno-omit-frame-pointer", "-g", "-O1"] if names else ["-g0"]


class BuildNative(build_ext):
    """Compiles librefgss in parallel, then the extension, and puts them side by side."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).parent
        target.mkdir(parents=True, exist_ok=True)
        flags = COMMON + sanitizers()
        jobs = [
            (path, "once", [])
            for path in sorted(HERE.glob("csrc/*/*.cpp"))
            if path.parent.name != "kernels"
        ]
        for isa, isa_flags in INSTRUCTION_SETS.items():
            if isa == "amx" and not has_flag(self.compiler, "-mamx-bf16"):
                continue  # a compiler before gcc 11 or clang 12
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
                macros=[("REFGSS_API", '__attribute__((visibility("default")))')],
                extra_postargs=flags + extra,
                depends=[str(p) for p in HERE.glob("csrc/**/*.hpp")] + ["include/refgss.h"],
            )
            return made

        with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
            objects = list(workers.map(compile_one, jobs))
        bindings = [o for o in objects if Path(o).parent.name == "bindings"]
        library = [o for o in objects if o not in bindings]
        mac = sys.platform == "darwin"
        name = ["-install_name", f"@rpath/{LIBRARY}"] if mac else [f"-Wl,-soname,{LIBRARY}"]
        rpath = "@loader_path" if mac else "$ORIGIN"
        self.compiler.link_shared_object(
            library,
            str(target / LIBRARY),
            extra_postargs=[*name, "-pthread", *sanitizers()],
            target_lang="c++",
        )
        self.compiler.link_shared_object(
            bindings,
            self.get_ext_fullpath(ext.name),
            extra_postargs=[str(target / LIBRARY), f"-Wl,-rpath,{rpath}", *sanitizers()],
            target_lang="c++",
        )
        shutil.copy(HERE / "include" / HEADER, target / HEADER)

    def companions(self, ext: Extension) -> list[Path]:
        """The library and the header, as they are built next to the extension."""
        folder = Path(self.build_lib, *ext.name.split(".")[:-1])
        return [folder / LIBRARY, folder / HEADER]

    def get_outputs(self) -> list[str]:
        files = [str(file) for ext in self.extensions for file in self.companions(ext)]
        return super().get_outputs() + ([] if self.inplace else files)

    def copy_extensions_to_source(self) -> None:  # build_ext --inplace and editable installs
        super().copy_extensions_to_source()
        for ext in self.extensions:
            for file in filter(Path.exists, self.companions(ext)):
                shutil.copy(file, HERE.joinpath(*ext.name.split(".")[:-1]))


setup(
    # the standard travels with the package: spec/ and include/ are installed inside it
    packages=[*find_packages(include=["refgss*"]), "refgss.spec", "refgss.include"],
    package_dir={"refgss.spec": "spec", "refgss.include": "include"},
    package_data={
        "refgss": ["py.typed", "**/*.html", "**/*.toml", "model/*.safetensors"],
        "refgss.spec": ["*.md", "*.json", "schemas/*.json", "vectors/*"],
        "refgss.include": ["*.h"],
    },
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        Extension(
            "refgss.native._core",
            sources=["csrc/bindings/module.cpp"],
            depends=["include/refgss.h"],
            include_dirs=[pybind11.get_include()],
            language="c++",
            optional=os.environ.get("REFGSS_REQUIRE_NATIVE") != "1",
        )
    ],
)
