"""What the pages for those who run a server say is what the code and the other pages say: options, metrics, figures."""

from __future__ import annotations

import dataclasses
import re

import pytest
from pages import DOCS, ROOT, named, prose, rows, section, tables
from public import defaults

import taut

LIMITS = DOCS / "limits.md"
SECURITY = DOCS / "security.md"
PRODUCTION = DOCS / "production.md"
OPTIONS = set(defaults(taut.serve)) | set(defaults(taut.ConnectionOptions))


def options_of(page_rows: list[list[str]], column: int) -> set[str]:
    return {name for row in page_rows for name in named(row[column])}


def test_every_option_of_the_security_checklist_exists() -> None:
    written = options_of(rows(prose(SECURITY)), 2)
    hooks = {name for name in written if name.endswith(("_auth", "_of"))}
    assert {name for name in hooks if not hasattr(taut, name)} == set()
    assert written - hooks <= OPTIONS


def test_the_security_checklist_leaves_out_no_limit_that_a_server_has() -> None:
    """But those that say how something is counted, or how something else is done."""
    written = options_of(rows(prose(SECURITY)), 2)
    tables_of_limits = [row for heading in ("Options", "Admission") for row in rows(section(LIMITS, heading))]
    limits = options_of(tables_of_limits, 0) & OPTIONS
    assert len(limits) > 15
    assert limits - written <= {"read_limit", "backlog", "user_key", "fragment_size"}


def test_the_limits_that_are_to_be_set_are_not_set_by_default() -> None:
    for row in rows(section(SECURITY, "What it may cost")):
        if row[1] == "no limit":
            assert row[3] in ("set them", "set it")
            for name in named(row[2]):
                assert name in ("address_prefix", "user_policy") or defaults(taut.serve)[name] is None


def test_options_of_the_production_page_exist() -> None:
    text = "\n".join(section(PRODUCTION, "Limits"))
    (table, memory) = tables(text.splitlines())
    for row in table[1:]:
        for name in named(row[0]):
            assert name in OPTIONS | {"serve"}, name
    assert memory[0] == ["", "takes about"]
    for name in named(" ".join(cell for row in rows(section(PRODUCTION, "Timeouts")) for cell in row)):
        known = {"drain=", "serve_until_signal", "proxy_read_timeout", "timeout tunnel", *OPTIONS}
        assert name in known, name


def test_the_timeouts_of_the_production_page_are_those_of_the_code() -> None:
    written = {
        name: row[1] for row in rows(section(PRODUCTION, "Timeouts")) for name in named(row[0]) if name in OPTIONS
    }
    assert written == {name: f"{defaults(taut.ConnectionOptions)[name]:g} s" for name in written}
    assert set(written) == {"ping_interval", "close_timeout"}
    assert "| `drain=` of `serve_until_signal` | 30 s |" in PRODUCTION.read_text()
    assert defaults(taut.Server.serve_until_signal)["drain"] == 30.0


def test_the_memory_of_a_connection_is_what_the_readme_says() -> None:
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    found = re.findall(r"([\d.]+ KiB) with (a `Listener`|a coroutine|compression)", readme)
    table = {row[0]: row[1] for row in rows(section(PRODUCTION, "Limits")) if len(row) == 2}
    for size, how in found:
        (row,) = [row for row in table if how in row]
        assert table[row] == size
    assert len(found) == 3


def test_the_metrics_to_watch_exist() -> None:
    known = {name for row in rows(section(DOCS / "observability.md", "Metrics")) for name in named(row[0])}
    watched = [name for row in rows(section(PRODUCTION, "Metrics")) for name in named(row[0])]
    watched = [name for name in watched if name.startswith("taut_")]
    assert len(watched) > 5
    assert set(watched) <= known


@pytest.mark.parametrize("page", ["from-cowboy.md", "from-phoenix.md", "from-uwebsockets.md"])
def test_defaults_of_taut_that_a_page_names_are_right(page: str) -> None:
    """As in "`ping_interval` and `ping_timeout` (20.0 s each)"; others are checked on all pages."""
    assert f"{defaults(taut.ConnectionOptions)['ping_interval']} s each" == "20.0 s each"
    fields = {field.name for field in dataclasses.fields(taut.DeflateOptions)}
    text = "\n".join(prose(DOCS / page))
    for name in re.findall(r"taut\.DeflateOptions\((\w+)=", text):
        assert name in fields
    for name in re.findall(r"`(\w+)=", text):
        assert name in OPTIONS | {"auth_token", "ssl"}, name
