from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taut.cli import history
from taut.cli.history import history_file
from taut.cli.json_layout import lay_out
from taut.cli.slash import Action, Close, Help, Ping, Send, parse_line

# -- JSON ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "laid_out"),
    [
        ("[]", "[]"),
        ("{ }", "{}"),
        ('{"a":1,"b":[true,null,{}]}', '{\n  "a": 1,\n  "b": [\n    true,\n    null,\n    {}\n  ]\n}'),
        ("[[],[[]]]", "[\n  [],\n  [\n    []\n  ]\n]"),
        (' "a, \\"b\\": [{" ', '"a, \\"b\\": [{"'),
        ("1.10", "1.10"),
        ('{"a":1e400,"a":0.10000000000000000001}', '{\n  "a": 1e400,\n  "a": 0.10000000000000000001\n}'),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_json_is_laid_out_as_it_is(text: str, laid_out: str) -> None:
    assert lay_out(text) == laid_out


@pytest.mark.parametrize(
    "text", ["", "hello", "{", '{"a":}', "NaN", "[Infinity]", "1 2", "[" * 100_000 + "]" * 100_000]
)
def test_what_is_not_json_is_left_alone(text: str) -> None:
    assert lay_out(text) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans())
def test_laid_out_json_is_what_the_standard_library_writes(value: object, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert lay_out(text) == json.dumps(value, ensure_ascii=ascii_only, indent=2)


def test_colours_tell_names_strings_numbers_and_words_apart() -> None:
    laid_out = lay_out('{"a":["b",1,null]}', colours=True)
    assert laid_out is not None
    for part in ('\x1b[34m"a"\x1b[0m: ', '\x1b[32m"b"\x1b[0m', "\x1b[36m1\x1b[0m", "\x1b[33mnull\x1b[0m"):
        assert part in laid_out


def test_json_cannot_drive_the_terminal_either() -> None:
    text = '{"a\x7f":"\x9b31m"}'
    assert lay_out(text) == '{\n  "a\x7f": "\x9b31m"\n}'
    assert lay_out(text, escape=True) == '{\n  "a\\x7f": "\\x9b31m"\n}'
    assert lay_out('"\x1b[31m"', escape=True) is None  # RFC 8259, 7: this has to be escaped


# -- what is typed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("hello", Send("hello")),
        ("", Send("")),
        (" /ping", Send(" /ping")),
        ("//ping", Send("/ping")),
        ("///", Send("//")),
        ("/ping ", Ping()),
        ("/help", Help()),
        ("/close", Close(1000)),
        ("/close 1001", Close(1001)),
        ("/close 4000  see you ", Close(4000, "see you")),
        ("/binary 00 fF\t1f", Send(b"\x00\xff\x1f")),
        ("/binary", Send(b"")),
    ],
)
def test_what_a_line_means(line: str, action: Action) -> None:
    assert parse_line(line) == action


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/", "there is no command /;"),
        ("/bye", "there is no command /bye; /help lists them, and //... sends a line with a slash"),
        ("/ping 3", "/ping takes nothing more"),
        ("/help me", "/help takes nothing more"),
        ("/close now", "'now' is not a close code"),
        ("/close 1005", "'1005' is not a close code"),
        ("/close 999", "'999' is not a close code"),
        ("/close 5000", "'5000' is not a close code"),
        ("/binary 0", "'0' is not hexadecimal"),
        ("/binary xx", "'xx' is not hexadecimal"),
        ("/binary @", ". is not a file"),
        ("/binary @/dev/zero", "/dev/zero is not a file"),
    ],
)
def test_lines_that_mean_nothing(line: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}"):
        parse_line(line)


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "with space"
    path.write_bytes(b"\x00\r\n")
    assert parse_line(f"/binary @{path}") == Send(b"\x00\r\n")


# -- the history -----------------------------------------------------------------------------------------------


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_history_is_for_nobody_else(state: Path) -> None:
    old = os.umask(0)
    try:
        path = history_file()
    finally:
        os.umask(old)
    assert path == state / "taut" / "history"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)
    assert history_file().stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("given", ["", "relative"])
def test_the_history_is_in_the_home_folder_by_default(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", given)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".local" / "state" / "taut" / "history"


def test_a_long_history_is_cut_between_entries(state: Path) -> None:
    path = history_file()
    entries = [f"\n# 2026-01-01 00:00:00\n+line {number}\n" for number in range(20_000)]
    path.write_text("".join(entries))
    before = path.stat().st_size
    assert before > history._MOST
    history_file()
    kept = path.read_text()
    assert history._MOST // 4 < len(kept) <= history._MOST // 2
    assert "".join(entries).endswith(kept)
    assert kept.startswith("\n# ")
    history_file()
    assert path.read_text() == kept


def test_a_history_that_cannot_be_kept(state: Path) -> None:
    state.write_text("a file, not a folder")
    with pytest.raises(NotADirectoryError) as caught:
        history_file()
    assert caught.value.filename == str(state / "taut")
