"""The examples of the page about the command are what happens."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import TIMEOUT
from pages import BLOCKS, Block

EXAMPLES = [block for block in BLOCKS if block.page.name == "command.md" and block.text.startswith("$ ")]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_an_example_is_what_happens(block: Block, echo_server: str, tmp_path: Path) -> None:
    command, _, printed = block.text.removeprefix("$ ").partition("\n")
    command = command.replace("ws://127.0.0.1:8765/", echo_server)
    shell = f'taut() {{ {shlex.quote(sys.executable)} -m taut "$@"; }}; {command}'
    done = subprocess.run(
        ["sh", "-c", shell],
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path)},
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    assert without_times(done.stdout) == without_times(printed.replace("ws://127.0.0.1:8765/", echo_server))


def without_times(text: str) -> str:
    return re.sub(r"\d\d:\d\d:\d\d\.\d{3}", "HH:MM:SS.SSS", text)
