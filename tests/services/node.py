"""Node's ``ws``: an echo server whose behaviour the request's query chooses (see echo.cjs), and a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

from .certificates import write_certificate
from .install import HERE, node_modules, program
from .processes import Service


class NodeWs(Service):
    """The echo server; ``uri(deflate={}, protocols="a,b", ...)`` is where a connection behaves like that."""

    name = "node-ws"

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.tls = tls
        self.scheme = "wss" if tls else "ws"

    def command(self) -> list[str]:
        files = write_certificate(self.folder) if self.tls else ()
        return [program("node"), str(HERE / "echo.cjs"), str(self.port), *files]

    def environment(self) -> dict[str, str]:
        return {"NODE_PATH": node_modules()}

    def uri(self, **behaviour: Any) -> str:
        """The URI of a connection that behaves like that; what is no string is sent as JSON."""
        query = {name: value if isinstance(value, str) else json.dumps(value) for name, value in behaviour.items()}
        return f"{self.url}/?{urlencode(query)}"

    def endings(self, identity: str) -> Iterator[dict[str, Any]]:
        """How the connections with this ``id`` have ended, as the server saw it."""
        for line in self.log().splitlines():
            with contextlib.suppress(ValueError):
                ending = json.loads(line)
                if ending["id"] == identity:
                    yield ending


class NodeClient:
    """The client, in a process of its own: commands go in, events come out (see client.cjs)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def command(self, do: str, **rest: Any) -> None:
        """Have it do something."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **rest}).encode() + b"\n")

    async def event(self) -> dict[str, Any]:
        """What happened next; EOFError when it has ended."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise EOFError("the client has ended")
        event: dict[str, Any] = json.loads(line)
        return event


@asynccontextmanager
async def node_client(url: str, **options: Any) -> AsyncIterator[NodeClient]:
    """A client that opens ``url``, with ``protocols`` and options of ws; gone at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(program("setpriv"), "--pdeathsig", "TERM"),
        *(program("node"), str(HERE / "client.cjs")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"NODE_PATH": node_modules()},
        limit=1 << 26,
    )
    client = NodeClient(process)
    client.command("open", url=url, **options)
    try:
        yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
