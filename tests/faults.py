"""A TCP proxy that treats connections badly, at byte positions, by a schedule that a seed determines or by hand.

Every connection through a ``FaultyProxy`` has a ``Plan``: a fault, and where it happens: after so many bytes in one
direction have been passed on, exactly, or after some time.  What comes before is passed on unchanged, though it may be
late, slow or in small pieces.  Plans come from ``FaultyProxy.plan``, or one after the other from a ``Schedule``, which
draws the same plans whenever it is given the same seed.  By hand, ``cut``, ``freeze``, ``thaw``, ``refuse`` and
``admit`` act on all connections at once.

"up" is from the client to the server, "down" the other way.  The kinds of faults:

=============  ======================================================================================================
``fin``        both sides see the end of the stream: their connections are shut down in order
``reset``      both sides see a reset
``blackhole``  nothing is passed on any more in either direction, and nothing is closed
``truncate``   the one direction ends as if the sender had shut it down, the other goes on
``refuse``     the connection is accepted and ended at once; the server never hears of it
=============  ======================================================================================================
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Self

Direction = Literal["up", "down"]
Kind = Literal["fin", "reset", "blackhole", "truncate", "refuse"]

CHUNK = 1 << 16
TICK = 0.02  # seconds between the reads of a throttled connection
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing resets


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of a connection.

    ``fault`` happens once ``after`` bytes were passed on in ``direction``, or ``seconds`` after the server was reached;
    None: nothing happens. Each read is passed on ``delay`` seconds late, at most ``rate`` bytes a second in each
    direction, in writes of at most ``piece`` bytes.
    """

    fault: Kind | None = None
    direction: Direction = "down"
    after: int = 0
    seconds: float | None = None
    delay: float = 0.0
    rate: float | None = None
    piece: int = CHUNK

    def __post_init__(self) -> None:
        if self.seconds is not None and self.fault not in {"fin", "reset", "blackhole"}:
            raise ValueError(f"seconds={self.seconds!r} goes with fin, reset and blackhole, not with {self.fault!r}")


class Schedule:
    """Draws the plan of every connection from a seed and the connection's number, so that a run can be repeated.

    Args:
        seed: Determines everything.
        faults: The kinds that are drawn from; None stands for a connection that nothing happens to.
        reach: The largest position of a fault, in bytes.
        delay: The largest delay, in seconds; half of the connections have none.
        pieces: The sizes of writes that are drawn from.
    """

    def __init__(
        self,
        seed: int,
        *,
        faults: Sequence[Kind | None] = ("fin", "reset", "truncate", "refuse"),
        reach: int = 4096,
        delay: float = 0.0,
        pieces: Sequence[int] = (CHUNK,),
    ) -> None:
        self.seed = seed
        self._faults = faults
        self._reach = reach
        self._delay = delay
        self._pieces = pieces

    def __repr__(self) -> str:
        return f"Schedule({self.seed})"

    def plan(self, number: int) -> Plan:
        """The plan of that connection; the first one is number 0."""
        draw = random.Random(f"{self.seed} {number}")
        return Plan(
            fault=draw.choice(self._faults),
            direction="up" if draw.random() < 0.5 else "down",
            # Small positions are in the opening handshake, and as likely as large ones.
            after=int(self._reach * draw.random() ** 2),
            delay=self._delay * draw.random() if draw.random() < 0.5 else 0.0,
            piece=draw.choice(self._pieces),
        )


def seed_of(name: str, default: int) -> int:
    """The seed for a test: ``FAULTS_SEED`` from the environment, or ``default``.

    It is printed, and pytest shows what a failed test has printed.
    """
    seed = int(os.environ.get("FAULTS_SEED", default))
    print(f"{name}: FAULTS_SEED={seed}")
    return seed


class FaultyProxy:
    """A proxy on a port of its own in front of a server; ``async with`` starts it, and ends all connections.

    Attributes:
        port: Where it listens on 127.0.0.1.
        plan: The plan of the next connections, if there is no schedule.
        counters: How often what happened: "accepted", "unreachable" (the server refused), "fin", "reset",
            "blackhole", "truncate", "refuse"; and the bytes passed on, "up" and "down".
    """

    def __init__(self, port: int, plan: Plan | None = None, *, schedule: Schedule | None = None) -> None:
        self.port = 0
        self.plan = plan or Plan()
        self.schedule = schedule
        self.counters: Counter[str] = Counter()
        self._server = ("127.0.0.1", port)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._lines: dict[asyncio.Task[None], _Line] = {}
        self._flow = asyncio.Event()
        self._flow.set()
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<FaultyProxy {self.schedule or self.plan} {dict(self.counters)}>"

    @property
    def url(self) -> str:
        """The URI of the server, by way of this proxy."""
        return f"ws://127.0.0.1:{self.port}/"

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._lines)

    # -- by hand -----------------------------------------------------------------------------------------------

    def cut(self, fault: Literal["fin", "reset", "blackhole"] = "reset") -> int:
        """Do that to all connections now; to how many it could be done."""
        return sum(line.end(fault) for line in self._lines.values())

    def freeze(self) -> None:
        """Pass nothing on until ``thaw``: what is sent meanwhile is only late."""
        self._flow.clear()

    def thaw(self) -> None:
        """Go on after ``freeze``."""
        self._flow.set()

    async def refuse(self) -> None:
        """Stop listening: connections are refused from here on; those that exist go on."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def admit(self) -> None:
        """Listen, at the same port as before."""
        if self._listener is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.setblocking(False)
            self._listener.bind(("127.0.0.1", self.port))
            self._listener.listen(128)
            self.port = self._listener.getsockname()[1]
            self._accepting = asyncio.create_task(self._accept(self._listener))

    async def until(self, counter: str, count: int) -> None:
        """Wait until that has happened so often."""
        while self.counters[counter] < count:
            self._changed.clear()
            await self._changed.wait()

    async def until_idle(self) -> None:
        """Wait until there is no connection."""
        while self._lines:
            self._changed.clear()
            await self._changed.wait()

    # -- inside ------------------------------------------------------------------------------------------------

    def count(self, name: str, number: int = 1) -> None:
        self.counters[name] += number
        self._changed.set()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            plan = self.schedule.plan(self.counters["accepted"]) if self.schedule else self.plan
            line = _Line(self, client, plan)
            self.count("accepted")
            task = asyncio.create_task(line.run(self._server, self._flow))
            self._lines[task] = line
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._lines[task]
        self._changed.set()
        if not task.cancelled():
            task.result()

    async def __aenter__(self) -> Self:
        self.admit()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        for task in self._lines:
            task.cancel()
        await self.until_idle()


class _Line:
    """A connection through the proxy."""

    def __init__(self, proxy: FaultyProxy, client: socket.socket, plan: Plan) -> None:
        self._proxy = proxy
        self._plan = plan
        self._client = client
        self._server = socket.socket()
        self._fault: Kind | None = None
        self._running = 0
        self._ended = asyncio.Event()
        for sock in (client, self._server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def end(self, fault: Kind) -> bool:
        """Have this happen now, unless something has; a blackhole may still be cut."""
        if self._fault not in {None, "blackhole"} or self._fault == fault:
            return False
        self._fault = fault
        self._proxy.count(fault)
        self._ended.set()
        return True

    async def run(self, address: tuple[str, int], flow: asyncio.Event) -> None:
        """Pass on what comes until a fault, or until both sides have ended."""
        timer = None
        try:
            if self._plan.fault == "refuse":
                self.end("refuse")
            else:
                loop = asyncio.get_running_loop()
                await loop.sock_connect(self._server, address)
                if self._plan.seconds is not None and self._plan.fault:
                    timer = loop.call_later(self._plan.seconds, self.end, self._plan.fault)
                await self._pass_on(flow)
            while self._fault == "blackhole":
                self._ended.clear()
                await self._ended.wait()
            if self._fault in {"fin", "refuse"}:
                await self._shut_down()
        except ConnectionRefusedError:
            self._proxy.count("unreachable")
        finally:
            if timer is not None:
                timer.cancel()
            for sock in (self._client, self._server):
                if self._fault == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                sock.close()

    async def _pass_on(self, flow: asyncio.Event) -> None:
        self._running = 2
        directions = [
            asyncio.create_task(self._forward("up", self._client, self._server, flow)),
            asyncio.create_task(self._forward("down", self._server, self._client, flow)),
        ]
        try:
            await self._ended.wait()
        finally:
            for task in directions:
                task.cancel()
            await asyncio.wait(directions)

    async def _forward(
        self, direction: Direction, source: socket.socket, sink: socket.socket, flow: asyncio.Event
    ) -> None:
        loop, plan = asyncio.get_running_loop(), self._plan
        left = plan.after if plan.fault and plan.seconds is None and plan.direction == direction else None
        most = min(CHUNK, plan.piece, max(1, int(plan.rate * TICK)) if plan.rate else CHUNK)
        try:
            while left != 0:
                data = await loop.sock_recv(source, min(most, left or CHUNK))
                if plan.delay:
                    await asyncio.sleep(plan.delay)
                await flow.wait()
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(sink, data)
                self._proxy.count(direction, len(data))
                if left is not None:
                    left -= len(data)
                if plan.rate:
                    await asyncio.sleep(len(data) / plan.rate)
            if plan.fault == "truncate":
                self._proxy.count("truncate")
                sink.shutdown(socket.SHUT_WR)
                await _discard(source)
            elif plan.fault:
                self.end(plan.fault)
        except OSError:
            # One side is gone without ceremony: so is the other.
            if self._fault is None:
                self._fault = "reset"
                self._ended.set()
        finally:
            self._running -= 1
            if not self._running:
                self._ended.set()

    async def _shut_down(self) -> None:
        """Let both sides see the end of the stream: closing with data unread would reset the connection."""
        both = (self._client, self._server) if self._fault == "fin" else (self._client,)
        for sock in both:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        for sock in both:
            with suppress(OSError):
                await _discard(sock)


async def _discard(sock: socket.socket) -> None:
    """Read to the end."""
    loop = asyncio.get_running_loop()
    while await loop.sock_recv(sock, CHUNK):
        pass
