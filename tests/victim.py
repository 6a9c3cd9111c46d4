"""A server in a process of its own, to be attacked, and what the attack costs it.

As a program: ``victim.py OPTIONS``, which are those of ``serve`` as JSON.  It prints its port, and serves until it is
ended: "/" echoes, "/feed" takes what is broadcast, "/broadcast" broadcasts to those, "/stats" answers with what the
server has counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import TEXT, Frame, Peer, gone_after

import taut

ECHOES = 20
"""How often a healthy client has to be served, at the least."""
PATIENCE = 0.3
"""How much work a server may do before it serves a healthy client (seconds of processor time)."""


observer: Any = None
"""Who else watches attacks: attack_figures.py, if that runs the tests."""


@dataclass
class Victim:
    """The process of a server."""

    process: subprocess.Popen[bytes]
    port: int
    tls: ssl.SSLContext | None = None
    """What its clients speak TLS with."""

    def memory(self, what: str = "VmRSS") -> int:
        """What it uses now, or has used at most, "VmHWM" (bytes)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
        raise LookupError(what)

    def work(self) -> float:
        """The processor time that it has had (seconds)."""
        return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    @asynccontextmanager
    async def peer(self) -> AsyncGenerator[Peer]:
        """A client that has connected."""
        peer = Peer(client=True)
        await asyncio.get_running_loop().create_connection(lambda: peer, "127.0.0.1", self.port, ssl=self.tls)
        async with gone_after(peer):
            yield peer

    @asynccontextmanager
    async def opened(self, path: str = "/", headers: Any = ()) -> AsyncGenerator[Peer]:
        """A client whose connection is open."""
        async with self.peer() as peer:
            head = await peer.request(path, headers)
            assert head.startswith("HTTP/1.1 101 "), head
            yield peer

    async def stats(self) -> dict[str, Any]:
        """What the server has counted."""
        async with self.opened("/stats") as peer:
            peer.send(TEXT, b"?")
            answer: dict[str, Any] = json.loads((await peer.frame()).payload)
            return answer


@contextlib.contextmanager
def victim(tls: ssl.SSLContext | None = None, **options: Any) -> Generator[Victim]:
    """A server that is there, and still is, without a complaint, at the end of the block.

    ``tls``: what its clients speak TLS with, if ``options`` have paths of a certificate and its key for ``ssl``.
    """
    command = [sys.executable, __file__, json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Victim(process, int(process.stdout.readline()), tls)
            assert process.poll() is None
        finally:
            process.terminate()
            _, complaints = process.communicate()
    assert not complaints, complaints.decode()


async def endure(it: Victim, attack: Awaitable[None], *, memory: int) -> None:
    """Attack, while a healthy client goes on being served, without the server using ``memory`` bytes more than before.

    The client waits for no more than ``PATIENCE`` each time: of the work that the server does meanwhile, as others may
    be busy with this machine too.
    """
    async with it.opened() as healthy:
        worst = 0.0
        echoes = 0

        async def echo() -> None:
            nonlocal worst, echoes
            before = it.work()
            healthy.send(TEXT, b"are you there?")
            assert await healthy.frame() == Frame(TEXT, b"are you there?")
            worst = max(worst, it.work() - before)
            echoes += 1

        for _ in range(ECHOES):
            await echo()
        usual, echoes, worst = it.memory(), 0, 0.0
        attacking = asyncio.ensure_future(attack if observer is None else observer.attack(it, attack, memory))
        try:
            while not attacking.done() or echoes < ECHOES:
                await echo()
                await asyncio.sleep(0 if observer is None else 0.01)
            await attacking
        finally:
            attacking.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await attacking
        used = it.memory("VmHWM") - usual
        assert it.work() > 0
        assert used < memory, f"{used} bytes"
        assert worst < PATIENCE, f"{worst} s of work"
        await healthy.close()


async def _serve(options: dict[str, Any]) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        with contextlib.suppress(taut.ConnectionClosed):
            path = "/" if ws.request is None else ws.request.path
            async for message in ws:
                match path:
                    case "/stats":
                        await ws.send(json.dumps(dataclasses.asdict(ws.server.stats)))
                    case "/broadcast":
                        taut.broadcast(feeds, message)
                        await ws.send(str(len(feeds)))
                    case _:
                        await ws.send(message)

    async def either(ws: taut.ServerConnection) -> None:
        if ws.request is None or ws.request.path != "/feed":
            await handler(ws)
            return
        feeds.add(ws)
        await ws.wait_closed()
        feeds.discard(ws)

    feeds: set[taut.ServerConnection] = set()
    async with taut.serve(either, "127.0.0.1", 0, **options) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if "rate_limits" in given:
        given["rate_limits"] = taut.RateLimits(**given["rate_limits"])
    if "ssl" in given:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*given["ssl"])
        given["ssl"] = context
    if "shared_limits" in given:
        given["shared_limits"] = taut.RedisLimits(**given["shared_limits"])
    import uvloop

    uvloop.run(_serve(given))
