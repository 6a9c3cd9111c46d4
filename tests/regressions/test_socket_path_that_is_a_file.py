"""Linux refuses a connection to a plain file as it does to a stale socket, and the file was deleted for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import taut


async def _nothing(ws: Any) -> None:
    await ws.wait_closed()


async def test_the_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a socket")
    with pytest.raises(OSError, match="cannot listen on"):
        await taut.unix_serve(_nothing, path)
    assert path.read_text() == "not a socket"


async def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    for _ in range(2):
        async with taut.unix_serve(_nothing, path), taut.unix_connect(path) as ws:
            assert ws.state is taut.State.OPEN
        assert path.is_socket()
