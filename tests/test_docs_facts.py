"""What the pages say beside the reference is what the code says: tables of defaults, limits, states and rules."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import pytest
from pages import BLOCKS, DOCS, PAGES, ROOT, named, prose, rows, section, tables
from public import CONNECT_DEFAULTS, defaults

import taut
import taut.observability
import taut.proxy
import taut.sync
import taut.testing
import taut.workers
from taut.client.dialling.certificates import parse_pins
from taut.client.dialling.proxies import DEFAULT_PORTS, parse_proxies, proxies_from_environment
from taut.client.outbox.outbox import LossKind
from taut.client.reconnection import is_transient
from taut.client.session.lifecycle import TRANSITIONS
from taut.protocol.deflate import ContextPool
from taut.protocol.http1 import RequestReader, ResponseReader
from taut.protocol.uri import parse_uri
from taut.server.admission import Limits

# -- limits ----------------------------------------------------------------------------------------------------

LIMITS = DOCS / "limits.md"


def test_the_defaults_of_options_are_as_the_table_says() -> None:
    written = {named(row[0])[0]: ast.literal_eval(named(row[1])[0]) for row in rows(section(LIMITS, "Options"))}
    flags = {"strict_pongs", "cancel_on_close", "overflow"}
    for flag in flags:
        default = str(defaults(taut.ConnectionOptions)[flag]).replace("close", '"close"')
        assert f"`{flag}` (`{default}`" in "\n".join(section(LIMITS, "Options"))
    options = defaults(taut.ConnectionOptions)
    on_both = {name: defaults(taut.serve)[name] for name in ("open_timeout", "max_head", "max_headers")}
    assert on_both == {name: CONNECT_DEFAULTS[name] for name in on_both}
    expected = {name: value for name, value in options.items() if name not in flags} | on_both
    del expected["rate_limits"]  # which has a table of its own
    assert written == expected | {name: defaults(taut.serve)[name] for name in ("max_tls_handshakes", "backlog")}


def test_the_rates_are_as_the_table_says() -> None:
    written = {named(row[0])[0]: ast.literal_eval(named(row[1])[0]) for row in rows(section(LIMITS, "Rates"))}
    assert written == defaults(taut.RateLimits)


def test_the_limits_of_admission_are_as_the_table_says() -> None:
    written = {named(row[0])[0]: ast.literal_eval(named(row[1])[0]) for row in rows(section(LIMITS, "Admission"))}
    names = set(Limits.__slots__) - {"users"}  # which is made of those before it
    assert written == {name: defaults(taut.serve)[name] for name in names}


def test_the_shared_limits_are_as_the_table_says() -> None:
    written = {named(row[0])[0]: ast.literal_eval(named(row[1])[0]) for row in rows(section(LIMITS, "Shared limits"))}
    assert written == defaults(taut.RedisLimits)


def test_the_limits_of_clients_are_as_the_table_says() -> None:
    written = {named(row[0])[0]: ast.literal_eval(named(row[1])[0]) for row in rows(section(LIMITS, "Clients"))}
    known = CONNECT_DEFAULTS | defaults(taut.OfflineQueue) | defaults(taut.ReconnectPolicy)
    assert written == {name: known[name] for name in written}
    bounds = {name for name in known if re.match(r"max_(?!delay|attempts|time)|.*_limit$", name)}
    assert set(written) == bounds - {"max_head", "max_headers"}  # which are in the first table


def test_the_fixed_limits_are_as_the_table_says() -> None:
    connection, opening, supervision = (
        importlib.import_module(f"taut.{name}")
        for name in ("connection.connection", "server.opening", "client.session.supervision")
    )
    session, sending, outbox = (
        (ROOT / "src" / "taut" / name).read_text()
        for name in ("protocol/session.pyx", "drivers/sending.pxd", "drivers/outbox.pxd")
    )

    def constant(source: str, name: str) -> int:
        (value,) = re.findall(rf"^ +{name} = (\d+)$", source, re.MULTILINE)
        return int(value)

    control = constant(session, "MAX_CONTROL")
    assert defaults(RequestReader)["max_line"] == defaults(ResponseReader)["max_line"]
    assert [ast.literal_eval(named(row[1])[0]) for row in rows(section(LIMITS, "Fixed limits"))] == [
        defaults(RequestReader)["max_line"],
        defaults(ResponseReader)["max_body"],
        supervision._ATTEMPTS_KEPT,
        control,
        control - 2,
        connection._GRACE,
        connection._LINGER,
        opening._LINGER,
        constant(outbox, "COST"),
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


# -- sessions and pools ----------------------------------------------------------------------------------------

RECONNECTING = DOCS / "reconnecting.md"


def table_of_defaults(lines: list[str]) -> dict[str, Any]:
    """Names and defaults of the one table among ``lines`` whose header is ``option`` and ``default``."""
    (table,) = [table for table in tables(lines) if table[0][:2] == ["option", "default"]]
    scope = {"ReconnectPolicy": taut.ReconnectPolicy}
    return {named(row[0])[0]: eval(named(row[1])[0], scope) for row in table[1:]}


@pytest.mark.parametrize(
    ("page", "heading", "of"),
    [
        ("reconnecting.md", "The policy", taut.ReconnectPolicy),
        ("reconnecting.md", "Sending without a connection", taut.OfflineQueue),
        ("pool.md", None, taut.Pool),
    ],
)
def test_a_table_of_options_has_all_of_them_with_their_defaults(page: str, heading: str | None, of: Any) -> None:
    lines = prose(DOCS / page) if heading is None else section(DOCS / page, heading)
    assert table_of_defaults(lines) == defaults(of)


def test_the_states_of_a_session_follow_each_other_as_the_table_says() -> None:
    written = {named(row[0])[0]: set(named(row[1])) for row in rows(section(RECONNECTING, "A session"))}
    assert written == {state.name: {each.name for each in after} for state, after in TRANSITIONS.items()}


def test_the_table_of_losses_has_every_kind() -> None:
    table = rows(section(RECONNECTING, "Nothing is lost silently"))
    written = [ast.literal_eval(name) for row in table for name in named(row[0])]
    assert sorted(written) == sorted(get_args(LossKind))


def numbers(cell: str) -> set[int]:
    """Those of "1000, 1002 to 1004", for example."""
    found = [[int(number) for number in part.split(" to ")] for part in re.findall(r"\d+(?: to \d+)?", cell)]
    return {number for limits in found for number in range(limits[0], limits[-1] + 1)}


def test_the_close_codes_that_are_retried_are_those_of_the_table() -> None:
    (row,) = [row for row in rows(section(RECONNECTING, "What is final")) if row[0] == "close codes"]
    retried, final = numbers(row[1]), numbers(row[2])
    policy = taut.ReconnectPolicy()
    for code in range(1000, 5000):
        info = taut.CloseInfo(taut.Initiator.REMOTE, code)
        assert is_transient(taut.ConnectionClosedError(info), policy) == (code not in final)
    assert not retried & final
    assert retried | final == set(taut.CloseCode) | set(range(3000, 5000))


def a_response(status: int, **headers: str) -> taut.Response:
    return taut.Response(status, "", taut.Headers((name.replace("_", "-"), value) for name, value in headers.items()))


FINAL = [
    taut.InvalidStatus(a_response(404)),
    taut.CertificateError("for another name"),
    taut.RedirectError("to ws"),
    taut.InvalidUpgrade("Upgrade"),
    taut.InvalidHeader("Sec-WebSocket-Accept"),
    taut.NegotiationError("not offered"),
    taut.ProxyError("http://gate", "no", response=a_response(407)),
    taut.InvalidURI("ws:", "no host"),
    taut.InvalidProxy("gate", "no scheme"),
    taut.MissingExtra("a SOCKS proxy", "socks"),
    LookupError("of the function that gives the URI"),
]
RETRIED = [
    taut.DialError("cannot be resolved"),
    taut.ConnectRefused("nobody listens"),
    ConnectionResetError(),
    taut.OpenTimeout(10),
    taut.TLSError("cut short"),
    taut.InvalidMessage("broken"),
    taut.ProxyError("http://gate", "no", response=a_response(502)),
    taut.InvalidStatus(a_response(429, Retry_After="3")),
    taut.InvalidStatus(a_response(503)),
    taut.InvalidStatus(a_response(200)),
]


@pytest.mark.parametrize("exc", [*FINAL, *RETRIED], ids=repr)
def test_what_is_said_to_be_final_is_final(exc: Exception) -> None:
    assert is_transient(exc, taut.ReconnectPolicy()) == (exc in RETRIED)


# -- defaults in sentences, and examples -----------------------------------------------------------------------


def test_every_default_in_a_sentence_is_that_of_the_code() -> None:
    """As in "`max_redirects` (5)" and "`happy_eyeballs_delay` (0.25 s)"."""
    known: dict[str, set[Any]] = {}
    everything = [taut.serve, taut.Session, taut.Pool, taut.ReconnectPolicy, taut.OfflineQueue, taut.DeflateOptions]
    for each in [CONNECT_DEFAULTS, *map(defaults, [*everything, taut.ConnectionOptions])]:
        for name, default in each.items():
            known.setdefault(name, set()).add(repr(default))
    wrong: list[str] = []
    count = 0
    for page in PAGES:
        for name, value in re.findall(r"`(\w+)`\s\((\d+(?:\.\d+)?)(?: s| bytes)?\)", "\n".join(prose(page))):
            if name in known:
                count += 1
                if not {value, f"{value}.0"} & known[name]:
                    wrong.append(f"{page.name}: {name} ({value})")
    assert wrong == []
    assert count > 5


def test_the_timeouts_of_connecting_are_as_the_table_says() -> None:
    known = CONNECT_DEFAULTS | defaults(taut.ConnectionOptions)
    for row in rows(section(DOCS / "connecting.md", "Timeouts")):
        for name in named(row[0]):
            assert known[name] == (None if row[1] == "None" else float(row[1].split()[0])), name


def test_the_pins_of_the_example_are_pins() -> None:
    pins = [
        pin for block in BLOCKS if block.page.name == "tls.md" for pin in re.findall(r'"(sha256[^"]+)"', block.text)
    ]
    assert [what for pin in pins for what, _ in parse_pins([pin])] == ["key", "certificate"]


def test_the_proxies_of_the_page_are_those_of_the_code() -> None:
    """Which schemes there are with what port, and which variables are read in what order."""
    by_scheme, by_variable = tables(prose(DOCS / "proxies.md"))
    ports = {
        scheme.removesuffix("://"): int(re.findall(r"default port (\d+)", row[1])[0])
        for row in by_scheme[1:]
        for scheme in named(row[0])
    }
    assert ports == {scheme: parse_proxies(f"{scheme}://gate")[0].port for scheme in (*DEFAULT_PORTS, "socks")}
    for row in by_variable[1:]:
        uri = parse_uri(f"{named(row[0])[0]}example.com/")
        variables = named(row[1])
        for start in range(len(variables)):
            environment = {name: f"http://{number}.gate" for number, name in enumerate(variables) if number >= start}
            with mock.patch.dict("os.environ", environment, clear=True):
                assert [proxy.host for proxy in proxies_from_environment(uri)] == [f"{start}.gate"]


# -- names -----------------------------------------------------------------------------------------------------


def code_of(page: Path) -> str:
    """What is Python on a page: its blocks, and what stands between backticks."""
    blocks = [block.text for block in BLOCKS if block.page == page and block.info.startswith("python")]
    return "\n".join([*blocks, *named("\n".join(prose(page)))])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_on_a_page_exist(page: Path) -> None:
    """Attributes of ``taut``, and of what is called ``ws``, ``server``, ``session`` or ``pool`` on all pages."""
    owners: dict[str, list[Any]] = {
        "taut": [taut],
        "taut.sync": [taut.sync],
        "taut.testing": [taut.testing],
        "ws": [taut.ClientConnection, taut.ServerConnection, taut.sync.ServerConnection],
        "server": [taut.Server, taut.sync.Server],
        "session": [taut.Session],
        "session.stats": [taut.SessionStats],
        "pool": [taut.Pool],
        "pool.stats": [taut.PoolStats],
        "loss": [taut.Loss],
    }
    files = {"md", "pem", "py", "pyx"}
    theirs = {"server.fileno", "ws.send_binary", "ws.settimeout", "ws.shutdown"}
    missing = [
        f"{owner}.{name}"
        for owner, name in re.findall(rf"(?<![\w./])({'|'.join(owners)})\.(\w+)", code_of(page))
        if name not in files and not any(hasattr(value, name) for value in owners[owner])
    ]
    assert set(missing) <= theirs


def test_files_in_the_design_exist() -> None:
    text = "\n".join(prose(DOCS / "design.md"))
    paths = {name for name in named(text) if re.fullmatch(r"\w+(/\w+)+(\.\w+)?|\w+\.pyx?", name)}
    assert len(paths) > 20
    missing: set[str] = set()
    for name in paths:
        bases = [ROOT / "src" / "taut", ROOT / "src" / "taut" / "client", ROOT]
        if not any((base / f"{name}{suffix}").exists() for base in bases for suffix in ("", ".py", ".pyx")):
            missing.add(name)
    assert missing == set()
