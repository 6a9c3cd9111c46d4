"""The prompt of ``taut connect``, on a terminal."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from commands import RawServer, Serve, Terminal
from websockets.sync.server import ServerConnection

WITHOUT_PROMPT_TOOLKIT = "import sys; sys.modules['prompt_toolkit'] = None; from taut.cli import main; sys.exit(main())"
CLOSED = r"closed by this side: 1000 \(normal closure\)"


@pytest.fixture
def prompt(terminal: Any, echo_server: str, loop: str) -> Terminal:
    """At the prompt, connected to an echo server, on either loop."""
    instance: Terminal = terminal("connect", echo_server, loop)
    instance.wait_for(r"connected to .*\n>")
    return instance


def history(folder: Path) -> Path:
    return folder / "state" / "taut" / "history"


def test_lines_are_sent_and_answers_shown_above_the_prompt(prompt: Terminal) -> None:
    prompt.type("hello\r")
    prompt.wait_for(r"> hello\n(?:.|\n)*< hello\n>")
    prompt.type("wörld\r")
    prompt.wait_for("< wörld\n>")
    prompt.type("\x04")
    prompt.wait_for(CLOSED)
    assert prompt.finish()[0] == 0


def test_answers_do_not_disturb_what_is_being_typed(terminal: Any, raw_server: RawServer) -> None:
    instance: Terminal = terminal("connect", raw_server.uri)
    raw_server.open()
    instance.wait_for(r"connected to .*\n>")
    instance.type("hel")
    instance.wait_for("hel")
    raw_server.write_frame(0x1, b"news")
    instance.wait_for("< news\n> ?hel")
    instance.type("lo\r")
    assert raw_server.read_frame() == (0x1, b"hello")


def test_commands(prompt: Terminal, tmp_path: Path) -> None:
    prompt.type("/ping\r")
    prompt.wait_for(r"ping: \d+\.\d\d ms[^>]*\n>")
    prompt.type("/binary 00 ff\r")
    prompt.wait_for("< binary, 2 bytes: 00 ff\n>")
    (tmp_path / "file").write_bytes(b"\x01")
    prompt.type(f"/binary @{tmp_path}/file\r")
    prompt.wait_for("< binary, 1 byte: 01[^>]*\n>")
    prompt.type("//ping\r")
    prompt.wait_for("< /ping[^>]*\n>")
    prompt.type("/bye\r")
    prompt.wait_for("there is no command /bye; /help lists them[^>]*\n>")
    prompt.type("/close 1\r")
    prompt.wait_for("'1' is not a close code[^>]*\n>")
    prompt.type("/help\r")
    prompt.wait_for("/binary @FILE  [^>]*\n>")
    prompt.type("/close 4001 so long\r")
    prompt.wait_for(r"closed by this side: 4001 \(private use\) so long")
    assert prompt.finish()[0] == 1  # not a normal closure


def test_ctrl_c_drops_the_line_and_then_interrupts(prompt: Terminal) -> None:
    prompt.type("not this")
    prompt.wait_for("not this")
    prompt.type("\x03this\r")
    prompt.wait_for("< this[^>]*\n>")
    prompt.type("\x03")
    prompt.wait_for(CLOSED)
    assert prompt.finish()[0] == 130


def test_a_second_ctrl_c_does_not_wait_for_the_server(terminal: Any, raw_server: RawServer) -> None:
    instance: Terminal = terminal("connect", raw_server.uri)
    raw_server.open()
    instance.wait_for(r"connected to .*\n>")
    instance.type("\x03")
    assert raw_server.read_frame()[0] == 0x8
    instance.type("\x03")
    instance.wait_for("without a completed closing handshake")
    assert instance.finish()[0] == 130


def test_a_signal_from_elsewhere(prompt: Terminal) -> None:
    prompt.popen.send_signal(signal.SIGTERM)
    prompt.wait_for(CLOSED)
    assert prompt.finish()[0] == 143


def test_the_server_closes_while_something_is_typed(terminal: Any, raw_server: RawServer, loop: str) -> None:
    instance: Terminal = terminal("connect", raw_server.uri, loop)
    raw_server.open()
    instance.wait_for(r"connected to .*\n>")
    before = termios.tcgetattr(instance._master)
    instance.type("hel")
    instance.wait_for("hel")
    raw_server.write_frame(0x1, b"last words")
    raw_server.write_frame(0x8, b"\x03\xe8")
    assert raw_server.read_frame()[0] == 0x8
    raw_server.sock.shutdown(socket.SHUT_WR)
    instance.wait_for(r"< last words\n(?:.|\n)*closed by the peer: 1000")
    assert instance.finish()[0] == 0
    lflag = termios.tcgetattr(instance._master)[3]
    assert lflag & termios.ECHO
    assert lflag & termios.ICANON
    assert not before[3] & termios.ECHO  # as it was at the prompt


def test_the_terminal_is_left_blocking(terminal: Any, echo_server: str, loop: str) -> None:
    code = "import os, subprocess, sys; subprocess.call(sys.argv[1:]); print('blocking', os.get_blocking(0))"
    line = [sys.executable, "-c", code, sys.executable, "-m", "taut", "connect", echo_server, loop]
    instance: Terminal = terminal(command=line)
    instance.wait_for(r"connected to .*\n>")
    instance.type("\x04")
    instance.wait_for("blocking True")
    assert instance.finish()[0] == 0


def test_the_peer_cannot_drive_the_terminal(terminal: Any, server: Serve) -> None:
    def say(ws: ServerConnection) -> None:
        ws.send("\x1b]0;title\x07")
        ws.recv()

    instance: Terminal = terminal("connect", server(say))
    instance.wait_for(r"< \\x1b\]0;title\\x07[^>]*\n>")
    instance.type("bye\r")
    assert instance.finish()[0] == 0


def test_timestamps_take_the_place_of_what_was_typed(terminal: Any, echo_server: str) -> None:
    instance: Terminal = terminal("connect", echo_server, "-t")
    instance.wait_for(r"connected to .*\n>")
    instance.type("hello\r")
    instance.wait_for(r"\d\d:\d\d:\d\d\.\d{3} > hello\n(?:.|\n)*\d\d:\d\d:\d\d\.\d{3} < hello\n>")
    instance.type("\x04")
    assert instance.finish()[0] == 0


# -- the history -----------------------------------------------------------------------------------------------


def test_what_was_typed_is_there_the_next_time(terminal: Any, echo_server: str, tmp_path: Path) -> None:
    first: Terminal = terminal("connect", echo_server)
    first.wait_for(r"connected to .*\n>")
    first.type("remember me\r")
    first.wait_for("< remember me[^>]*\n>")
    first.type("\x04")
    assert first.finish()[0] == 0
    assert history(tmp_path).stat().st_mode & 0o777 == 0o600
    second: Terminal = terminal("connect", echo_server)
    second.wait_for(r"connected to .*\n>")
    second.type("\x1b[A")
    second.wait_for("remember me")
    second.type("\r")
    second.wait_for("< remember me\n")


def test_no_history(terminal: Any, echo_server: str, tmp_path: Path) -> None:
    instance: Terminal = terminal("connect", echo_server, "--no-history")
    instance.wait_for(r"connected to .*\n>")
    instance.type("forget me\r")
    instance.wait_for("< forget me[^>]*\n>")
    instance.type("\x04")
    assert instance.finish()[0] == 0
    assert not history(tmp_path).exists()


def test_a_history_that_cannot_be_kept(terminal: Any, echo_server: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    instance: Terminal = terminal("connect", echo_server)
    instance.wait_for(r"no history is kept: .*: Not a directory\n")
    instance.wait_for(r"connected to .*\n>")
    instance.type("hello\r")
    instance.wait_for("< hello\n")


# -- without a prompt ------------------------------------------------------------------------------------------


def test_without_prompt_toolkit_lines_are_read_plainly(terminal: Any, echo_server: str) -> None:
    command = [sys.executable, "-c", WITHOUT_PROMPT_TOOLKIT]
    instance: Terminal = terminal("connect", echo_server, command=command)
    instance.wait_for(r"prompt_toolkit is not installed, so there is no history: pip install 'taut\[cli\]'\n")
    instance.wait_for(r"connected to .*\n")
    instance.type("hello\n")
    instance.wait_for("hello\nhello\n")
    instance.type("/binary 00\n")
    instance.wait_for("binary, 1 byte: 00\n")
    instance.type("\x04")
    instance.wait_for(CLOSED)
    assert instance.finish()[0] == 0


def test_a_terminal_without_abilities_gets_no_prompt(terminal: Any, echo_server: str) -> None:
    instance: Terminal = terminal("connect", echo_server, environment={"TERM": "dumb"})
    instance.wait_for(r"connected to .*\n")
    instance.type("hello\n")
    instance.wait_for("hello\nhello\n")
    instance.type("\x04")
    assert instance.finish()[0] == 0
    assert "\x1b" not in instance.seen


def test_typed_lines_with_the_output_in_a_pipe(terminal: Any, echo_server: str) -> None:
    instance: Terminal = terminal("connect", echo_server, stdout=subprocess.PIPE)
    instance.wait_for(r"connected to .*\n")
    instance.type("hello\n/ping\n")
    instance.wait_for(r"ping: \d")
    instance.type("\x04")
    assert instance.popen.stdout is not None
    with instance.popen.stdout as stdout:
        assert stdout.read() == b"hello\n"
    assert instance.finish()[0] == 0


def test_a_log_of_stderr_stays_apart_from_the_prompt(terminal: Any, echo_server: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        instance: Terminal = terminal("connect", echo_server, stderr=log)
    instance.wait_for(">")
    instance.type("/ping\rhello\r")
    instance.wait_for("< hello\n>")
    instance.type("\x04")
    assert instance.finish()[0] == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == f"connected to {echo_server}"
    assert lines[1].startswith("ping: ")
    assert lines[2] == "closed by this side: 1000 (normal closure)"
