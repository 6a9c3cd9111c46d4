"""The sockets of workers: who has which, and what becomes of connections while nobody accepts them."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from taut.workers.binding import Binding, bind_shared, bind_tcp, bind_unix_path


def taken(sock: socket.socket) -> int:
    """How many connections wait there."""
    sock.setblocking(False)
    count = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def listen(binding: Binding) -> tuple[str, int]:
    for (sock,) in binding.slots:
        if sock.fileno() >= 0:
            sock.listen(200)
    address: tuple[str, int] = binding.sockets[0].getsockname()
    return address


def connect(address: tuple[str, int], times: int) -> None:
    for _ in range(times):
        socket.create_connection(address).close()


def test_each_worker_gets_its_share() -> None:
    binding = bind_tcp(["127.0.0.1"], 0, 4)
    address = listen(binding)
    connect(address, 200)
    shares = [taken(sock) for (sock,) in binding.slots]
    assert sum(shares) == 200
    assert min(shares) > 20
    binding.close()


@pytest.mark.parametrize("slots", [1, 3])
def test_a_second_server_on_the_port_is_refused(slots: int) -> None:
    binding = bind_tcp(["127.0.0.1"], 0, slots)
    port = listen(binding)[1]
    with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1 port") as caught:
        bind_tcp(["127.0.0.1"], port, slots)
    assert caught.value.errno == errno.EADDRINUSE
    binding.close()


def test_a_place_that_nobody_has_gets_nothing_until_it_is_renewed() -> None:
    binding = bind_tcp(["127.0.0.1"], 0, 2)
    address = listen(binding)
    binding.vacate(0)
    connect(address, 50)
    assert taken(binding.slots[1][0]) == 50
    binding.vacate(1)  # the last one stays
    connect(address, 1)
    assert taken(binding.slots[1][0]) == 1
    binding.renew(0)
    assert listen(binding) == address
    connect(address, 100)
    assert [taken(sock) > 10 for (sock,) in binding.slots] == [True, True]
    binding.close()


def test_one_socket_for_all_is_never_vacated(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    binding = bind_unix_path(path, 2)
    binding.vacate(0)
    assert binding.slots[0][0].fileno() >= 0
    binding.close()
    assert not (tmp_path / "socket").exists()


def test_a_socket_file_of_somebody_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    binding = bind_unix_path(str(path), 1)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        binding.close()
        assert path.exists()


def test_sockets_that_were_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        binding = bind_shared([sock], 2)
        assert binding.slots == [[sock], [sock]]
        assert binding.inherited


def test_of_sockets_at_one_address_each_worker_gets_its_share() -> None:
    first = socket.create_server(("127.0.0.1", 0), reuse_port=True)
    others = [socket.create_server(first.getsockname(), reuse_port=True) for _ in range(2)]
    apart = socket.create_server(("127.0.0.1", 0))
    sockets = [first, apart, *others]
    assert bind_shared(sockets, 2).slots == [[first, others[1], apart], [others[0], apart]]
    assert bind_shared(sockets, 4).slots == [[first, *others, apart]] * 4
    assert bind_shared(sockets, 1).slots == [[first, *others, apart]]
    binding = bind_shared(sockets, 3)
    binding.vacate(0)
    assert binding.slots[0][0].fileno() >= 0
    binding.close()
    assert apart.fileno() == -1
