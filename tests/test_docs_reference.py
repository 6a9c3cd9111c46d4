"""What the documentation says about names, signatures, defaults and limits is what the code says.

In ``reference.md`` a heading of the third level is a public name, one of the fourth level a method, and a stub below it
is its signature.  Attributes are the first cells of tables.
"""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pytest
from pages import BLOCKS, DOCS, ROOT, named, rows, section

import taut
import taut.testing
from taut.protocol.deflate import ContextPool
from taut.protocol.http1 import RequestReader, ResponseReader

# -- the reference ---------------------------------------------------------------------------------------------

REFERENCE = DOCS / "reference.md"
CLASSES = {name: value for name in taut.__all__ if isinstance(value := getattr(taut, name), type) and name[0].isupper()}


@dataclass
class Entry:
    """What the reference says under a heading of the third level."""

    lines: list[str]
    stubs: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]
    members: list[str]
    attributes: list[str]


def read_reference() -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    entry, member, code = Entry([], {}, [], []), "", None
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if code is not None:
            if line == "```":
                (stub,) = ast.parse(code).body
                assert isinstance(stub, ast.FunctionDef | ast.AsyncFunctionDef)
                entry.stubs[member] = stub
                code = None
            else:
                code += line + "\n"
        elif line == "```python":
            code = ""
        elif line.startswith("### "):
            member, entry = "", Entry([], {}, [], [])
            entries[line.removeprefix("### ").replace("\\", "")] = entry
        elif line.startswith("#### "):
            member = line.removeprefix("#### ").partition(".")[2]
            if member:
                entry.members.append(member)
        elif line.startswith("## "):
            member, entry = "", Entry([], {}, [], [])
            entries[line] = entry
        else:
            entry.lines.append(line)
    for entry in entries.values():
        entry.attributes = [name for row in rows(entry.lines) for name in named(row[0])]
    return entries


ENTRIES = read_reference()
NOT_API = {named(row[0])[0]: set(named(row[1])) for row in rows(ENTRIES["## Not part of the API"].lines)}


def public(value: type) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_the_reference_has_every_public_name_and_no_other() -> None:
    documented = {name for name in ENTRIES if not name.startswith("## ")}
    assert {name for name in documented if not name.startswith("testing.")} == set(taut.__all__)
    assert {name.removeprefix("testing.") for name in documented if name.startswith("testing.")} == set(
        taut.testing.__all__
    )


@pytest.mark.parametrize(
    "name", ["Connection", "ServerConnection", "Server", "Listener", "CloseInfo", "Stats", "Request", "Response"]
)
def test_the_reference_has_every_public_attribute(name: str) -> None:
    entry, value = ENTRIES[name], CLASSES[name]
    documented = set(entry.members) | set(entry.attributes)
    apart = NOT_API.get(name, set())
    inherited = public(taut.Connection) if value is taut.ServerConnection else set()
    assert not documented & apart
    missing = public(value) - documented - apart - inherited
    assert not missing, f"reference.md neither documents these nor says that they are not part of the API: {missing}"
    assert documented | apart <= public(value), "reference.md has attributes that do not exist"


def test_the_reference_has_what_headers_add_to_a_mapping() -> None:
    own = {name for name in vars(taut.Headers) if not name.startswith("_")}
    assert set(ENTRIES["Headers"].members) == own
    text = " ".join(ENTRIES["Headers"].lines)
    assert public(taut.Headers) - own <= set(named(text))


@pytest.mark.parametrize("name", ["ConnectionOptions", "DeflateOptions"])
def test_the_reference_has_every_option(name: str) -> None:
    assert ENTRIES[name].attributes == [field.name for field in fields(CLASSES[name])]


@pytest.mark.parametrize("name", ["CloseCode", "Opcode", "State", "Initiator"])
def test_the_reference_has_every_member(name: str) -> None:
    kind = CLASSES[name]
    assert issubclass(kind, enum.Enum)
    written = {named(row[0])[0]: ast.literal_eval(row[1]) for row in rows(ENTRIES[name].lines)}
    assert written == {member.name: member.value for member in kind}


@pytest.mark.parametrize(
    "name", [name for name, value in CLASSES.items() if issubclass(value, taut.WebSocketException)]
)
def test_the_reference_has_the_data_of_every_exception(name: str) -> None:
    kind: Any = CLASSES[name]
    values: dict[str, Any] = {
        "info": taut.CloseInfo(taut.Initiator.LOCAL, 1000),
        "response": taut.Response(404, "Not Found"),
    }
    parameters = inspect.signature(kind).parameters.values() if kind is not taut.WebSocketException else ()
    exc = kind(*(values.get(p.name, 1) for p in parameters if p.default is p.empty))
    data = set(vars(exc)) | {
        key for base in kind.__mro__ for key, value in vars(base).items() if isinstance(value, property)
    }
    bases = [base.__name__ for base in kind.__mro__ if base.__name__ in CLASSES]
    assert {key for key in data if not key.startswith("_")} == {
        key for base in bases for key in ENTRIES[base].attributes
    }


def stubs() -> Iterator[Any]:
    for title, entry in ENTRIES.items():
        for member, stub in entry.stubs.items():
            yield pytest.param(title, member, stub, id=f"{title}.{member}" if member else title)


@pytest.mark.parametrize(("title", "member", "stub"), list(stubs()))
def test_a_signature_is_that_of_the_code(title: str, member: str, stub: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    module = taut.testing if title.startswith("testing.") else taut
    name = title.removeprefix("testing.")
    value = getattr(module, name)
    value = getattr(value, member) if member else value
    assert stub.name == (member or name)
    scope = {"Headers": taut.Headers, "__version__": taut.__version__}
    exec(compile(ast.Module([_without_annotations(stub)], []), str(REFERENCE), "exec"), scope)
    written, actual = (
        [(p.name, p.kind, _comparable(p)) for p in inspect.signature(each).parameters.values()]
        for each in (scope[stub.name], value)
    )
    assert written == actual
    waits = title == "Connection" and member in ("recv", "send")  # awaitables that are no coroutines
    gives = member == "recv_streaming"  # an asynchronous generator
    if member:
        assert isinstance(stub, ast.AsyncFunctionDef) == (waits or gives or inspect.iscoroutinefunction(value))


def _without_annotations(stub: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.stmt:
    arguments = stub.args
    for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
        if each is not None:
            each.annotation = None
    stub.returns = None
    return stub


def _comparable(parameter: inspect.Parameter) -> object:
    """A default; that of a field which is made anew each time stands for an empty one."""
    default = parameter.default
    return taut.Headers() if repr(default) == "<factory>" else default


def test_every_alias_is_as_the_reference_says() -> None:
    assert named(ENTRIES["Data"].lines[1])[0] == str(taut.Data)
    assert named(ENTRIES["HeadersLike"].lines[1])[0] == taut.HeadersLike


# -- limits ----------------------------------------------------------------------------------------------------

LIMITS = DOCS / "limits.md"


def defaults(of: Any) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(of).parameters.values() if p.default is not p.empty}


def test_the_defaults_of_options_are_as_the_table_says() -> None:
    written = {named(row[0])[0]: ast.literal_eval(named(row[1])[0]) for row in rows(section(LIMITS, "Options"))}
    flags = {"strict_pongs", "cancel_on_close"}
    for flag in flags:
        assert f"`{flag}` (`{defaults(taut.ConnectionOptions)[flag]}`)" in "\n".join(section(LIMITS, "Options"))
    options = defaults(taut.ConnectionOptions)
    on_both = {name: defaults(taut.serve)[name] for name in ("open_timeout", "max_head", "max_headers")}
    assert on_both == {name: defaults(taut.connect)[name] for name in on_both}
    expected = {name: value for name, value in options.items() if name not in flags} | on_both
    assert written == expected | {"backlog": defaults(taut.serve)["backlog"]}


def test_the_fixed_limits_are_as_the_table_says() -> None:
    connection, opening = (importlib.import_module(f"taut.{name}") for name in ("connection", "server.opening"))
    session, sending = (
        (ROOT / "src" / "taut" / name).read_text() for name in ("protocol/session.pyx", "drivers/sending.pxd")
    )

    def constant(source: str, name: str) -> int:
        (value,) = re.findall(rf"^ +{name} = (\d+)$", source, re.MULTILINE)
        return int(value)

    control = constant(session, "MAX_CONTROL")
    assert defaults(RequestReader)["max_line"] == defaults(ResponseReader)["max_line"]
    assert [ast.literal_eval(named(row[1])[0]) for row in rows(section(LIMITS, "Fixed limits"))] == [
        defaults(RequestReader)["max_line"],
        defaults(ResponseReader)["max_body"],
        control,
        control - 2,
        connection._GRACE,
        connection._LINGER,
        opening._LINGER,
        constant(sending, "BUDGET"),
        ContextPool().size,
    ]


def test_the_defaults_in_other_tables_are_those_of_the_code() -> None:
    deflate = defaults(taut.DeflateOptions)
    for row in rows(section(DOCS / "compression.md", "Options")):
        for name in named(row[0]):
            assert ast.literal_eval(row[1]) == deflate.pop(name)
    assert deflate == {}
    sizes = {name: int(row[2].split()[0]) * 1024 ** " KM".index(row[2].split()[1][0])
             for row in rows(section(DOCS / "messages.md", "Backpressure"))
             for name in named(row[1])}  # fmt: skip
    assert sizes == {
        name: defaults(taut.ConnectionOptions)[name] for name in ("read_limit", "write_limit", "outbox_limit")
    }


# -- errors ----------------------------------------------------------------------------------------------------


def test_the_tree_of_exceptions_is_that_of_the_code() -> None:
    (tree,) = [block.text for block in BLOCKS if block.page.name == "errors.md" and "├──" in block.text]
    written: dict[str, str | None] = {}
    path: list[str] = []
    for line in tree.splitlines():
        found = re.match(r"([│├└─ ]*)(\w+)", line)
        assert found is not None
        depth = len(found[1]) // 4
        del path[depth:]
        written[found[2]] = path[-1] if path else None
        path.append(found[2])
    kinds = {name: kind for name, kind in CLASSES.items() if issubclass(kind, taut.WebSocketException)}
    assert written == {
        name: next((base.__name__ for base in kind.__mro__[1:] if base.__name__ in kinds), None)
        for name, kind in kinds.items()
    }


# -- the command -----------------------------------------------------------------------------------------------


OPTION = r"--[a-z][a-z-]*"


@pytest.mark.parametrize("command", ["serve", "connect", "demo"])
def test_the_page_of_the_command_has_its_options_and_their_defaults(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taut", command, "--help"], check=True, capture_output=True, text=True, timeout=30
    )
    described = " ".join(done.stdout.partition("options:")[2].split())
    options = set(re.findall(OPTION, described)) - {"--help"}
    page = (DOCS / "command.md").read_text(encoding="utf-8")
    common = set(re.findall(OPTION, page.partition("## taut serve")[0]))
    text = page.partition(f"## taut {command}\n")[2].partition("\n## ")[0]
    assert set(re.findall(OPTION, text)) | common - {"--help"} == options
    defaults_there = dict(re.findall(rf"({OPTION}) [A-Z]+ [^()]*\(default: ([^)]+)\)", described))
    defaults_here = {re.findall(OPTION, row[0])[0]: row[1] for row in rows(text.splitlines()) if row[1]}
    if command != "demo":  # which has no table
        assert defaults_here == defaults_there
