"""A connection is given to ``process_request`` before it has a session; using it there crashed the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from network import Driver

import taut


async def _nothing(ws: Any) -> None:
    await ws.wait_closed()


@pytest.mark.parametrize(
    "use",
    [
        lambda ws: ws.send("early"),
        lambda ws: ws.send_nowait("early"),
        lambda ws: ws.recv().send(None),
        lambda ws: anext(ws).send(None),
        lambda ws: ws.flush_output(),
        lambda ws: taut.broadcast([ws], "early"),
    ],
    ids=["send", "send_nowait", "recv", "anext", "flush_output", "broadcast"],
)
async def test_it_raises(driver: Driver, use: Callable[[Any], Any]) -> None:
    raised: list[type[BaseException]] = []

    def process_request(connection: Any, request: taut.Request) -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            use(connection)
        raised.append(caught.type)

    async with driver.serve(_nothing, process_request=process_request) as server, driver.connect(server) as ws:
        assert len(raised) == 1
        assert ws.state is taut.State.OPEN
