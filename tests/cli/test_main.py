from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Any

import pytest

import taut
from taut.cli import arguments
from taut.cli.running import authority
from taut.cli.terminal import hex_summary, printable

WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None; from taut.cli import main; sys.exit(main())"


@pytest.mark.parametrize("module", ["taut", "taut.cli"])
def test_version(run: Any, module: str) -> None:
    assert run("--version", command=[sys.executable, "-m", module]) == (0, f"taut {taut.__version__}\n", "")


def test_help_names_every_command(run: Any) -> None:
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for command in ("serve", "connect", "demo"):
        assert f"\n    {command} " in out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["serve"], "taut serve: say what to serve, and only that: MODULE:ATTRIBUTE, or --echo\n"),
        (["serve", "--echo", "--port", "99999"], "argument --port: '99999' is not a port: 0 to 65535"),
        (["serve", "--echo", "--port", "-1"], "argument --port: '-1' is not a port"),
        (["serve", "--echo", "--max-size", "0"], "argument --max-size: '0' is not a number of bytes: 1 or more"),
        (["serve", "--echo", "--max-size", "1e6"], "argument --max-size: '1e6' is not a number of bytes"),
        (["demo", "--port", "http"], "argument --port: 'http' is not a port"),
        (["connect"], "the following arguments are required: URI"),
        (
            ["connect", "ws://x/", "-H", "nonsense"],
            "argument -H/--header: 'nonsense' is not a header: write 'Name: value'",
        ),
        (["connect", "ws://x/", "-H", "a b: c"], "'a b: c' is not a header"),
        (["connect", "ws://x/", "-H", "a: b\nc: d"], "is not a header"),
        (["connect", "ws://x/", "--ping-interval=-1"], "'-1' is not a number of seconds: 0 or more"),
        (["connect", "ws://x/", "--ping-interval", "nan"], "'nan' is not a number of seconds"),
        (["connect", "ws://x/", "--subprotocol", "a b"], "taut connect: subprotocols must be HTTP tokens, not 'a b'\n"),
        (["connect", "http://x/"], "taut connect: 'http://x/' is not a WebSocket URI: the scheme must be ws or wss"),
        (["connect", "ws://x:99999/"], "'99999' is not a port"),
        (["connect", "nonsense\n"], "is not a WebSocket URI"),
        (["connect", "--ping", "ws://x/"], "'ws://x/' is not a number of seconds above 0; the URI has to come first"),
        (["connect", "ws://x/", "--ping=0"], "'0' is not a number of seconds above 0"),
        (
            ["connect", "ws://x/", "--max-redirects", "few"],
            "--max-redirects: 'few' is not a number: 0 or more",
        ),
        (["connect", "ws://x/", "--connect-to", "host"], "'host' is not an address: write HOST:PORT, or [IPV6]:PORT"),
        (["connect", "ws://x/", "-1", "-n", "2"], "argument -n/--answers: not allowed with argument -1/--one"),
        (["connect", "ws://x/", "-n", "0"], "argument -n/--answers: '0' is not a number: 1 or more"),
        (["connect", "ws://x/", "-v", "-q"], "argument -q/--quiet: not allowed with argument -v/--verbose"),
        (["connect", "ws://x/", "-4", "-6"], "argument -6/--ipv6: not allowed with argument -4/--ipv4"),
        (["connect", "ws://x/", "--binary", "--json"], "taut connect: --binary and --json exclude each other\n"),
        (["connect", "ws://x/", "--binary", "-t"], "taut connect: --binary and --timestamps exclude each other\n"),
        (["connect", "ws://x/", "--cacert", "x"], "taut connect: --cacert is for wss:// URIs\n"),
        (["connect", "wss://x/", "--key", "x"], "taut connect: --key needs --cert\n"),
        (["connect", "wss://x/", "-k", "--cacert", "x"], "taut connect: --insecure and --cacert exclude each other\n"),
        (["connect", "wss://x/", "--cacert", "/no"], "taut connect: --cacert: /no cannot be used: No such file"),
        (["connect", "wss://x/", "--cert", "/no"], "taut connect: --cert: /no cannot be used: No such file"),
        (["connect", "wss://x/", "--cert", __file__], "taut connect: --cert: " + __file__ + " cannot be used: "),
        (["connect", "wss://x/", "--pin", "x"], "taut connect: pins must hold only "),
        (["connect", "ws://x/", "--pin", "sha256:" + 64 * "0"], "taut connect: pins are for wss:// URIs"),
        (["connect", "ws://x/", "--proxy", "ftp://x"], "taut connect: proxy: "),
        (["connect", "ws://x/", "--unix", "/x", "--proxy", "http://x"], "proxy cannot be combined with sock or path"),
        (["connect", "ws://x/", "--user", "me"], "--user needs NAME:PASSWORD where there is no terminal"),
        (["connect", "ws://x/", "--user", "a:b", "--bearer", "c"], "argument --bearer: not allowed with argument -u"),
        (["connect", "ws://a:b@x/", "--bearer", "c"], "taut connect: bearer_token and credentials in the URI"),
        (["connect", "ws://x/", "--bearer", "a b"], "taut connect: bearer_token must be printable ASCII"),
        (["connect", "ws://x/", "--bearer-env", "TAUT_NO"], "taut connect: --bearer-env: TAUT_NO is not set\n"),
    ],
)
def test_wrong_arguments(run: Any, line: list[str], expected: str) -> None:
    status, out, err = run(*line)
    assert (status, out) == (2, "")
    assert expected in err
    assert "Traceback" not in err


def test_uvloop_is_needed_only_where_it_is_asked_for(run: Any, start: Any) -> None:
    command = [sys.executable, "-c", WITHOUT_UVLOOP]
    status, out, err = run("serve", "--echo", "--uvloop", command=command)
    assert (status, out) == (2, "")
    assert err == "taut serve: --uvloop needs the extra 'uvloop': pip install 'taut[uvloop]'\n"
    assert start("serve", "--echo", "--port", "0", command=command).wait_for(r"\((\w+);")[1] == "asyncio"


def test_uvloop_is_used_where_it_is_installed(start: Any) -> None:
    assert start("serve", "--echo", "--port", "0").wait_for(r"\((\w+);")[1] == "uvloop"


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (arguments.port, "0", 0),
        (arguments.port, "65535", 65535),
        (arguments.count, "1", 1),
        (arguments.seconds, "0", 0.0),
        (arguments.seconds, "1.5", 1.5),
        (arguments.positive_seconds, "0.5", 0.5),
        (arguments.number, "0", 0),
        (arguments.positive, "1", 1),
        (arguments.address, "host:1", ("host", 1)),
        (arguments.address, "[::1]:65535", ("::1", 65535)),
        (arguments.header, "X-A: b: c ", ("X-A", "b: c")),
        (arguments.header, "X-A:", ("X-A", "")),
        (arguments.header, "X-A:\t1", ("X-A", "1")),
    ],
)
def test_option_values(convert: Callable[[str], object], text: str, value: object) -> None:
    assert convert(text) == value


@pytest.mark.parametrize(
    ("convert", "text"),
    [
        (arguments.port, "65536"),
        (arguments.port, "٣"),
        (arguments.port, ""),
        (arguments.count, "-5"),
        (arguments.seconds, "inf"),
        (arguments.seconds, "soon"),
        (arguments.positive_seconds, "0"),
        (arguments.number, "-1"),
        (arguments.number, "1.5"),
        (arguments.address, "host:0"),
        (arguments.address, ":80"),
        (arguments.address, "::1:80"),
        (arguments.address, "host:65536"),
        (arguments.header, ": value"),
        (arguments.header, "X: a\rb"),
    ],
)
def test_option_values_that_are_refused(convert: Callable[[str], object], text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not"):
        convert(text)


def test_what_a_peer_sends_cannot_drive_the_terminal() -> None:
    assert printable("tab\tline\n\x1b[31mred\x07\x9b é 字") == "tab\tline\n\\x1b[31mred\\x07\\x9b é 字"


@pytest.mark.parametrize(
    ("data", "summary"),
    [
        (b"", "0 bytes"),
        (b"\x00", "1 byte: 00"),
        (bytes(range(16)), "16 bytes: 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f"),
        (bytes(17), "17 bytes: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 ..."),
    ],
)
def test_hex_summary(data: bytes, summary: str) -> None:
    assert hex_summary(data) == summary


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert authority("::1", 80) == "[::1]:80"
    assert authority("127.0.0.1", 80) == "127.0.0.1:80"
