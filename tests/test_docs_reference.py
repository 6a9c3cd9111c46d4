"""What the documentation says about names, signatures, defaults and limits is what the code says.

In ``reference.md`` a heading of the third level is a public name, one of the fourth level a method, and a stub below it
is its signature.  Arguments are the first cells of tables whose header says ``argument``, attributes those of tables
whose header says ``attribute``.
"""

from __future__ import annotations

import ast
import enum
import inspect
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pytest
from pages import BLOCKS, DOCS, named, rows, tables
from public import CLASSES, CONNECT_DEFAULTS

import taut
import taut.observability
import taut.proxy
import taut.sync
import taut.testing
import taut.workers
from taut.client.options import ConnectArguments
from taut.options import CONNECTION_OPTIONS

# -- the reference ---------------------------------------------------------------------------------------------

REFERENCE = DOCS / "reference.md"


@dataclass
class Entry:
    """What the reference says under a heading of the third level."""

    lines: list[str]
    stubs: dict[str, ast.FunctionDef | ast.AsyncFunctionDef]
    members: list[str]
    arguments: list[str]
    attributes: list[str]


def read_reference() -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    entry, member, code = Entry([], {}, [], [], []), "", None
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
            member, entry = "", Entry([], {}, [], [], [])
            entries[line.removeprefix("### ").replace("\\", "")] = entry
        elif line.startswith("#### "):
            of, dot, member = line.removeprefix("#### ").rpartition(".")
            if dot:
                assert entries[of] is entry
                entry.members.append(member)
        elif line.startswith("## "):
            member, entry = "", Entry([], {}, [], [], [])
            entries[line] = entry
        else:
            entry.lines.append(line)
    for entry in entries.values():
        for (header, *_), *described in tables(entry.lines):
            names = [name for row in described for name in named(row[0])]
            if header == "argument":
                entry.arguments += names
            elif header == "attribute":
                entry.attributes += names
    return entries


ENTRIES = read_reference()
MODULES = {
    "": taut,
    "observability.": taut.observability,
    "proxy.": taut.proxy,
    "sync.": taut.sync,
    "testing.": taut.testing,
    "workers.": taut.workers,
}
"""By what stands before their names in the reference."""
NOT_API = {named(row[0])[0]: set(named(row[1])) for row in rows(ENTRIES["## Not part of the API"].lines)}


def public(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_the_reference_has_every_public_name_and_no_other() -> None:
    documented = {name for name in ENTRIES if not name.startswith("## ")}
    assert documented == {f"{prefix}{name}" for prefix, module in MODULES.items() for name in module.__all__}


# What is made by taut and looked at, or used, by a program.
OBJECTS = [
    "Connection",
    "ServerCertificate",
    "ServerConnection",
    "Server",
    "Router",
    "Events",
    "Listener",
    "Middleware",
    "Subprotocol",
    "Session",
    "Pool",
]
RECORDS = [
    "Attempt",
    "BroadcastResult",
    "CloseInfo",
    "Frame",
    "Loss",
    "PoolStats",
    "ProxyHeader",
    "Request",
    "Response",
    "Route",
    "ServerStats",
    "SessionStats",
    "Stats",
]
OPTIONS = ["Ack", "ConnectionOptions", "DeflateOptions", "OfflineQueue", "RateLimits", "ReconnectPolicy", "RedisLimits"]


@pytest.mark.parametrize("name", [*OBJECTS, *RECORDS])
def test_the_reference_has_every_public_attribute(name: str) -> None:
    entry, value = ENTRIES[name], CLASSES[name]
    documented = set(entry.members) | set(entry.attributes)
    apart = NOT_API.get(name, set())
    inherited = public(taut.Connection) if value is taut.ServerConnection else set[str]()
    assert not documented & apart
    missing = public(value) - documented - apart - inherited
    assert not missing, f"reference.md neither documents these nor says that they are not part of the API: {missing}"
    assert documented | apart <= public(value), "reference.md has attributes that do not exist"


def test_the_reference_has_every_public_attribute_of_the_blocking_api() -> None:
    """Read from live objects: unlike those of asyncio, they have attributes that their classes do not show."""
    handled: queue.SimpleQueue[taut.sync.ServerConnection] = queue.SimpleQueue()

    def handler(ws: taut.sync.ServerConnection) -> None:
        handled.put(ws)
        ws.wait_closed()

    with taut.sync.serve(handler, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever).start()
        with taut.sync.connect(f"ws://127.0.0.1:{server.port}/") as ws:
            objects: dict[str, object] = {"ServerConnection": handled.get(timeout=10), "Connection": ws}
            objects |= {"Pong": ws.ping(), "Server": type(server)}
            for name, value in objects.items():
                entry = ENTRIES[f"sync.{name}"]
                documented = {*entry.members, *entry.attributes, *NOT_API.get(f"sync.{name}", ())}
                inherited = public(ws) if name == "ServerConnection" else set[str]()
                assert public(value) - inherited == documented - inherited, name


def test_the_reference_has_what_headers_add_to_a_mapping() -> None:
    own = {name for name in vars(taut.Headers) if not name.startswith("_")}
    assert set(ENTRIES["Headers"].members) == own
    text = " ".join(ENTRIES["Headers"].lines)
    assert public(taut.Headers) - own <= set(named(text))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_reference_has_every_option(name: str) -> None:
    assert ENTRIES[name].attributes == [field.name for field in fields(CLASSES[name])]


def test_the_reference_has_every_option_of_connect() -> None:
    table = [row for row in rows(ENTRIES["connect"].lines) if len(row) == 3]
    written = {named(row[0])[0]: eval(named(row[1])[0], {"__version__": taut.__version__}) for row in table}
    assert written == CONNECT_DEFAULTS
    assert CONNECT_DEFAULTS.keys() | CONNECTION_OPTIONS - {"cancel_on_close"} == ConnectArguments.__annotations__.keys()


def test_every_public_class_is_held_to_the_code_by_one_of_these_tests() -> None:
    errors = {name for name, value in CLASSES.items() if issubclass(value, taut.WebSocketException)}
    apart = {"ClientConnection", "JSONSubprotocol", "Headers"}
    assert set(CLASSES) == {*OBJECTS, *RECORDS, *OPTIONS, *MEMBERS, *errors, *apart}


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.arguments])
def test_the_reference_has_every_argument_of_a_signature(name: str) -> None:
    """With the options of ``connect`` in the place of those that are not in the signature."""
    stub = ENTRIES[name].stubs[""].args
    arguments = [each.arg for each in (*stub.args, *stub.kwonlyargs, stub.kwarg) if each is not None]
    assert ENTRIES[name].arguments == arguments


MEMBERS = ["CloseCode", "Opcode", "SendStatus", "State", "SessionState", "Initiator"]


@pytest.mark.parametrize("name", MEMBERS)
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
        "proxy": "http://localhost",
        "uri": "ws://localhost",
    }
    # The others are made without any arguments of their own.
    bare = (taut.WebSocketException, taut.ConnectError, taut.PoolClosed)
    parameters = () if kind in bare else inspect.signature(kind).parameters.values()
    needed = [p for p in parameters if p.default is p.empty]
    by_name = {p.name: values.get(p.name, 1) for p in needed if p.kind is p.KEYWORD_ONLY}
    exc = kind(*(values.get(p.name, 1) for p in needed if p.kind is not p.KEYWORD_ONLY), **by_name)
    data = set(vars(exc)) | {
        key for base in kind.__mro__ for key, value in vars(base).items() if isinstance(value, property | tuple)
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
    prefix, dot, name = title.rpartition(".")
    value = getattr(MODULES[prefix + dot], name)
    value = getattr(value, member) if member else value
    assert stub.name == (member or name)
    scope: dict[str, Any] = {name: getattr(taut, name) for name in taut.__all__}
    exec(compile(ast.Module([_without_annotations(stub)], []), str(REFERENCE), "exec"), scope)
    written, actual = (
        [(p.name, p.kind, _comparable(p)) for p in inspect.signature(each).parameters.values()]
        for each in (scope[stub.name], value)
    )
    assert written == actual
    waits = title == "Connection" and member in ("recv", "send")  # awaitables that are no coroutines
    gives = title == "Connection" and member == "recv_streaming"  # an asynchronous generator
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


@pytest.mark.parametrize("command", ["serve", "proxy", "connect", "demo"])
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
    defaults_there = dict(re.findall(rf"({OPTION}) [A-Z]+ (?:(?!--)[^()])*\(default: ([^)]+)\)", described))
    defaults_here = {re.findall(OPTION, row[0])[0]: row[1] for row in rows(text.splitlines()) if row[1]}
    if command != "demo":  # which has no table
        assert defaults_here == defaults_there
