"""Builds the native modules; everything else about the package stands in pyproject.toml.

Two environment variables make another flavour of them:

TAUT_DEBUG=1     bounds checks, assertions and debug information, no optimisation
TAUT_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer; LD_PRELOAD has to name the compiler's libasan
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCE = Path("src")
DEBUG = os.environ.get("TAUT_DEBUG") == "1"
SANITIZE = os.environ.get("TAUT_SANITIZE") == "1"
FLAVOUR = "-".join(name for name, chosen in [("debug", DEBUG), ("sanitize", SANITIZE)] if chosen) or "release"
GENERATED = Path("build", "cython", FLAVOUR)


def compiler_arguments() -> tuple[list[str], list[str]]:
    """What the C compiler and the linker are told, beyond what Python tells them."""
    if sys.platform == "win32":
        return ["/Od", "/Zi"] if DEBUG else ["/O2"], []
    compile_args = ["-O0", "-g"] if DEBUG else ["-O3"]
    # The kernels read and write bytes a machine word at a time.
    compile_args.append("-fno-strict-aliasing")
    link_args: list[str] = []
    if SANITIZE:
        sanitizers = ["-fsanitize=address,undefined"]
        compile_args += [*sanitizers, "-fno-omit-frame-pointer", "-g"]
        link_args += sanitizers
    return compile_args, link_args


def native_modules() -> list[Extension]:
    """One extension for every .pyx file, named after its place in the package."""
    compile_args, link_args = compiler_arguments()
    headers = sorted(str(path) for path in SOURCE.rglob("*.h"))
    return [
        Extension(
            ".".join(path.relative_to(SOURCE).with_suffix("").parts),
            [str(path)],
            include_dirs=[str(SOURCE / "taut" / "protocol")],
            depends=headers,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
            undef_macros=["NDEBUG"] if DEBUG else [],
        )
        for path in sorted(SOURCE.rglob("*.pyx"))
    ]


class BuildExt(build_ext):
    """Builds everything anew when what is there is of another flavour, which time stamps do not tell."""

    def run(self) -> None:
        marker = Path("build") / f"flavour-{sys.implementation.cache_tag}"
        if marker.exists() and marker.read_text() != FLAVOUR:
            self.force = True
        super().run()
        marker.parent.mkdir(exist_ok=True)
        marker.write_text(FLAVOUR)


def outdated(generated: Path) -> bool:
    """Whether C files are there that were generated before this file, and with it a compiler directive, changed."""
    changed = Path(__file__).stat().st_mtime
    return any(path.stat().st_mtime < changed for path in generated.rglob("*.c"))


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=cythonize(
        native_modules(),
        build_dir=str(GENERATED),
        force=outdated(GENERATED),
        include_path=[str(SOURCE)],
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "auto_pickle": False,
            "autotestdict": False,
        },
    ),
    options={"build_ext": {"parallel": 2}},
)
