"""A session over a line that breaks thousands of times, with a ledger of what was sent, delivered and acknowledged.

Everything is numbered: the messages, and the connections, whose number the client announces first.  The proxy between
the two sides breaks every connection at a place that the seed determines, some of them within the opening handshake,
some by falling silent, until there were enough; then it lets everything pass, and the books have to balance.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import FaultyProxy, Schedule, seed_of

import taut

FAULTS = ("fin", "reset", "truncate", "refuse") * 30 + ("blackhole",)
POLICY = taut.ReconnectPolicy(base_delay=0.001, max_delay=0.003, retry_first=True)
QUEUE = taut.OfflineQueue(max_messages=100)
# A line that has fallen silent has to be noticed soon.
IMPATIENT = {"ping_interval": 0.1, "ping_timeout": 0.1, "open_timeout": 0.3, "close_timeout": 0.2}


@dataclass(frozen=True)
class Entry:
    """A message on a connection."""

    connection: int
    number: int


@dataclass
class Ledger:
    """What both sides know together."""

    breaks: int = 1000
    """How many connections the proxy breaks, at least."""
    sent: int = 0
    """Messages 0 to ``sent`` - 1 were accepted by the session."""
    connections: int = 0
    delivered: list[Entry] = field(default_factory=list)
    """What arrived at the server, which answers each."""
    answered: list[Entry] = field(default_factory=list)
    """The answers that arrived at the client."""
    losses: list[taut.Loss] = field(default_factory=list)

    # -- the server's side -------------------------------------------------------------------------------------

    async def serve(self, ws: taut.ServerConnection) -> None:
        connection = 0
        async for message in ws:
            assert isinstance(message, str)
            word, number = message.split()
            if word == "connection":
                assert not connection
                connection = int(number)
            else:
                assert connection, "a message came before what on_connect sends"
                self.delivered.append(Entry(connection, int(number)))
                await ws.send(f"{connection} {number}")

    # -- the client's side -------------------------------------------------------------------------------------

    def session(self, proxy: FaultyProxy, queue: taut.OfflineQueue = QUEUE, **options: Any) -> taut.Session:
        return taut.Session(
            proxy.url,
            policy=POLICY,
            queue=queue,
            on_connect=self.announce,
            on_lost=self.losses.append,
            compression=None,
            **(IMPATIENT | options),
        )

    async def announce(self, _: taut.Session, connection: taut.ClientConnection) -> None:
        self.connections += 1
        await connection.send(f"connection {self.connections}")

    def ack(self) -> taut.Ack:
        return taut.Ack(sent=lambda message: int(message.split()[1]), received=self.answer)

    def answer(self, message: taut.Data) -> int:
        connection, number = map(int, message.split())
        self.answered.append(Entry(connection, number))
        return number

    async def send(self, session: taut.Session, count: int) -> None:
        for _ in range(count):
            await session.send(f"message {self.sent}")
            self.sent += 1

    async def send_until_broken(self, session: taut.Session, proxy: FaultyProxy, pace: float = 0.0) -> None:
        """Send until enough connections were broken, and some more when nothing is broken any more."""
        while proxy.counters["accepted"] < self.breaks:
            await self.send(session, 5)
            await asyncio.sleep(pace)
        proxy.schedule = None  # from here on the plan that breaks nothing
        proxy.cut()
        await proxy.until("accepted", proxy.counters["accepted"] + 1)
        await self.send(session, 50)
        await session.drain()

    # -- the balance -------------------------------------------------------------------------------------------

    def in_order(self) -> list[Entry]:
        """What was delivered, connection by connection.

        A server may still be reading what an old connection brought while the next one is there already: no client can
        know, let alone prevent it.
        """
        return sorted(self.delivered, key=lambda entry: entry.connection)

    def check_each_connection(self) -> None:
        """On one connection nothing is sent twice, nothing overtakes, and answers are received as they were sent."""
        for before, after in itertools.pairwise(self.in_order()):
            assert after.number > before.number or after.connection > before.connection, (before, after)
        delivered, answered = _by_connection(self.delivered), _by_connection(self.answered)
        for connection, numbers in answered.items():
            assert numbers == delivered[connection][: len(numbers)], connection

    def check_acknowledged_mode(self) -> None:
        """Nothing is lost, first deliveries are in order, and only what was in flight at a break came again."""
        self.check_each_connection()
        first = dict.fromkeys(entry.number for entry in self.in_order())
        assert list(first) == list(range(self.sent)), "lost, invented or out of order"
        answered_on = {entry.number: entry.connection for entry in reversed(self.answered)}
        for entry in self.delivered:
            assert entry.connection <= answered_on[entry.number], f"{entry} was known to have arrived"
        assert len(self.delivered) > self.sent, "nothing was in flight at a break, which proves nothing"
        assert not self.losses

    def check_without_acknowledgements(self) -> None:
        """Nothing comes twice or out of order, and what did not come is reported."""
        self.check_each_connection()
        arrived = [entry.number for entry in self.in_order()]
        assert arrived == sorted(set(arrived)), "doubled or out of order"
        missing = self.sent - len(arrived)
        assert missing > 0, "nothing was lost, which proves nothing"
        assert missing <= sum(loss.count for loss in self.losses) <= self.sent


def _by_connection(entries: list[Entry]) -> dict[int, list[int]]:
    numbers: dict[int, list[int]] = {}
    for entry in entries:
        numbers.setdefault(entry.connection, []).append(entry.number)
    return numbers


@asynccontextmanager
async def faulty_server(ledger: Ledger, seed: int) -> AsyncIterator[FaultyProxy]:
    """The server, behind a proxy that breaks all connections; at the end everything has arrived that ever will."""
    schedule = Schedule(seed_of("ledger", seed), faults=FAULTS, reach=2000, delay=0.001, pieces=(60, 1 << 16))
    async with (
        taut.serve(ledger.serve, "127.0.0.1", 0, compression=None, close_timeout=0.1) as server,
        FaultyProxy(server.sockets[0].getsockname()[1], schedule=schedule) as proxy,
    ):
        yield proxy
    assert proxy.counters["accepted"] > ledger.breaks, proxy
    assert all(proxy.counters[fault] for fault in FAULTS), proxy


async def test_acknowledged_messages_arrive_and_come_again_only_after_a_break() -> None:
    ledger = Ledger()
    async with faulty_server(ledger, 1) as proxy, ledger.session(proxy, ack=ledger.ack()) as session:
        await ledger.send_until_broken(session, proxy)
        assert session.stats.acknowledged == ledger.sent
        assert session.stats.resent >= len(ledger.delivered) - ledger.sent
    ledger.check_acknowledged_mode()


async def test_without_acknowledgements_nothing_is_doubled_and_every_loss_is_reported() -> None:
    ledger = Ledger()

    async def read(session: taut.Session) -> None:
        async for message in session:
            ledger.answer(message)

    async with faulty_server(ledger, 2) as proxy:
        # Enough time for the last connection to be closed in order, however busy the machine is.
        async with ledger.session(proxy, close_timeout=5.0) as session:
            reading = asyncio.create_task(read(session))
            await ledger.send_until_broken(session, proxy, pace=0.0005)
            before_the_end = len(ledger.losses)
        await reading
        # It was: nothing of it is in doubt.
        assert len(ledger.losses) == before_the_end
        assert session.stats.lost == {"unconfirmed": sum(loss.count for loss in ledger.losses)}
    ledger.check_without_acknowledgements()


async def test_a_queue_in_a_file_survives_its_sessions(tmp_path: Path) -> None:
    ledger, queue = Ledger(breaks=500), taut.OfflineQueue(max_messages=100, path=tmp_path / "queue")
    async with faulty_server(ledger, 3) as proxy:
        while proxy.counters["accepted"] < ledger.breaks:
            async with ledger.session(proxy, queue, ack=ledger.ack()) as session:
                for _ in range(20):
                    await ledger.send(session, 10)
        proxy.schedule = None
        async with ledger.session(proxy, queue, ack=ledger.ack()) as session:
            await session.drain()
    ledger.check_acknowledged_mode()
