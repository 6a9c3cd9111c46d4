"""A session over real connections: what it survives, what it reports, how it ends, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import taut
from taut.client.outbox.journal import JournalError
from taut.client.outbox.outbox import Ack, Loss, OfflineQueue, Outbox
from taut.client.reconnection import Backoff, ReconnectPolicy
from taut.client.session.lifecycle import TRANSITIONS, Lifecycle, SessionState
from taut.client.session.session import Session
from taut.errors import (
    ConcurrencyError,
    ConnectError,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    ConnectRefused,
    InvalidStatus,
    InvalidURI,
    ProxyError,
    QueueFull,
    ReconnectFailed,
)
from taut.types import Response

QUICK = ReconnectPolicy(base_delay=0.001, max_delay=0.01, stable_after=0)
OPEN, BACKING_OFF, CONNECTING = SessionState.OPEN, SessionState.BACKING_OFF, SessionState.CONNECTING
CLOSING, CLOSED = SessionState.CLOSING, SessionState.CLOSED

Handler = Callable[[taut.ServerConnection], Any]


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


def uri_of(server: taut.Server, path: str = "/") -> str:
    return f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def session_to(target: Any, **options: Any) -> Session:
    options.setdefault("policy", QUICK)
    return Session(target, **options)


@asynccontextmanager
async def serving(handler: Handler, port: int = 0, **options: Any) -> AsyncIterator[taut.Server]:
    async with taut.serve(handler, "127.0.0.1", port, **options) as server:
        yield server


class Script:
    """A server's handler: one function for each connection, in turn; the last one stays."""

    def __init__(self, *handlers: Handler) -> None:
        self.handlers = handlers
        self.connections: list[taut.ServerConnection] = []

    async def __call__(self, ws: taut.ServerConnection) -> None:
        handler = self.handlers[min(len(self.connections), len(self.handlers) - 1)]
        self.connections.append(ws)
        await handler(ws)


def closing(code: int, reason: str = "") -> Handler:
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.close(code, reason)

    return handler


async def aborting(ws: taut.ServerConnection) -> None:
    ws.abort()


async def abort_at_message(ws: taut.ServerConnection) -> None:
    await ws.recv()
    ws.abort()


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so: for what wakes nobody."""
    while not condition():
        await asyncio.sleep(0)


async def lose(session: Session, script: Script, code: int = 1012) -> None:
    """The server closes the connection, and the session notices."""
    noticed = asyncio.ensure_future(session.wait_state(BACKING_OFF))
    await until(lambda: bool(script.connections))
    await script.connections[-1].close(code)
    await noticed


# -- the states ----------------------------------------------------------------------------------------------------


def reached(state: SessionState, path: tuple[SessionState, ...] = ()) -> Lifecycle:
    """A lifecycle in that state, by the shortest way."""
    ways: dict[SessionState, tuple[SessionState, ...]] = {
        CONNECTING: (),
        OPEN: (OPEN,),
        BACKING_OFF: (BACKING_OFF,),
        CLOSING: (CLOSING,),
        CLOSED: (CLOSED,),
    }
    lifecycle = Lifecycle(lambda old, new: None)
    for step in ways[state]:
        lifecycle.enter(step)
    return lifecycle


@pytest.mark.parametrize("old", SessionState)
@pytest.mark.parametrize("new", SessionState)
def test_states_follow_the_table(old: SessionState, new: SessionState) -> None:
    lifecycle = reached(old)
    if new is old or new in TRANSITIONS[old]:
        lifecycle.enter(new)
        assert lifecycle.state is new
    else:
        with pytest.raises(RuntimeError, match=f"a session that is {old.value} cannot become {new.value}"):
            lifecycle.enter(new)
        assert lifecycle.state is old


async def test_states_are_told_and_waited_for() -> None:
    seen: list[tuple[SessionState, SessionState]] = []
    script = Script(echo)
    async with serving(script) as server:
        session = session_to(uri_of(server), on_state=lambda old, new: seen.append((old, new)))
        assert session.state is CONNECTING
        async with session:
            waiting = [asyncio.ensure_future(session.wait_state(state)) for state in (BACKING_OFF, CONNECTING)]
            await lose(session, script)
            assert await asyncio.gather(*waiting) == [BACKING_OFF, CONNECTING]
            await session.wait_open()
            assert (session.state, session.attempt, session.retry_at) == (OPEN, 0, None)
            assert await session.wait_state(OPEN, CLOSED) is OPEN
        assert session.state is CLOSED
        assert await session.wait_state(CLOSED) is CLOSED
        with pytest.raises(ConnectionClosedOK):
            await session.wait_open()
    assert seen == [
        (CONNECTING, OPEN),
        (OPEN, BACKING_OFF),
        (BACKING_OFF, CONNECTING),
        (CONNECTING, OPEN),
        (OPEN, CLOSING),
        (CLOSING, CLOSED),
    ]


# -- going on ------------------------------------------------------------------------------------------------------


async def test_every_code_that_allows_it_is_survived() -> None:
    codes = [1000, 1001, 1011, 1012, 1013, 1014, 3000, 3499]
    script = Script(*(closing(code) for code in codes), echo)
    reasons: list[int] = []

    def on_disconnect(reason: Exception, attempt: int) -> None:
        assert isinstance(reason, ConnectionClosed)
        reasons.append(reason.code)

    async with serving(script) as server, session_to(uri_of(server), on_disconnect=on_disconnect) as session:
        await until(lambda: len(script.connections) == len(codes) + 1)
        await session.send("still there")
        assert await session.recv() == "still there"
        assert session.stats.connections == len(codes) + 1
        assert session.stats.drops == len(codes)
    assert reasons == codes


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1008, 1009, 1010, 3500, 4000, 4999])
async def test_a_final_code_ends_the_session(code: int) -> None:
    script = Script(closing(code, "no"))
    async with serving(script) as server:
        session = await session_to(uri_of(server))
        with pytest.raises(ReconnectFailed) as caught:
            await session.recv()
        assert isinstance(caught.value.reason, ConnectionClosedError)
        assert (caught.value.reason.code, caught.value.reason.reason) == (code, "no")
        await session.wait_closed()
        assert session.state is CLOSED
        for call in (session.send("x"), session.recv(), session.drain(), session.wait_open()):
            with pytest.raises(ReconnectFailed):
                await call
        with pytest.raises(ReconnectFailed):
            await anext(session)
        await session.close()
    assert len(script.connections) == 1


async def test_a_lost_connection_is_replaced() -> None:
    async with serving(Script(abort_at_message, echo)) as server, session_to(uri_of(server)) as session:
        first = session.connection
        await session.send("dropped")
        await session.wait_state(BACKING_OFF)
        await session.send("queued")
        assert await session.recv() == "queued"
        assert session.connection is not first
        assert isinstance(session.last_error, ConnectionClosedError)


async def test_nothing_of_a_connection_outlives_it() -> None:
    script = Script(echo)
    async with serving(script) as server, session_to(uri_of(server)) as session:
        first = session.connection
        await lose(session, script)
        await session.wait_open()
        second = session.connection
        assert first is not None
        assert second is not None
        assert first.session is not second.session
        assert first.request is not None
        assert second.request is not None
        assert first.request.headers["Sec-WebSocket-Key"] != second.request.headers["Sec-WebSocket-Key"]
        assert second.stats.messages_received == 0


async def test_a_server_that_vanishes_and_comes_back() -> None:
    port = free_port()
    received: list[Any] = []

    async def record(ws: taut.ServerConnection) -> None:
        async for message in ws:
            received.append(message)
            await ws.send(message)

    async with serving(record, port) as server:
        session = await session_to(uri_of(server))
    await session.wait_state(BACKING_OFF)
    for i in range(50):
        await session.send(str(i))
    await until(lambda: session.stats.attempts >= 5)
    assert len(session.attempts) >= 3
    assert session.attempt > 1
    async with serving(record, port):
        for i in range(50):
            assert await session.recv() == str(i)
        await session.close()
    assert received == [str(i) for i in range(50)]
    assert session.stats.lost == {}


async def test_restarts_under_traffic() -> None:
    port = free_port()
    async with serving(echo, port) as server:
        session = await session_to(f"ws://127.0.0.1:{port}/", queue=OfflineQueue(max_messages=5))
        seen: list[Any] = []

        async def produce() -> None:
            for i in range(300):
                await session.send(str(i))
                if i % 10 == 0:
                    await asyncio.sleep(0)

        async def consume() -> None:
            async for message in session:
                seen.append(message)

        producer, consumer = asyncio.ensure_future(produce()), asyncio.ensure_future(consume())
        for _ in range(5):
            count = len(seen)
            await until(lambda count=count: len(seen) > count or producer.done())  # type: ignore[misc]
            server.close(code=1012)
            await server.wait_closed()
            server = await taut.serve(echo, "127.0.0.1", port)  # noqa: PLW2901
        await producer
        await session.drain()
        await session.send("last")
        await until(lambda: bool(seen) and seen[-1] == "last")
        await session.close()
        await consumer
        server.close()
        await server.wait_closed()
    numbers = [int(each) for each in seen[:-1]]
    assert numbers == sorted(set(numbers)), "doubled, or out of order"
    lost = session.stats.lost
    assert set(lost) <= {"unconfirmed"}
    assert 300 - len(numbers) <= lost.get("unconfirmed", 0), "lost without a report"


# -- the first connection ------------------------------------------------------------------------------------------


async def test_the_first_failure_is_raised_as_it_is() -> None:
    states: list[SessionState] = []
    session = session_to(f"ws://127.0.0.1:{free_port()}/", on_state=lambda old, new: states.append(new))
    with pytest.raises(ConnectRefused) as caught:
        await session
    assert caught.value.attempts == session.attempts != ()
    assert session.last_error is caught.value
    assert states == [CLOSED]
    with pytest.raises(ReconnectFailed, match="retry_first") as later:
        await session.recv()
    assert later.value.reason is caught.value
    assert later.value.attempts == session.attempts


@pytest.mark.parametrize("retry_first", [False, True])
async def test_a_proxy_of_the_environment_that_cannot_be_used(
    retry_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "ftp://gate")
    policy = ReconnectPolicy(retry_first=retry_first)
    with pytest.raises(ConnectError) as caught:
        await session_to("ws://server.test/", policy=policy)
    error = caught.value.reason if isinstance(caught.value, ReconnectFailed) else caught.value
    assert isinstance(error, ProxyError)
    assert isinstance(caught.value, ReconnectFailed) == retry_first
    assert len(caught.value.attempts) == 1
    with pytest.raises(ProxyError):
        async for _ in taut.connect("ws://server.test/", reconnect=policy):
            raise AssertionError("there is no way")


async def test_the_policy_for_the_first_connection_as_well() -> None:
    port = free_port()
    policy = ReconnectPolicy(base_delay=0.001, max_delay=0.01, retry_first=True)
    session = session_to(f"ws://127.0.0.1:{port}/", policy=policy)

    async def start() -> Session:
        return await session

    starting = asyncio.ensure_future(start())
    await until(lambda: session.stats.attempts > 3)
    await session.send("already")
    async with serving(echo, port):
        assert await starting is session
        assert await session.recv() == "already"
        await session.close()


@pytest.mark.parametrize("retry_first", [False, True])
async def test_a_refusal_is_final(retry_first: bool) -> None:
    def refuse(connection: taut.ServerConnection, request: taut.Request) -> Response:
        return connection.respond(401, "who are you?")

    policy = ReconnectPolicy(base_delay=0.001, retry_first=retry_first)
    async with serving(echo, process_request=refuse) as server:
        with pytest.raises(ReconnectFailed if retry_first else InvalidStatus) as caught:
            async with session_to(uri_of(server), policy=policy):
                raise AssertionError("it was opened")
        reason = caught.value.reason if isinstance(caught.value, ReconnectFailed) else caught.value
        assert isinstance(reason, InvalidStatus)
        assert reason.response.status_code == 401


async def test_it_can_be_started_once() -> None:
    async with serving(echo) as server:
        session = session_to(uri_of(server))
        for call in (session.send("x"), session.recv(), session.drain(), session.wait_closed()):
            with pytest.raises(RuntimeError, match="not started"):
                await call
        async with session:
            with pytest.raises(RuntimeError, match="once"):
                await session
        with pytest.raises(RuntimeError, match="once"):
            await session
        unused = session_to(uri_of(server))
        await unused.close()
        assert unused.state is CLOSED
        with pytest.raises(RuntimeError, match="once"):
            await unused


# -- when ----------------------------------------------------------------------------------------------------------


async def test_retry_after_of_a_refusal_is_honoured() -> None:
    refusals = 0

    def refuse(connection: taut.ServerConnection, request: taut.Request) -> Response | None:
        nonlocal refusals
        refusals += 1
        if refusals == 1:
            return None
        response = connection.respond(429, "slowly")
        response.headers["Retry-After"] = "100"
        return response

    async with serving(closing(1012), process_request=refuse) as server:
        async with session_to(uri_of(server)) as session:
            await until(lambda: refusals == 2 and session.retry_at is not None)
            assert session.retry_at is not None
            assert 99 < session.retry_at - asyncio.get_running_loop().time() <= 100.1
            assert (session.state, session.attempt) == (BACKING_OFF, 2)
            assert isinstance(session.last_error, InvalidStatus)
        assert session.retry_at is None


async def test_retry_after_of_a_close_is_honoured() -> None:
    async with serving(closing(1013, "retry-after=50")) as server, session_to(uri_of(server)) as session:
        await until(lambda: session.retry_at is not None)
        assert session.retry_at is not None
        assert 49 < session.retry_at - asyncio.get_running_loop().time() <= 50.1


async def test_a_server_that_accepts_and_closes_is_given_up() -> None:
    script = Script(closing(1000))
    policy = ReconnectPolicy(base_delay=0.001, max_attempts=5)
    async with serving(script) as server:
        session = await session_to(uri_of(server), policy=policy)
        with pytest.raises(ReconnectFailed, match=r"5 attempts failed \(max_attempts\)"):
            await session.recv()
        await session.wait_closed()
    assert len(script.connections) == 5
    assert session.stats.attempts == 5


async def test_without_any_delay_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Backoff.__init__.__kwdefaults__, "draw", lambda: 0.0)
    policy = ReconnectPolicy(max_attempts=50, retry_first=True)
    calls: list[int] = []
    turns = 0

    def factory(attempt: int) -> str:
        calls.append(attempt)
        raise ConnectionRefusedError("at once, without any waiting")

    async def start() -> None:
        await session_to(factory, policy=policy)

    starting = asyncio.ensure_future(start())
    while not starting.done():
        turns += 1
        await asyncio.sleep(0)
    with pytest.raises(ReconnectFailed, match="50 attempts failed"):
        await starting
    assert calls == list(range(1, 51))
    assert turns >= 50


async def test_the_limit_of_time() -> None:
    port = free_port()
    policy = ReconnectPolicy(base_delay=0.001, max_delay=0.01, max_time=0.1, stable_after=0)
    async with serving(echo, port) as server:
        session = await session_to(uri_of(server), policy=policy)
    with pytest.raises(ReconnectFailed, match=r"within 0.1 s \(max_time\)") as caught:
        await session.recv()
    assert isinstance(caught.value.reason, ConnectRefused)
    assert 0 < len(caught.value.attempts) <= 32
    await session.wait_closed()


# -- hooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_on_disconnect_may_stop(asynchronous: bool) -> None:
    calls: list[tuple[Exception, int]] = []

    def stop(reason: Exception, attempt: int) -> bool:
        calls.append((reason, attempt))
        return False

    async def stop_later(reason: Exception, attempt: int) -> bool:
        await asyncio.sleep(0)
        return stop(reason, attempt)

    async with serving(closing(1012)) as server:
        session = await session_to(uri_of(server), on_disconnect=stop_later if asynchronous else stop)
        with pytest.raises(ReconnectFailed, match="on_disconnect gave up"):
            await session.recv()
        await session.wait_closed()
    assert [attempt for _, attempt in calls] == [1]


async def test_on_disconnect_may_go_on() -> None:
    script = Script(closing(1008), closing(4000), echo)
    policy = ReconnectPolicy(base_delay=0.001, max_attempts=1)
    attempts: list[int] = []

    def go_on(reason: Exception, attempt: int) -> bool:
        attempts.append(attempt)
        return True

    async with serving(script) as server, session_to(uri_of(server), policy=policy, on_disconnect=go_on) as session:
        await until(lambda: len(script.connections) == 3)
        await session.send("here")
        assert await session.recv() == "here"
    assert attempts == [2, 3]  # connections that did not last are failures


@pytest.mark.parametrize("kind", ["uri", "connect"])
async def test_on_disconnect_may_name_another_endpoint(kind: str) -> None:
    first, second = Script(closing(1008)), Script(closing(1012), echo)
    async with serving(first) as one, serving(second) as other:

        def elsewhere(reason: Exception, attempt: int) -> Any:
            if len(second.connections):
                return None
            return uri_of(other) if kind == "uri" else taut.connect(uri_of(other))

        async with session_to(uri_of(one), on_disconnect=elsewhere) as session:
            await until(lambda: len(second.connections) == 2)
            await session.send("there")
            assert await session.recv() == "there"
    assert len(first.connections) == 1


@pytest.mark.parametrize("answer", ["http://wrong/", 5, b"ws://x/"])
async def test_another_answer_of_on_disconnect_is_an_error(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(closing(1012)) as server:
        session = await session_to(uri_of(server), on_disconnect=lambda reason, attempt: answer)
        with pytest.raises(ReconnectFailed, match="on_disconnect failed") as caught:
            await session.recv()
        assert isinstance(caught.value.reason, InvalidURI if isinstance(answer, str) else TypeError)
        await session.wait_closed()
    assert "session: on_disconnect failed" in caplog.text


async def test_news_are_told_in_order() -> None:
    told: list[SessionState] = []

    async def on_state(old: SessionState, new: SessionState) -> None:
        for _ in range(3 if new is OPEN else 0):
            await asyncio.sleep(0)
        told.append(new)

    script = Script(echo)
    async with serving(script) as server, session_to(uri_of(server), on_state=on_state) as session:
        await lose(session, script)
        await session.wait_open()
    assert told == [OPEN, BACKING_OFF, CONNECTING, OPEN, CLOSING, CLOSED]


async def test_a_hook_that_does_not_end_is_cancelled() -> None:
    cancelled: list[str] = []

    async def on_state(old: SessionState, new: SessionState) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(new.value)

    async with serving(echo) as server, session_to(uri_of(server), on_state=on_state, close_timeout=0.05):
        pass
    assert cancelled == ["open"]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_state", "on_lost"])
async def test_a_hook_that_raises_is_final(name: str, asynchronous: bool, caplog: pytest.LogCaptureFixture) -> None:
    def bad(*arguments: Any) -> None:
        raise LookupError("a mistake")

    async def bad_later(*arguments: Any) -> None:
        await asyncio.sleep(0)
        bad()

    hook: Any = {name: bad_later if asynchronous else bad}
    async with serving(Script(abort_at_message, echo)) as server:
        session = session_to(uri_of(server), **hook)
        try:
            await session
            await session.send("x")
            with pytest.raises(ReconnectFailed) as caught:
                await session.recv()
        except ReconnectFailed as exc:
            assert name in ("on_connect", "on_state")
            failure: BaseException = exc.reason
        else:
            failure = caught.value.reason
        assert isinstance(failure, LookupError)
        await session.wait_closed()
    assert f"session: {name} failed" in caplog.text
    assert "a mistake" in caplog.text


async def test_a_session_that_fails_while_open_closes_its_connection() -> None:
    def on_state(old: SessionState, new: SessionState) -> None:
        if new is OPEN:
            raise LookupError("a mistake")

    script = Script(echo)
    async with serving(script) as server:
        session = session_to(uri_of(server), on_state=on_state)
        with pytest.raises(ReconnectFailed, match="on_state failed"):
            await session
            await session.recv()
        await session.wait_closed()
        await until(lambda: script.connections[0].closed)
    assert script.connections[0].close_code == 1011


async def test_a_classifier_that_raises_is_final(caplog: pytest.LogCaptureFixture) -> None:
    def classify(exc: BaseException) -> bool:
        raise LookupError("a mistake")

    async with serving(closing(1012)) as server:
        session = await session_to(uri_of(server), policy=ReconnectPolicy(classify=classify))
        with pytest.raises(ReconnectFailed, match="classify failed"):
            await session.recv()
        await session.wait_closed()
    assert "a mistake" in caplog.text


@pytest.mark.parametrize("name", ["on_connect", "on_disconnect", "on_state", "on_lost"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_hook_may_close_the_session(name: str, asynchronous: bool) -> None:
    async def close(*arguments: Any) -> None:
        await session.close(4001, "from a hook")

    tasks: list[asyncio.Task[None]] = []

    def close_sync(*arguments: Any) -> None:
        if not tasks:
            tasks.append(asyncio.ensure_future(close()))

    hook: Any = {name: close if asynchronous else close_sync}
    async with serving(Script(abort_at_message, echo)) as server:
        session = session_to(uri_of(server), **hook)

        async def use() -> None:
            await session
            await session.send("x")
            while True:
                await session.recv()

        with pytest.raises(ConnectionClosedOK) as caught:
            await use()
        assert caught.value.code == 4001
        await session.wait_closed()
        await asyncio.gather(*tasks)
    assert session.state is CLOSED


async def test_on_connect_comes_before_everything_else() -> None:
    received: list[list[Any]] = []

    async def record(ws: taut.ServerConnection) -> None:
        mine: list[Any] = []
        received.append(mine)
        async for message in ws:
            mine.append(message)
            if message == "drop":
                ws.abort()
            await ws.send(message)

    async def subscribe(session: Session, connection: taut.ClientConnection) -> None:
        assert session.connection is connection
        assert session.state is CONNECTING
        await connection.send("subscribe")
        await session.send(f"queued {session.stats.connections}")
        assert await connection.recv() == "subscribe"

    async with serving(record) as server, session_to(uri_of(server), on_connect=subscribe) as session:
        await session.send("one")
        assert [await session.recv() for _ in range(2)] == ["queued 1", "one"]
        await session.send("drop")
        await session.wait_state(BACKING_OFF)
        await session.send("two")
        assert [await session.recv() for _ in range(2)] == ["two", "queued 2"]
    assert received == [["subscribe", "queued 1", "one", "drop"], ["subscribe", "two", "queued 2"]]


@pytest.mark.parametrize("name", ["recv", "anext", "wait_open", "wait_state", "wait_closed", "drain"])
async def test_what_would_wait_for_the_hook_itself_is_refused_in_it(name: str) -> None:
    problems: list[str] = []

    async def hook(*arguments: Any) -> None:
        await session.send(str(len(problems)))  # this only queues it
        with pytest.raises(RuntimeError) as caught:
            await calls[name]()
        problems.append(str(caught.value))
        assert await session.wait_state(session.state) is session.state  # which it is in already

    async with serving(Script(abort_at_message, echo)) as server:
        session = session_to(uri_of(server), on_connect=hook, on_disconnect=hook)
        calls: dict[str, Callable[[], Any]] = {
            "recv": session.recv,
            "anext": lambda: anext(session),
            "wait_open": session.wait_open,
            "wait_state": lambda: session.wait_state(OPEN),
            "wait_closed": session.wait_closed,
            "drain": session.drain,
        }
        async with session:
            assert await session.recv() in ("1", "2")
    assert len(problems) == 3
    assert "in one of its hooks" in problems[0]


async def test_a_hook_cannot_wait_for_room_in_the_queue() -> None:
    async def hook(session: Session, connection: taut.ClientConnection) -> None:
        await session.send("one")
        with pytest.raises(RuntimeError, match=r"send\(\) of a session cannot be awaited in one of its hooks"):
            await session.send("two")

    async with (
        serving(echo) as server,
        session_to(uri_of(server), queue=OfflineQueue(max_messages=1), on_connect=hook) as session,
    ):
        assert await session.recv() == "one"
        await session.send("two")
        assert await session.recv() == "two"


async def test_news_may_be_used_to_wait_for_more() -> None:
    """What is told of news runs beside the session, and may wait for it, but not for its end."""
    heard: list[Any] = []

    async def on_state(old: SessionState, new: SessionState) -> None:
        if new is OPEN:
            heard.append(await session.recv())
            with pytest.raises(RuntimeError, match="wait_closed"):
                await session.wait_closed()
            news.set()

    news = asyncio.Event()
    async with serving(echo) as server:
        session = session_to(uri_of(server), on_state=on_state)
        async with session:
            await session.send("x")
            await news.wait()
    assert heard == ["x"]


async def test_a_connection_lost_in_on_connect_is_a_lost_connection() -> None:
    async def wait(session: Session, connection: taut.ClientConnection) -> None:
        await connection.recv()

    async def welcome(ws: taut.ServerConnection) -> None:
        await ws.send("welcome")
        await echo(ws)

    script = Script(aborting, closing(1012), welcome)
    async with serving(script) as server, session_to(uri_of(server), on_connect=wait) as session:
        await session.send("x")
        assert await session.recv() == "x"
    assert session.stats.drops == 2
    assert session.stats.lost == {}


# -- the factory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async", "connect"])
async def test_the_factory_is_asked_for_every_attempt(kind: str) -> None:
    tokens: list[str] = []
    attempts: list[int] = []

    def refuse(connection: taut.ServerConnection, request: taut.Request) -> Response | None:
        tokens.append(request.path if kind != "connect" else request.headers["Authorization"])
        return connection.respond(503, "not now") if len(tokens) in (2, 3) else None

    async with serving(Script(closing(1012), echo), process_request=refuse) as server:

        def factory(attempt: int) -> Any:
            attempts.append(attempt)
            token = len(attempts)
            if kind == "connect":
                return taut.connect(uri_of(server), bearer_token=f"t{token}")
            return uri_of(server, f"/?token={token}")

        async def factory_later(attempt: int) -> Any:
            await asyncio.sleep(0)
            return factory(attempt)

        async with session_to(factory_later if kind == "async" else factory) as session:
            await until(lambda: len(tokens) == 4)
            await session.send("x")
            assert await session.recv() == "x"
    assert attempts == [1, 1, 2, 3]
    form = "Bearer t{}" if kind == "connect" else "/?token={}"
    assert tokens == [form.format(n) for n in (1, 2, 3, 4)]


async def test_a_factory_that_fails_to_reach_something_is_asked_again() -> None:
    calls = 0
    async with serving(Script(closing(1012), echo)) as server:

        async def factory(attempt: int) -> str:
            nonlocal calls
            calls += 1
            if calls in (2, 3):
                raise ConnectionResetError("the token service is down")
            return uri_of(server)

        async with session_to(factory) as session:
            await until(lambda: calls == 4)
            await session.send("x")
            assert await session.recv() == "x"


@pytest.mark.parametrize("mistake", [5, None, "http://x/", LookupError("a mistake")])
@pytest.mark.parametrize("retry_first", [False, True])
async def test_a_factory_with_a_mistake_is_final(mistake: Any, retry_first: bool) -> None:
    def factory(attempt: int) -> Any:
        if isinstance(mistake, Exception):
            raise mistake
        return mistake

    wanted = LookupError if isinstance(mistake, Exception) else InvalidURI if isinstance(mistake, str) else TypeError
    session = session_to(factory, policy=ReconnectPolicy(retry_first=retry_first))
    with pytest.raises(ReconnectFailed if retry_first else wanted) as caught:
        await session
    if isinstance(caught.value, ReconnectFailed):
        assert isinstance(caught.value.reason, wanted)


async def test_the_same_uri_keeps_its_cookies() -> None:
    cookies: list[str | None] = []

    def remember(connection: taut.ServerConnection, request: taut.Request, response: Response) -> Response:
        cookies.append(request.headers.get("Cookie"))
        response.headers["Set-Cookie"] = f"visit={len(cookies)}"
        return response

    for factory in (False, True):
        cookies.clear()
        script = Script(closing(1012), echo)
        async with serving(script, process_response=remember) as server:
            uri = uri_of(server)
            async with session_to((lambda attempt, uri=uri: uri) if factory else uri):
                await until(lambda script=script: len(script.connections) == 2)  # type: ignore[misc]
        assert cookies == [None, "visit=1"]


# -- sending -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [OfflineQueue(), None])
async def test_whole_messages_of_every_kind(queue: OfflineQueue | None) -> None:
    async with serving(echo) as server, session_to(uri_of(server), queue=queue) as session:
        for message in ("text", b"bytes", bytearray(b"array"), memoryview(b"view"), "", b""):
            await session.send(message)
            assert await session.recv() == (message if isinstance(message, str) else bytes(message))
        for wrong in (5, None, ["a"], {"a": 1}, iter("ab")):
            with pytest.raises(TypeError, match="a message must be str or bytes-like"):
                await session.send(wrong)  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            await session.send("\ud800")
        await session.send("fine")
        assert await session.recv() == "fine"


@pytest.mark.parametrize("ack", [None, Ack(sent=lambda message: None, received=lambda message: None)])
async def test_messages_are_decoded_as_asked(ack: Ack | None) -> None:
    async with serving(echo) as server, session_to(uri_of(server), ack=ack) as session:
        for message in ("a", b"a") * 3:
            await session.send(message)
        assert [await session.recv(decode=True) for _ in range(2)] == ["a", "a"]
        assert [await session.recv(decode=False) for _ in range(2)] == [b"a", b"a"]
        assert [await session.recv(decode=None) for _ in range(2)] == ["a", b"a"]


async def test_what_is_queued_is_a_copy() -> None:
    script = Script(echo)
    async with serving(script) as server, session_to(uri_of(server)) as session:
        await lose(session, script)
        message = bytearray(b"before")
        await session.send(message)
        message[:] = b"after!"
        with pytest.raises(UnicodeEncodeError):
            await session.send("\ud800")
        assert await session.recv() == b"before"


async def test_without_a_queue_sending_fails_while_there_is_no_connection() -> None:
    async with serving(Script(closing(1013, "retry-after=60"))) as server:
        async with session_to(uri_of(server), queue=None) as session:
            await session.wait_state(BACKING_OFF)
            with pytest.raises(ConnectionClosedError) as caught:
                await session.send("x")
            assert caught.value.code == 1013
            await session.drain()
        assert session.stats.waiting == 0


async def test_the_queue_has_its_limit() -> None:
    queue = OfflineQueue(max_messages=2, policy="fail")
    losses: list[Loss] = []
    script = Script(closing(1013, "retry-after=60"))
    async with serving(script) as server, session_to(uri_of(server), queue=queue, on_lost=losses.append) as session:
        await session.wait_state(BACKING_OFF)
        await session.send("1")
        await session.send("2")
        with pytest.raises(QueueFull):
            await session.send("3")
        assert session.stats.waiting == 2
    assert losses == [Loss("undelivered", 2, 2, ("1", "2"))]
    assert session.stats.lost == {"undelivered": 2}


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_what_is_dropped_is_reported(policy: Any, caplog: pytest.LogCaptureFixture) -> None:
    losses: list[Loss] = []
    script = Script(closing(1013, "retry-after=60"))
    queue = OfflineQueue(max_messages=2, policy=policy)
    async with serving(script) as server, session_to(uri_of(server), queue=queue, on_lost=losses.append) as session:
        await session.wait_state(BACKING_OFF)
        for i in range(5):
            await session.send(str(i))
    oldest = policy == "drop_oldest"
    dropped, left = (("0", "1", "2"), ("3", "4")) if oldest else (("2", "3", "4"), ("0", "1"))
    assert losses == [
        *(Loss("dropped_oldest" if oldest else "dropped_newest", 1, 1, (message,)) for message in dropped),
        Loss("undelivered", 2, 2, left),
    ]
    assert session.stats.lost == {policy.replace("drop_", "dropped_"): 3, "undelivered": 2}
    assert caplog.text.count(f"1 messages {policy.replace('drop_', 'dropped ')} (1 bytes)") == 3


async def test_who_waits_for_room_learns_of_the_end() -> None:
    async with serving(Script(closing(1013, "retry-after=60"))) as server:
        session = await session_to(uri_of(server), queue=OfflineQueue(max_messages=1))
        await session.wait_state(BACKING_OFF)
        await session.send("1")
        calls = [asyncio.ensure_future(call) for call in (session.send("2"), session.drain(), session.recv())]
        await asyncio.sleep(0)
        await session.close()
        for call in calls:
            with pytest.raises(ConnectionClosedOK):
                await call


async def test_order_is_kept_over_the_change_to_the_direct_way() -> None:
    received: list[int] = []

    async def record(ws: taut.ServerConnection) -> None:
        async for message in ws:
            received.append(int(message))

    script = Script(record)
    async with serving(script) as server, session_to(uri_of(server)) as session:
        await lose(session, script)
        for i in range(2000):
            await session.send(str(i))
            if i % 100 == 0:
                await asyncio.sleep(0)
        await session.drain()
        await until(lambda: len(received) == 2000)
    assert received == list(range(2000))


async def test_a_slow_peer_holds_back_the_sender() -> None:
    go = asyncio.Event()

    async def slow(ws: taut.ServerConnection) -> None:
        await go.wait()
        async for message in ws:
            received.append(message)

    received: list[Any] = []
    big = b"x" * 300_000
    async with serving(slow) as server, session_to(uri_of(server), compression=None) as session:

        async def produce() -> None:
            for _ in range(40):
                await session.send(big)

        producers = [asyncio.ensure_future(produce()) for _ in range(2)]
        connection = session.connection
        assert connection is not None
        await until(lambda: connection.write_paused)
        for _ in range(100):
            await asyncio.sleep(0)
        assert session.stats.messages_sent < 80
        assert session.stats.waiting == 0
        go.set()
        await asyncio.gather(*producers)
        await session.drain()
        await until(lambda: len(received) == 80)


async def test_a_fragmented_message_of_somebody_else_is_waited_for() -> None:
    received: list[Any] = []
    go = asyncio.Event()

    async def record(ws: taut.ServerConnection) -> None:
        async for message in ws:
            received.append(message)

    async def parts() -> AsyncIterator[str]:
        yield "a"
        yield "b"
        await go.wait()
        yield "c"

    async with serving(record) as server, session_to(uri_of(server)) as session:
        assert session.connection is not None
        fragmented = asyncio.ensure_future(session.connection.send(parts()))
        await until(lambda: session.connection is not None and session.connection.fragmenting)
        await session.send("behind")
        assert session.stats.waiting == 1
        go.set()
        await fragmented
        await session.drain()
        await until(lambda: len(received) == 2)
    assert received == ["abc", "behind"]


# -- what is lost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [OfflineQueue(), None])
async def test_what_was_not_confirmed_is_reported(queue: OfflineQueue | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taut.client")
    losses: list[Loss] = []

    async def pong_then_drop(ws: taut.ServerConnection) -> None:
        for _ in range(5):
            await ws.recv()
        ws.abort()

    async def subscribe(session: Session, connection: taut.ClientConnection) -> None:
        await connection.send("not counted")

    async with serving(Script(pong_then_drop, echo)) as server:
        options = {"on_lost": losses.append, "on_connect": subscribe, "queue": queue}
        async with session_to(uri_of(server), **options) as session:
            await session.send("confirmed")
            assert session.connection is not None
            await (await session.connection.ping())
            for _ in range(3):
                await session.send("lost?")
            await session.wait_state(BACKING_OFF)
            await session.wait_open()
            await session.send("fine")
            while await session.recv() != "fine":
                pass
    assert [(loss.kind, loss.count, loss.messages) for loss in losses] == [("unconfirmed", 3, ())]
    assert losses[0].size >= 15
    assert session.stats.lost == {"unconfirmed": 3}
    lines = [record for record in caplog.records if record.message.startswith("session: ")]
    assert [record.levelname for record in lines] == ["WARNING", "INFO", "INFO"]
    assert "3 messages unconfirmed" in lines[0].message
    assert "1006" in lines[1].message
    assert "connected again" in lines[2].message


async def test_a_clean_close_by_this_side_loses_nothing() -> None:
    losses: list[Loss] = []
    async with serving(echo) as server, session_to(uri_of(server), on_lost=losses.append) as session:
        for i in range(100):
            await session.send(str(i))
    assert losses == []


async def test_what_nobody_receives_is_bounded() -> None:
    losses: list[Loss] = []

    async def talk(ws: taut.ServerConnection) -> None:
        await ws.send(f"{len(script.connections)}" + "x" * 1000)
        await (await ws.ping())
        ws.abort()

    script = Script(*[talk] * 20, echo)
    async with (
        serving(script) as server,
        session_to(uri_of(server), on_lost=losses.append, read_limit=5000) as session,
    ):
        await until(lambda: len(script.connections) == 21)
        await session.wait_open()
        await session.send("last")
        received = [await session.recv()]
        while received[-1] != "last":
            received.append(await session.recv())
    assert all(loss.kind == "unread" for loss in losses)
    dropped = [message for loss in losses for message in loss.messages]
    assert [int(str(message).rstrip("x")) for message in [*dropped, *received[:-1]]] == list(range(1, 21))
    assert 2 <= len(received) <= 7
    assert session.stats.lost == {"unread": len(dropped)}


# -- receiving -----------------------------------------------------------------------------------------------------


async def test_what_arrived_before_a_drop_comes_first() -> None:
    async def talk(ws: taut.ServerConnection) -> None:
        n = len(script.connections)
        for i in range(10):
            await ws.send(f"{n}.{i}")
        await (await ws.ping())
        ws.abort()

    script = Script(talk, talk, talk, echo)
    async with serving(script) as server, session_to(uri_of(server)) as session:
        await until(lambda: len(script.connections) == 4)
        received = [await session.recv() for _ in range(30)]
    assert received == [f"{n}.{i}" for n in (1, 2, 3) for i in range(10)]


async def test_what_arrived_before_the_end_can_be_received_after_it() -> None:
    async def talk(ws: taut.ServerConnection) -> None:
        for i in range(3):
            await ws.send(str(i))
        await ws.close(1008)

    for ack in (None, Ack(sent=lambda message: None, received=lambda message: None)):
        async with serving(talk) as server:
            session = await session_to(uri_of(server), ack=ack, close_timeout=0.05)
            await session.wait_closed()
            assert [await session.recv() for _ in range(3)] == ["0", "1", "2"]
            with pytest.raises(ReconnectFailed):
                await session.recv()


@pytest.mark.parametrize("acknowledged", [False, True])
async def test_one_receiver_at_a_time(acknowledged: bool) -> None:
    ack = Ack(sent=lambda message: None, received=lambda message: None) if acknowledged else None
    async with serving(echo) as server, session_to(uri_of(server), ack=ack) as session:
        first = asyncio.ensure_future(session.recv())
        await asyncio.sleep(0)
        with pytest.raises(ConcurrencyError):
            await session.recv()
        await session.send("x")
        assert await first == "x"


async def test_iteration_ends_when_this_side_closes() -> None:
    seen: list[Any] = []

    async def consume() -> None:
        async for message in session:
            seen.append(message)

    async with serving(Script(abort_at_message, echo)) as server:
        session = await session_to(uri_of(server))
        consumer = asyncio.ensure_future(consume())
        await session.send("lost")
        await session.wait_state(BACKING_OFF)
        await session.send("seen")
        await until(lambda: seen == ["seen"])
        await session.close(4000, "enough")
        await consumer
        with pytest.raises(ConnectionClosedOK) as caught:
            await session.recv()
        assert (caught.value.code, caught.value.reason) == (4000, "enough")


# -- acknowledgements ----------------------------------------------------------------------------------------------

ACK = Ack(
    sent=str,
    received=lambda message: str(message)[4:] if str(message).startswith("ack ") else None,
)


async def test_what_was_in_flight_is_sent_again() -> None:
    received: list[list[Any]] = []

    async def first(ws: taut.ServerConnection) -> None:
        mine = [await ws.recv() for _ in range(4)]
        received.append(mine)
        await ws.send("ack 0")
        await ws.send("news")
        await ws.send("ack 2")
        await (await ws.ping())
        ws.abort()

    async def second(ws: taut.ServerConnection) -> None:
        received.append([])
        async for message in ws:
            received[-1].append(message)
            await ws.send(f"ack {message}")

    losses: list[Loss] = []
    async with (
        serving(Script(first, second)) as server,
        session_to(uri_of(server), ack=ACK, on_lost=losses.append) as session,
    ):
        for i in range(4):
            await session.send(str(i))
        await session.wait_state(BACKING_OFF)
        assert session.stats.waiting == 2
        await session.send("4")
        await session.drain()
        assert (session.stats.waiting, session.stats.in_flight) == (0, 0)
        assert session.stats.acknowledged == 5
        assert session.stats.resent == 2
        assert await session.recv() == "news"
    assert received == [["0", "1", "2", "3"], ["1", "3", "4"]]
    assert losses == []


async def test_acknowledgements_are_delivered_if_asked() -> None:
    async def confirm(ws: taut.ServerConnection) -> None:
        async for message in ws:
            await ws.send(f"ack {message}")

    ack = Ack(sent=ACK.sent, received=ACK.received, deliver=True)
    async with serving(confirm) as server, session_to(uri_of(server), ack=ack) as session:
        await session.send("x")
        assert await session.recv() == "ack x"


async def test_the_application_may_acknowledge() -> None:
    async with serving(echo) as server:
        async with session_to(uri_of(server), ack=ACK) as session:
            await session.send("x")
            assert await session.recv() == "x"
            assert session.stats.in_flight == 1
            assert session.acknowledge("y") == 0
            assert session.acknowledge("x") == 1
            await session.drain()
        async with session_to(uri_of(server)) as session:
            with pytest.raises(RuntimeError, match="ack="):
                session.acknowledge("x")


async def test_with_acknowledgements_reading_stops_at_the_limit() -> None:
    async def talk(ws: taut.ServerConnection) -> None:
        for i in range(2000):
            await ws.send(f"{i} ".ljust(1000))
        sent.set()
        await echo(ws)

    sent = asyncio.Event()
    async with (
        serving(talk, compression=None) as server,
        session_to(uri_of(server), ack=ACK, read_limit=10_000, compression=None) as session,
    ):
        connection = session.connection
        assert connection is not None
        await until(lambda: connection.read_paused)
        assert connection.stats.messages_received < 1000
        assert [int(await session.recv()) for _ in range(2000)] == list(range(2000))
        await sent.wait()


async def test_an_acknowledgement_that_cannot_be_read_is_final(caplog: pytest.LogCaptureFixture) -> None:
    def received(message: Any) -> None:
        raise LookupError("a mistake")

    async with serving(echo) as server:
        session = await session_to(uri_of(server), ack=Ack(sent=lambda message: "key", received=received))
        await session.send("x")
        with pytest.raises(ReconnectFailed, match="reading what arrives failed") as caught:
            await session.recv()
        assert isinstance(caught.value.reason, LookupError)
        await session.wait_closed()
    assert "a mistake" in caplog.text


# -- in a file ------------------------------------------------------------------------------------------------------


async def test_a_file_keeps_what_was_not_sent(tmp_path: Path) -> None:
    queue = OfflineQueue(path=tmp_path / "queue")
    losses: list[Loss] = []
    async with (
        serving(closing(1013, "retry-after=60")) as server,
        session_to(uri_of(server), queue=queue, on_lost=losses.append) as session,
    ):
        await session.wait_state(BACKING_OFF)
        for i in range(10):
            await session.send(str(i))
        with pytest.raises(TypeError):
            await session.send(5)  # type: ignore[arg-type]
    async with serving(echo) as server, session_to(uri_of(server), queue=queue) as session:
        await session.send("new")
        assert [await session.recv() for _ in range(11)] == [*(str(i) for i in range(10)), "new"]
        await session.drain()
        assert session.stats.waiting == 0
    assert losses == []


async def test_a_file_that_cannot_be_used_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "queue"
    path.write_bytes(b"no database" * 1000)
    async with serving(echo) as server:
        session = session_to(uri_of(server), queue=OfflineQueue(path=path))
        with pytest.raises(JournalError):
            await session
        assert session.state is CLOSED
        with pytest.raises(ReconnectFailed, match="the queue cannot be opened"):
            await session.send("x")


# -- closing -------------------------------------------------------------------------------------------------------


async def test_what_is_queued_is_sent_before_the_close() -> None:
    received: list[Any] = []

    async def record(ws: taut.ServerConnection) -> None:
        async for message in ws:
            received.append(message)

    script = Script(record)
    async with serving(script) as server:
        session = await session_to(uri_of(server), compression=None)
        await lose(session, script)
        big = b"x" * 10_000
        for _ in range(900):
            await session.send(big)
        await session.wait_open()
        await session.close(4002, "done")
        with pytest.raises(ConnectionClosedOK):
            await session.send("late")
    assert received == [big] * 900
    assert (script.connections[1].close_code, script.connections[1].close_reason) == (4002, "done")
    assert session.stats.lost == {}


async def test_closing_does_not_wait_for_ever_for_acknowledgements() -> None:
    losses: list[Loss] = []
    async with (
        serving(echo) as server,
        session_to(uri_of(server), ack=ACK, on_lost=losses.append, close_timeout=0.05) as session,
    ):
        await session.send("never")
    assert losses == [Loss("undelivered", 1, 5, ("never",))]


async def test_closing_while_connecting() -> None:
    accepted: list[Any] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        session = session_to(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/")

        async def start() -> None:
            await session

        starting = asyncio.ensure_future(start())
        await until(lambda: bool(accepted))
        assert (session.state, session.attempt) == (CONNECTING, 1)
        closing_task = asyncio.ensure_future(session.close(4000))
        await asyncio.sleep(0)
        assert session.state is CLOSING
        await closing_task
        with pytest.raises(ConnectionClosedOK):
            await starting
        await accepted[0].wait_closed()


async def test_closing_twice_and_with_a_wrong_code() -> None:
    async with serving(echo) as server:
        session = await session_to(uri_of(server))
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
            with pytest.raises(ValueError, match=f"not {code}"):
                await session.close(code)
        assert session.state is OPEN
        await asyncio.gather(session.close(4000), session.close(4001), session.wait_closed())
        await session.close()
        with pytest.raises(ConnectionClosedOK) as caught:
            await session.recv()
        assert caught.value.code == 4000


async def test_an_exception_in_the_block_closes_it() -> None:
    async with serving(echo) as server:
        with pytest.raises(LookupError):
            async with session_to(uri_of(server)) as session:
                raise LookupError
        assert session.state is CLOSED


async def test_the_end_of_the_event_loop_ends_it() -> None:
    script = Script(echo)
    async with serving(script) as server:
        before = asyncio.all_tasks()
        session = await session_to(uri_of(server), ack=ACK)
        for task in asyncio.all_tasks() - before:
            if "Supervisor" in repr(task):
                task.cancel()
        await session.wait_closed()
        assert session.state is CLOSED
        with pytest.raises(ConnectionClosedError):
            await session.recv()


# -- wrong arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "error", "problem"),
    [
        (5, {}, TypeError, "uri_or_factory must be a URI"),
        ("http://x/", {}, InvalidURI, "scheme"),
        ("ws://x/", {"policy": 5}, TypeError, "policy must be a ReconnectPolicy, not 5"),
        ("ws://x/", {"queue": 5}, TypeError, "queue must be a OfflineQueue or None, not 5"),
        ("ws://x/", {"ack": 5}, TypeError, "ack must be a Ack or None, not 5"),
        ("ws://x/", {"ack": ACK, "queue": None}, ValueError, "ack needs a queue"),
        ("ws://x/", {"on_connect": 5}, TypeError, "on_connect must be a function"),
        ("ws://x/", {"on_state": "x"}, TypeError, "on_state must be a function"),
        ("ws://x/", {"max_sice": 5}, TypeError, "unexpected option max_sice"),
        ("ws://x/", {"open_timeout": -1}, ValueError, "open_timeout must be"),
        (lambda attempt: "ws://x/", {"open_timeout": -1}, ValueError, "open_timeout must be"),
        ("connect", {"open_timeout": 1}, TypeError, "open_timeout must be given to connect"),
        ("ws://x/", {"sock": socket.socket()}, ValueError, "sock cannot be given to a session"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    target: Any, options: dict[str, Any], error: type[Exception], problem: str
) -> None:
    with pytest.raises(error, match=problem):
        Session(taut.connect("ws://x/") if target == "connect" else target, **options)


async def test_wait_state_wants_states() -> None:
    async with serving(echo) as server, session_to(uri_of(server)) as session:
        with pytest.raises(ValueError, match="at least one"):
            await session.wait_state()
        with pytest.raises(TypeError, match="state must be a SessionState, not 'open'"):
            await session.wait_state("open")  # type: ignore[arg-type]


# -- cancellation --------------------------------------------------------------------------------------------------


async def cancel_after(task: asyncio.Task[Any], turns: int) -> bool:
    """Cancel ``task`` after that many turns of the loop; whether it was still running."""
    for _ in range(turns):
        if task.done():
            return False
        await asyncio.sleep(0)
    return task.cancel()


class Dropping:
    """Drops the first connection of every life."""

    def __init__(self) -> None:
        self.fresh = True

    async def __call__(self, ws: taut.ServerConnection) -> None:
        async for message in ws:
            if message == "lost" and self.fresh:
                self.fresh = False
                ws.abort()
            else:
                await ws.send(message)


async def whole_life(session: Session) -> None:
    """From the first connection over a drop to the end, with everything that can be waited for."""
    async with session:
        await session.send("lost")
        await session.wait_state(BACKING_OFF)
        for i in range(3):
            await session.send(str(i))
        for _ in range(4):
            session.acknowledge(str(await session.recv()))
        await session.drain()


async def pass_hooks(*arguments: Any) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["cancel the user", "cancel the supervisor", "close"])
async def test_interrupted_anywhere_it_leaves_nothing(how: str) -> None:
    """A whole life is interrupted at every turn of the loop, from its beginning to its end."""
    server_side = Dropping()
    hooks: Any = {"on_connect": pass_hooks, "on_disconnect": pass_hooks, "on_state": pass_hooks, "on_lost": pass_hooks}

    async def factory(attempt: int) -> str:
        await asyncio.sleep(0)
        return uri_of(server)

    async with serving(server_side) as server:
        before = asyncio.all_tasks()
        turns, running, dropped = 0, True, 0
        while running:
            server_side.fresh = True
            session = session_to(factory, ack=ACK, close_timeout=0.2, **hooks)
            task = asyncio.ensure_future(whole_life(session))
            for _ in range(turns):
                await asyncio.sleep(0)
            running = not task.done()
            if how == "cancel the user":
                task.cancel()
            elif how == "close":
                await session.close()
            elif (supervisor := session._supervisor.task) is not None:
                supervisor.cancel()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            wanted = asyncio.CancelledError if how == "cancel the user" else (ConnectionClosed, RuntimeError)
            assert outcome is None or isinstance(outcome, wanted), repr(outcome)
            dropped += session.stats.drops
            turns += 1
            await session.close()  # when the closing itself was cancelled, it goes on
            assert session.state is CLOSED
            await until(lambda: not server.connections)
            await until(lambda: not (asyncio.all_tasks() - before))
        assert turns > 20
        assert dropped > 0


async def test_cancelling_single_calls_leaves_the_session_as_it_is() -> None:
    """Every call, cancelled at every turn, with a connection and without; every message arrives once, in order."""
    drop = False

    async def dropping(ws: taut.ServerConnection) -> None:
        nonlocal drop
        async for message in ws:
            received.append(message)
            await ws.send(message)
            if drop:
                drop = False
                await (await ws.ping())
                await ws.close(1012)

    received: list[Any] = []
    async with serving(dropping) as server, session_to(uri_of(server)) as session:
        sent: list[str] = []
        back: list[Any] = []

        async def send_one(n: int) -> None:
            await session.send(str(n))
            sent.append(str(n))

        async def receive_one() -> None:
            back.append(await session.recv())

        for n in range(40):
            drop = n % 3 == 0
            for call in (send_one(n), receive_one(), session.drain(), session.wait_open(), session.wait_closed()):
                task = asyncio.ensure_future(call)
                await cancel_after(task, n % 5)
                await asyncio.gather(task, return_exceptions=True)
        assert session.state is not CLOSED
        drop = False
        await session.wait_open()
        await session.send("last")
        while not back or back[-1] != "last":
            await receive_one()
    numbers = [int(each) for each in received[:-1]]
    assert numbers == sorted(set(numbers))
    assert set(sent) <= set(received) or session.stats.lost.get("unconfirmed", 0) > 0
    echoed = [int(each) for each in back[:-1]]
    assert echoed == sorted(set(echoed))


async def test_cancelling_the_wait_for_the_close_does_not_undo_it() -> None:
    async with serving(echo) as server:
        session = await session_to(uri_of(server))
        task = asyncio.ensure_future(session.close())
        await asyncio.sleep(0)
        task.cancel()
        await session.wait_closed()
        assert task.cancelled()
        assert session.state is CLOSED


async def test_no_message_is_lost_to_cancelled_receivers() -> None:
    async def talk(ws: taut.ServerConnection) -> None:
        first = (len(script.connections) - 1) * 50
        for i in range(first, first + 50):
            await ws.send(str(i))
            if i % 7 == 0:
                await asyncio.sleep(0)
        await ws.close(1012)

    for ack in (None, ACK):
        script = Script(talk, talk, talk, echo)
        async with serving(script) as server, session_to(uri_of(server), ack=ack) as session:
            got: list[int] = []
            turns = 0
            while len(got) < 150:
                task = asyncio.ensure_future(session.recv())
                turns += 1
                await cancel_after(task, turns % 4)
                outcome = (await asyncio.gather(task, return_exceptions=True))[0]
                if isinstance(outcome, str):
                    got.append(int(outcome))
                else:
                    assert isinstance(outcome, asyncio.CancelledError), repr(outcome)
        assert got == list(range(150))


async def test_a_file_is_given_up_however_the_end_is_interrupted(tmp_path: Path) -> None:
    """Cancelled from outside while it ends, as at the end of an event loop, a session still gives up its file."""
    queue = OfflineQueue(path=tmp_path / "queue")
    async with serving(echo) as server:
        turns, running = 0, True
        while running:
            session = await session_to(uri_of(server), queue=queue)
            closing_it = asyncio.ensure_future(session.close())
            task = session._supervisor.task
            assert task is not None
            for _ in range(turns):
                await asyncio.sleep(0)
            running = not task.done()
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            await closing_it
            outbox = Outbox(queue, None, lambda loss: None)
            await outbox.open()  # raises JournalError if it is in use
            await outbox.close()
            turns += 1
        assert turns > 5
