"""What systemd and a service say to each other: sockets that are handed over, and notifications."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import PYTHON, TIMEOUT
from supervised import Supervised

import taut.sync
from taut.workers.activation import adopt, inherited_descriptors
from taut.workers.notify import Notifier

from .conftest import Start

# As systemd does it: the sockets are the descriptors from 3 on, and the process is named only once it is there.
ACTIVATE = """
import os, sys
for target, source in enumerate(map(int, sys.argv[1].split(",")), 3):
    os.dup2(source, target)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sys.argv[1].split(","))), LISTEN_FDNAMES="chat")
os.execv(sys.argv[2], sys.argv[2:])
"""


def activated(sockets: list[socket.socket]) -> list[str]:
    """The command that starts ``taut serve`` with these sockets."""
    descriptors = ",".join(str(sock.fileno()) for sock in sockets)
    return [sys.executable, "-c", ACTIVATE, descriptors, *PYTHON, "-m", "taut", "serve"]


@pytest.fixture
def news(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that notifications are sent to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(TIMEOUT)
        yield sock


def hear(news: socket.socket) -> dict[str, str]:
    """The next notification that is not for the watchdog."""
    while (message := news.recv(4096)) == b"WATCHDOG=1":
        pass
    return dict(line.split("=", 1) for line in message.decode().splitlines())


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_a_service_that_is_activated_by_sockets(
    start: Start, tmp_path: Path, news: socket.socket, workers: list[str]
) -> None:
    """It serves on them, tells how it is, and leaves them behind for its successor."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(tmp_path / "chat"))
        unix.listen()
        sockets = [tcp, unix]
        uri = f"ws://127.0.0.1:{tcp.getsockname()[1]}/"

        def begin() -> Supervised:
            return start(
                "app:handler",
                *workers,
                command=activated(sockets),
                env=os.environ | {"NOTIFY_SOCKET": news.getsockname(), "WATCHDOG_USEC": "200000"},
                pass_fds=[sock.fileno() for sock in sockets],
            )

        service = begin()
        told = hear(news)
        assert told == {
            "READY": "1",
            "STATUS": "2 of 2 workers serve app:handler" if workers else "serving app:handler",
        }
        with taut.sync.connect(uri) as ws:
            ws.send("hello")
            assert str(ws.recv()).endswith(" hello")
        with taut.sync.unix_connect(str(tmp_path / "chat")) as ws:
            ws.send("hello")
            assert str(ws.recv()).endswith(" hello")
        assert news.recv(4096) == b"WATCHDOG=1"
        if workers:
            service.interrupt(signal.SIGHUP)
            reloading = hear(news)
            assert reloading["RELOADING"] == "1"
            assert int(reloading["MONOTONIC_USEC"]) > 0
            assert hear(news)["READY"] == "1"
        service.interrupt(signal.SIGTERM)
        assert hear(news) == {"STOPPING": "1"}
        assert service.finish(None) == 0
        assert (tmp_path / "chat").exists()

        # Who comes in between waits for the next one.
        with socket.create_connection(tcp.getsockname()) as early:
            early.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            service = begin()
            early.settimeout(TIMEOUT)
            assert early.recv(100).startswith(b"HTTP/1.1 426 ")
        assert service.finish() == 0


def test_sockets_of_systemd_and_an_address_contradict_each_other(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        service = start("app:handler", "--port", "0", command=activated([sock]), pass_fds=[sock.fileno()])
        assert service.finish(None) == 2
    problem = "only one of host and port, path, descriptors says where to listen, not port and systemd's sockets"
    assert service.text == f"taut serve: {problem}\n"


def test_descriptors_of_another_process_are_not_ours() -> None:
    environment = {"LISTEN_PID": str(os.getpid() + 1), "LISTEN_FDS": "2", "HOME": "/"}
    assert inherited_descriptors(environment) == []
    assert environment == {"HOME": "/"}
    assert inherited_descriptors({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}) == [3, 4]
    for count in ("", "-1", "x", "0"):
        assert inherited_descriptors({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}) == []


def test_what_is_no_listening_socket() -> None:
    ours, theirs = socket.socketpair()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ours, theirs, datagrams, open(os.devnull) as file, socket.create_server(("127.0.0.1", 0)) as good:
        for descriptor, problem in [
            (ours.fileno(), "is a connection, not a listening socket; with systemd: Accept=no"),
            (datagrams.fileno(), "is not a stream socket of TCP or of Unix"),
            (file.fileno(), "is not a socket: socket operation on non-socket"),
            (1 << 20, "is not a socket: bad file descriptor"),
        ]:
            with pytest.raises(ValueError, match=f"descriptor {descriptor} {problem}"):
                adopt([good.fileno(), descriptor])
        assert good.getsockname()  # nothing was closed
        os.set_inheritable(good.fileno(), True)
        (adopted,) = adopt([good.fileno()])
        assert not adopted.get_inheritable()
        adopted.detach()


def test_nothing_is_sent_where_nobody_listens(tmp_path: Path) -> None:
    Notifier({}).ready("")
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "nothing"), "WATCHDOG_USEC": "1000000"})
    notifier.ready("")
    assert notifier.watchdog == 0.5
    assert Notifier({"WATCHDOG_USEC": "1000000"}).watchdog is None
    assert Notifier({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog is None


def test_an_abstract_address() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0taut-test-{os.getpid()}")
        environment = {"NOTIFY_SOCKET": f"@taut-test-{os.getpid()}"}
        notifier = Notifier(environment)
        assert environment == {}
        notifier.ready("fine")
        assert hear(sock) == {"READY": "1", "STATUS": "fine"}
