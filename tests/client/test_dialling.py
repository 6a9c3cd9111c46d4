"""Dialling one address, with real sockets on this machine; only the resolver is a made-up one."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from endpoints import (
    V4,
    V6,
    World,
    call,
    cancelled,
    closing,
    failure,
    never,
    resolve,
    settle,
    text,
    told,
    until_waiting,
)

from taut.client.dialling import dial as dialling
from taut.client.dialling.addresses import address_text
from taut.client.dialling.proxies import ProxyURL
from taut.client.dialling.turns import turns_of
from taut.client.options import ConnectOptions
from taut.errors import ConnectError, ConnectRefused, DialError, InvalidProxy, MissingExtra, ProxyError
from taut.types import Attempt

# -- addresses given by hand -------------------------------------------------------------------------------------------


async def test_a_given_socket() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        dialled = await call(sock=ours)
        assert dialled.sock is ours
        assert not ours.getblocking()
        assert dialled.address == "server.test:8080"
        dialled.settled()


async def test_a_given_socket_that_is_closed() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    error, _ = await failure(sock=ours)
    assert str(error) == "sock: Bad file descriptor"
    assert (error.errno, error.strerror) == (errno.EBADF, "Bad file descriptor")


@pytest.mark.parametrize("family", [V4, V6])
async def test_an_ip_address_needs_no_resolver(world: World, family: int) -> None:
    asked = resolve()
    host, port = world.live(family)[:2]
    dialled = await call(f"ws://{address_text(host, port)}/")
    with closing(dialled) as sock:
        assert sock.getpeername()[:2] == (host, port)
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert dialled.address == text((host, port))
    assert not asked


async def test_host_and_port_given_by_hand(world: World) -> None:
    asked = resolve()
    host, port = world.live()
    with closing(await call(host=host, port=port)) as sock:
        assert sock.getpeername() == (host, port)
    with closing(await call(f"ws://server.test:{port}/", host=host)) as sock:
        assert sock.getpeername() == (host, port)
    with closing(await call("ws://127.0.0.1/", port=port)) as sock:
        assert sock.getpeername() == (host, port)
    assert not asked


async def test_a_name_given_by_hand(world: World) -> None:
    asked = resolve(world.live())
    with closing(await call(host="other.test")):
        assert asked == [("other.test", 8080, 0)]


async def test_an_ip_address_of_another_family(world: World) -> None:
    error, attempts = await failure(host="::1", family=V4)
    assert str(error).startswith("::1 cannot be resolved: ")
    assert told(attempts) == [("::1", "dns")]


# -- Unix sockets ------------------------------------------------------------------------------------------------------


async def test_a_unix_socket(world: World, directory: Path) -> None:
    path = str(directory / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        dialled = await call(path=path, local_addr=("127.0.0.1", 0))
        with closing(dialled) as sock:
            assert sock.getpeername() == path
            assert not sock.getblocking()
            assert dialled.address == path


async def test_a_unix_socket_that_is_not_there(world: World, directory: Path) -> None:
    path = str(directory / "socket")
    error, attempts = await failure(path=path)
    assert str(error) == f"{path} cannot be reached: No such file or directory"
    assert error.errno == errno.ENOENT
    assert isinstance(error.__cause__, FileNotFoundError)
    assert told(attempts) == [(path, "connect")]


async def test_a_unix_socket_that_nobody_listens_on(world: World, directory: Path) -> None:
    path = str(directory / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        error, _ = await failure(path=path)
    assert isinstance(error, ConnectRefused)


@pytest.mark.parametrize("path", ["/" + "x" * 200, "/\ud800"])
async def test_a_path_that_cannot_be_one(world: World, path: str) -> None:
    error, attempts = await failure(path=path)
    assert " cannot be reached: " in str(error)
    assert len(attempts) == 1
    assert not world.open_sockets()


# -- names -------------------------------------------------------------------------------------------------------------


async def test_a_name(world: World) -> None:
    address = world.live()
    asked = resolve(address)
    dialled = await call()
    with closing(dialled) as sock:
        assert sock.getpeername() == address
        assert dialled.address == text(address)
    assert asked == [("server.test", 8080, 0)]


@pytest.mark.parametrize("family", [V4, V6])
async def test_the_family_is_asked_for(world: World, family: int) -> None:
    asked = resolve(world.live(family))
    with closing(await call(family=family)):
        assert asked == [("server.test", 8080, family)]


async def test_a_name_that_does_not_exist() -> None:
    async def answer() -> list[tuple[Any, ...]]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolve(answer=answer)
    error, attempts = await failure()
    assert str(error) == "server.test cannot be resolved: Name or service not known"
    assert isinstance(error.__cause__, socket.gaierror)
    assert not isinstance(error, ConnectRefused)
    assert told(attempts) == [("server.test", "dns")]
    assert attempts[0].error is error


async def test_a_name_without_addresses() -> None:
    resolve()
    error, attempts = await failure()
    assert str(error) == "server.test has no address"
    assert told(attempts) == [("server.test", "dns")]


async def test_a_name_that_cannot_be_asked_for() -> None:
    """The real resolver: IDNA has labels of 63 bytes at most."""
    error, attempts = await failure(host="x" * 64 + ".test")
    assert str(error).startswith("x" * 64 + ".test cannot be resolved: ")
    assert attempts[0].stage == "dns"


async def test_the_real_resolver(world: World) -> None:
    host, port = world.live()
    with closing(await call(f"ws://localhost:{port}/", family=V4)) as sock:
        assert sock.getpeername() == (host, port)


async def test_a_resolver_that_does_not_answer() -> None:
    resolve(answer=never)
    error, attempts = await failure(dns_timeout=0.05)
    assert str(error) == "server.test was not resolved within 0.05 s (dns_timeout)"
    assert not isinstance(error, TimeoutError)
    assert told(attempts) == [("server.test", "dns")]


async def test_a_resolver_that_ran_out_of_time_itself() -> None:
    async def answer() -> list[tuple[Any, ...]]:
        raise TimeoutError(errno.ETIMEDOUT, "the resolver's own")

    resolve(answer=answer)
    error, _ = await failure(dns_timeout=10)
    assert str(error) == "server.test cannot be resolved: the resolver's own"


async def test_open_timeout_is_left_to_the_caller(world: World) -> None:
    targets: list[dict[str, Any]] = [{}, {"host": "127.0.0.1", "port": world.silent()[1]}]
    for target in targets:
        resolve(answer=never)
        with pytest.raises(TimeoutError) as caught:
            await call(open_timeout=0.05, **target)
        assert not isinstance(caught.value, ConnectError)
    assert not world.open_sockets()


# -- one address -------------------------------------------------------------------------------------------------------


async def test_refused(world: World) -> None:
    address = world.refusing()
    resolve(address)
    error, attempts = await failure()
    assert type(error) is ConnectRefused
    assert str(error) == f"server.test:8080 cannot be reached: {text(address)}: Connection refused"
    assert (error.errno, error.strerror) == (errno.ECONNREFUSED, "Connection refused")
    assert isinstance(error.__cause__, ConnectionRefusedError)
    assert told(attempts) == [(text(address), "connect")]
    assert attempts[0].error is error.__cause__
    assert not world.open_sockets()


async def test_the_address_is_not_told_twice(world: World) -> None:
    host, port = world.refusing()
    error, _ = await failure(host=host, port=port)
    assert str(error) == f"{host}:{port} cannot be reached: Connection refused"


async def test_nobody_answers(world: World) -> None:
    address = world.silent()
    resolve(address)
    error, attempts = await failure(connect_timeout=0.05)
    assert str(error) == (
        f"server.test:8080 cannot be reached: {text(address)}: no answer within 0.05 s (connect_timeout)"
    )
    assert error.errno is None
    assert isinstance(attempts[0].error, DialError)
    assert not world.open_sockets()


async def test_no_socket_of_that_family(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6, and a name with an IPv6 address."""
    address = world.live()
    resolve(("::1", address[1], 0, 0), address)
    recorded = socket.socket

    def create(family: int, *rest: int) -> socket.socket:
        if family == V6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return recorded(family, *rest)

    attempts: list[Attempt] = []
    with monkeypatch.context() as patch:
        patch.setattr(dialling.socket, "socket", create)
        dialled = await call(attempts=attempts)
    with closing(dialled) as sock:
        assert sock.getpeername() == address
    assert [each.error.errno for each in attempts if isinstance(each.error, OSError)] == [errno.EAFNOSUPPORT]


# -- options of the socket ---------------------------------------------------------------------------------------------


async def test_the_local_address(world: World) -> None:
    address = world.live()
    with closing(await call(host=address[0], port=address[1], local_addr=("127.0.0.2", 0))) as sock:
        assert sock.getsockname()[0] == "127.0.0.2"


async def test_the_local_address_chooses_the_family(world: World) -> None:
    v4, v6 = world.live(V4), world.live(V6)
    resolve(v6, v4)
    with closing(await call(local_addr=("127.0.0.1", 0))) as sock:
        assert sock.getpeername() == v4
    with closing(await call(local_addr=("::1", 0))) as sock:
        assert sock.getpeername() == v6
    assert world.tried == [v4, v6]


async def test_no_address_of_the_local_family(world: World) -> None:
    resolve(world.live(V6))
    error, attempts = await failure(local_addr=("127.0.0.1", 0))
    assert "no address of server.test can be reached from 127.0.0.1:0 (local_addr)" in str(error)
    assert told(attempts) == [("server.test", "dns")]


async def test_a_local_address_that_is_taken(world: World) -> None:
    taken = world.live()
    resolve(world.live())
    error, attempts = await failure(local_addr=taken)
    assert f"local_addr: {text(taken)}: Address already in use" in str(error)
    assert error.errno == errno.EADDRINUSE
    assert attempts[0].stage == "connect"


async def test_a_local_zone_that_does_not_exist(world: World) -> None:
    error, _ = await failure(host="::1", local_addr=("fe80::1%nowhere", 0))
    assert str(error).startswith("local_addr: fe80::1%nowhere: ")
    assert isinstance(error.__cause__, socket.gaierror)


async def test_socket_options_are_set_before_connecting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    connect = dialling.connect_socket

    async def watched(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
        seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        await connect(loop, sock, address)

    monkeypatch.setattr(dialling, "connect_socket", watched)
    resolve(world.live())
    with closing(await call(socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)])):
        assert seen == [1]


@pytest.mark.parametrize("option", [(socket.IPPROTO_TCP, 9999, 1), (1 << 40, 1, 1), (1, 2, 1 << 40)])
async def test_socket_options_that_the_system_refuses(world: World, option: tuple[int, int, int]) -> None:
    resolve(world.live())
    error, attempts = await failure(socket_options=[option])
    assert f"socket_options: {option!r}: " in str(error)
    assert len(attempts) == 1
    assert not world.tried


# -- proxies -----------------------------------------------------------------------------------------------------------


Reach = Callable[[str, int], Awaitable[socket.socket]]


@dataclass
class Tunnels:
    """Instead of going through proxies: what was asked for."""

    asked: list[tuple[tuple[ProxyURL, ...], str, int]] = field(
        default_factory=list[tuple[tuple[ProxyURL, ...], str, int]]
    )
    problem: Exception | None = None

    async def open_tunnel(
        self, chain: tuple[ProxyURL, ...], host: str, port: int, reach: Reach, options: ConnectOptions
    ) -> socket.socket:
        self.asked.append((chain, host, port))
        sock = await reach(chain[0].host, chain[0].port)
        if self.problem is not None:
            sock.close()
            raise self.problem
        return sock


@pytest.fixture
def tunnels(world: World, monkeypatch: pytest.MonkeyPatch) -> Tunnels:
    tunnels = Tunnels()
    monkeypatch.setattr(dialling, "open_tunnel", tunnels.open_tunnel)
    return tunnels


async def test_through_proxies(world: World, tunnels: Tunnels) -> None:
    refusing, live = world.refusing(V6), world.live(V4)
    asked = resolve(refusing, live)
    attempts: list[Attempt] = []
    dialled = await call(attempts=attempts, proxy=["http://first.test:3128", "socks5h://second.test"])
    with closing(dialled) as sock:
        assert sock.getpeername() == live
        assert dialled.address == "server.test:8080"
    [(chain, host, port)] = tunnels.asked
    assert ([each.host for each in chain], host, port) == (["first.test", "second.test"], "server.test", 8080)
    assert asked == [("first.test", 3128, 0)], "the server's name is for the proxies"
    assert told(attempts) == [(text(refusing), "proxy")]


async def test_the_proxy_of_the_environment(world: World, tunnels: Tunnels, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = world.live()
    monkeypatch.setenv("http_proxy", f"http://{host}:{port}")
    with closing(await call(proxy=True)) as sock:
        assert sock.getpeername() == (host, port)
    monkeypatch.setenv("http_proxy", "nonsense://")
    attempts: list[Attempt] = []
    with pytest.raises(
        ProxyError, match=r"proxy nonsense://: .*\(from the environment variable http_proxy\)"
    ) as caught:
        await call(attempts=attempts, proxy=True)
    assert isinstance(caught.value.__cause__, InvalidProxy)
    assert told(attempts) == [("server.test:8080", "proxy")]
    monkeypatch.setenv("http_proxy", "socks5h://gate:1080")
    monkeypatch.setitem(sys.modules, "python_socks.async_.asyncio", None)
    with pytest.raises(ProxyError, match=r"proxy socks5h://gate:1080: .*pip install 'taut\[socks\]'") as caught:
        await call(proxy=True)
    assert isinstance(caught.value.__cause__, MissingExtra)


async def test_a_proxy_that_is_down(world: World, tunnels: Tunnels) -> None:
    address = world.refusing()
    error, attempts = await failure(proxy=f"http://{text(address)}")
    assert type(error) is DialError, "it was not the server that refused"
    assert str(error) == f"proxy http://{text(address)} cannot be reached: {text(address)}: Connection refused"
    assert error.errno == errno.ECONNREFUSED
    assert told(attempts) == [(text(address), "proxy")]


async def test_a_proxy_that_refuses(world: World, tunnels: Tunnels) -> None:
    tunnels.problem = ProxyError("http://proxy.test", "no")
    resolve(world.live())
    attempts: list[Attempt] = []
    with pytest.raises(ProxyError) as caught:
        await call(attempts=attempts, proxy="http://proxy.test")
    assert caught.value is tunnels.problem
    assert told(attempts) == [("server.test:8080", "proxy")]
    assert attempts[0].error is tunnels.problem
    assert not world.open_sockets()
    assert not turns_of(asyncio.get_running_loop()).busy


async def test_turns_behind_proxies_are_for_the_name(world: World, tunnels: Tunnels) -> None:
    """RFC 6455, 4.1: each host name is taken for a host of its own, since the address is not known."""
    resolve(world.live())
    first = await call(proxy="http://proxy.test")
    second = asyncio.create_task(call(host="SERVER.test", proxy="http://proxy.test"))
    with closing(await call("ws://other.test:8080/", proxy="http://proxy.test")):
        await settle()
        assert not second.done()
    with closing(first), closing(await second):
        assert len(tunnels.asked) == 3
    assert not turns_of(asyncio.get_running_loop()).busy


async def test_cancelled_on_the_way_to_a_proxy(world: World, tunnels: Tunnels) -> None:
    resolve(world.silent())
    attempts: list[Attempt] = []
    task = asyncio.create_task(call(attempts=attempts, proxy="http://proxy.test"))
    await until_waiting(world, 1)
    await cancelled(task, world)
    assert not attempts
    assert not turns_of(asyncio.get_running_loop()).busy
