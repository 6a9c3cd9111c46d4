"""The architecture, held: which part may import which, and that every part says what it is.

Python files and stubs are read with ``ast``, Cython files line by line.  The arrows count for all of them, and for
imports inside functions and under TYPE_CHECKING as well; a cycle is one that would be met at run time.
"""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import taut

ROOT = Path(taut.__file__).parent
SUFFIXES = (".py", ".pyi", ".pyx", ".pxd")

# What each part of taut may import of the others; itself, always.
FOUNDATION = {"errors", "types"}
BELOW = {"drivers", "events", "protocol", "options", "_version"} | FOUNDATION
PUBLIC = {"taut"} | FOUNDATION  # the public face, for what is built on top of it
ARROWS: dict[str, set[str]] = {
    "types": set(),
    "errors": {"types"},
    "events": FOUNDATION,
    "options": {"types"},
    "_version": set(),
    "protocol": FOUNDATION,
    "drivers": {"protocol"} | FOUNDATION,
    "subprotocols": BELOW,
    "connection": BELOW | {"subprotocols"},
    "listener": BELOW | {"connection"},
    "client": BELOW | {"connection", "listener", "subprotocols"},
    "server": BELOW | {"connection", "listener", "subprotocols"},
    "sync": BELOW | {"connection", "listener", "subprotocols", "client", "server"},
    "proxy": BELOW | {"connection", "subprotocols", "client", "server"},
    "taut": BELOW | {"connection", "listener", "subprotocols", "client", "server", "sync"},
    "workers": PUBLIC | {"observability", "options", "server"},
    "cli": PUBLIC | {"observability", "proxy", "workers"},
    "hub": PUBLIC,
    "observability": PUBLIC,
    "integrations": PUBLIC,
    "__main__": {"cli"},
}
UNRESTRICTED = "testing"  # may import anything, and is imported by nothing

# What the protocol does without: I/O, time, chance, threads, loops, and a view of the world outside.
FORBIDDEN_IN_PROTOCOL = {
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "uuid",
    "weakref",
}
THIRD_PARTIES = {
    "protocol": {"httptools", "isal", "zlib_ng"},
    "drivers": {"aiofastnet"},
    "client": {"python_socks"},
    "server": {"jwt", "redis"},
    "subprotocols": {"msgspec", "orjson"},
    "workers": {"uvloop"},
    "cli": {"prompt_toolkit"},
    "observability": {"opentelemetry", "prometheus_client"},
}
COMPILED_AGAINST = {"cpython", "cython", "libc"}  # what Cython files cimport beside us
TYPING_ONLY = {"typing_extensions"}  # every type checker brings it along for stubs


@dataclass(frozen=True)
class Import:
    """One imported module, by its absolute name."""

    target: str
    line: int
    typing: bool  # under TYPE_CHECKING, or in a stub
    top: bool  # at the level of the module
    late: bool  # behind the first definition

    @property
    def outside(self) -> str | None:
        """The package it comes from, None if that is taut."""
        package = self.target.partition(".")[0]
        return None if package == "taut" else package

    @property
    def part(self) -> str:
        """The part of taut that it belongs to."""
        return part_of(self.target)


def sources() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*") if path.suffix in SUFFIXES)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) > 1 else "taut"


MODULES = {module_name(path) for path in sources()}


def resolve(path: Path, module: str | None, level: int, names: list[str]) -> Iterator[str]:
    """The modules that ``from module import names`` means, with ``level`` dots before its name."""
    if level:
        package = module_name(path).split(".")
        package = package if path.stem == "__init__" else package[:-1]
        package = package[: len(package) - level + 1]
        module = ".".join([*package, module] if module else package)
    assert module
    for name in names:
        yield f"{module}.{name}" if f"{module}.{name}" in MODULES else module


def python_imports(path: Path) -> Iterator[Import]:
    stub = path.suffix == ".pyi"

    def visit(node: ast.AST, typing: bool, top: bool, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, inside, top, top and late)
            elif isinstance(child, ast.ImportFrom):
                for target in resolve(path, child.module, child.level, [alias.name for alias in child.names]):
                    yield Import(target, child.lineno, inside, top, top and late)
            definition = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            late = late or (top and definition)
            yield from visit(child, inside, top and not definition, late)

    yield from visit(ast.parse(path.read_text()), stub, True, False)


CYTHON_IMPORT = re.compile(r"(\s*)(?:from\s+(\.*)([\w.]*)\s+c?import\s+(.+)|c?import\s+(.+))")
CYTHON_DEFINITION = re.compile(r"(?:async def|def|class|cdef class|cpdef|cdef(?! extern| enum| struct)[^=]*\()")


def cython_imports(path: Path) -> Iterator[Import]:
    text = re.sub(r'""".*?"""', lambda found: "\n" * found[0].count("\n"), path.read_text(), flags=re.DOTALL)
    text = re.sub(r"#.*", "", text)
    text = re.sub(r"\([^()]*\)", lambda found: found[0].replace("\n", " "), text)
    late = False
    for number, line in enumerate(text.splitlines(), 1):
        if found := CYTHON_IMPORT.fullmatch(line):
            indent, dots, module, names, modules = found.groups()
            top = not indent
            if modules:
                targets = [name.split()[0] for name in modules.split(",")]
            else:
                imported = [name.split()[0] for name in names.strip(" ()").split(",") if name.strip()]
                targets = list(resolve(path, module or None, len(dots), imported))
            for target in targets:
                yield Import(target, number, False, top, top and late)
        late = late or CYTHON_DEFINITION.match(line) is not None


@cache
def imports(path: Path) -> list[Import]:
    return list(python_imports(path) if path.suffix in (".py", ".pyi") else cython_imports(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


every_source = pytest.mark.parametrize("path", sources(), ids=name_of)


# ---- the arrows ----


def test_the_sources_are_read() -> None:
    """The rest of this file would be content with nothing at all."""

    def targets(name: str) -> set[str]:
        return {each.target for each in imports(ROOT / name)}

    assert {"taut.connection", "taut.drivers.transports", "socket"} <= targets("server/server.py") | targets(
        "server/connection.py"
    )
    assert {"taut.protocol.session", "taut.errors", "libc.stdint", "time"} <= targets("drivers/stream.pyx")
    assert {"taut.protocol.session", "libc.stdint"} <= targets("drivers/writing.pxd")
    assert {"taut.protocol.session", "typing"} <= targets("drivers/stream.pyi")
    assert {each.typing for each in imports(ROOT / "errors.py") if each.target == "taut.types"} == {True}


@every_source
def test_imports_follow_the_arrows(path: Path) -> None:
    part = part_of(module_name(path))
    if part == UNRESTRICTED:
        return
    assert part in ARROWS, f"say in {Path(__file__).name} what {part} may import"
    wrong = [each for each in imports(path) if not each.outside and each.part not in ARROWS[part] | {part}]
    assert not wrong


@every_source
def test_nothing_depends_on_what_is_for_tests(path: Path) -> None:
    part = part_of(module_name(path))
    assert part == UNRESTRICTED or UNRESTRICTED not in {each.part for each in imports(path) if not each.outside}


@every_source
def test_imports_from_outside(path: Path) -> None:
    part = part_of(module_name(path))
    allowed = set(sys.stdlib_module_names) | THIRD_PARTIES.get(part, set())
    if path.suffix in (".pyx", ".pxd"):
        allowed |= COMPILED_AGAINST
    if path.suffix == ".pyi":
        allowed |= TYPING_ONLY
    if part == "protocol":
        allowed -= FORBIDDEN_IN_PROTOCOL
    wrong = [each for each in imports(path) if each.outside and each.outside not in allowed]
    assert not wrong


def test_errors_import_types_only_for_type_checkers() -> None:
    assert all(each.typing for each in imports(ROOT / "errors.py") if not each.outside)


@every_source
def test_no_module_is_imported_by_a_name_made_up_at_run_time(path: Path) -> None:
    """Such an import would be an arrow that nobody sees; backends of zlib are named in full where they are listed, and
    what a command is to serve is the user's."""
    if path.suffix != ".py" or name_of(path) in ("protocol/deflate/backends.py", "workers/loading.py"):
        return
    called = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [name for name in called if name in ("__import__", "import_module", "importlib.import_module")]


def test_there_are_no_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources():
        module = module_name(path)
        used = {each.target for each in imports(path) if not each.outside and not each.typing}
        graph.setdefault(module, set()).update(used - {module})
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert order.index("taut.types") < order.index("taut.connection") < order.index("taut")


@every_source
def test_imports_stand_at_the_top(path: Path) -> None:
    assert not [each for each in imports(path) if each.late]


# ---- folders and files ----


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in sources()}
    assert len(folders) > 5
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_every_compiled_module_has_a_stub() -> None:
    compiled = [path for path in sources() if path.suffix == ".pyx"]
    assert len(compiled) > 5
    assert not [path for path in compiled if not path.with_suffix(".pyi").is_file()]
    assert (ROOT / "py.typed").is_file()


@every_source
def test_every_module_says_what_it_is(path: Path) -> None:
    if path.suffix == ".py":
        assert ast.get_docstring(ast.parse(path.read_text()))
    elif path.suffix == ".pyx":
        assert re.match(r'(#.*\n)*"""\w', path.read_text())


# ---- the public face ----


@cache
def definitions() -> dict[str, ast.AST | str | None]:
    """Where public names come from: the definition of a class or function, or the docstring below an assignment."""
    found: dict[str, ast.AST | str | None] = {}
    for path in sources():
        if path.suffix != ".py":
            continue
        body = ast.parse(path.read_text()).body
        for node, below in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found[node.name] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
                found.setdefault(node.target.id, str(below.value.value) if documented else None)  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize("name", [name for name in taut.__all__ if name != "__version__"])
def test_public_names_are_documented(name: str) -> None:
    thing = getattr(taut, name)
    definition = definitions().get(name)
    if isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        assert ast.get_docstring(definition)
    elif isinstance(definition, str):
        assert definition
    else:
        assert callable(thing)
        assert thing.__doc__, "neither here nor in a compiled module"


CLASSES = [getattr(taut, name) for name in taut.__all__ if isinstance(getattr(taut, name), type)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_public_methods_are_documented(kind: type) -> None:
    """Of those that are ours; a method of asyncio's or the standard library's is documented there."""
    undocumented = [
        name
        for owner in kind.__mro__
        if owner.__module__.startswith("taut.")
        for name, member in vars(owner).items()
        if not name.startswith("_")
        and (callable(member) or isinstance(member, property | staticmethod | classmethod))
        and not any(hasattr(base, name) for base in kind.__mro__ if not base.__module__.startswith("taut."))
        and not getattr(member, "__doc__", None)
    ]
    assert not undocumented


def test_names_are_sorted() -> None:
    assert list(taut.__all__) == sorted(taut.__all__)
    assert len(set(taut.__all__)) == len(taut.__all__)
