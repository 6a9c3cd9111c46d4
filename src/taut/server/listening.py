"""Where a server listens: what may be asked for, and the sockets, bound and ready."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from ..options import check_port, check_sequence

__all__ = ["AddressInfo", "bind_all", "bind_unix", "check_address", "port_of", "printable"]

AddressInfo: TypeAlias = tuple[int, int, int, str, Any]
"""What ``socket.getaddrinfo`` finds."""


def check_address(
    host: str | Sequence[str] | None,
    port: int | None,
    sock: socket.socket | Sequence[socket.socket] | None,
    path: str | os.PathLike[str] | None,
) -> None:
    """Refuse more than one way to say where to listen."""
    given = [name for name, value in [("host and port", host or port), ("sock", sock), ("path", path)] if value]
    if len(given) > 1:
        raise ValueError(f"only one of host and port, sock, path says where to listen, not {' and '.join(given)}")
    check_port(port)
    if sock is not None and not isinstance(sock, socket.socket):
        check_sequence("sock", sock, (socket.socket,))
        if not sock:
            raise ValueError("sock must be a bound socket, or at least one of them, not none")


def bind_all(found: Iterable[AddressInfo], reuse_port: bool) -> list[socket.socket]:
    """A bound socket for each of these addresses. Raises ``OSError``, and then none is left."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, proto, _, address in dict.fromkeys(found):
            sockets.append(_bind_tcp(family, kind, proto, address, reuse_port))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind_unix(path: str | os.PathLike[str]) -> socket.socket:
    """A bound Unix socket; a stale socket file is replaced. Raises ``OSError``."""
    name = os.fspath(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not name.startswith("\0"):
            _remove_stale(name)
        sock.bind(name)
    except OSError as exc:
        sock.close()
        raise OSError(exc.errno, f"cannot listen on {name}: {exc.strerror}") from None
    return sock


def _bind_tcp(family: int, kind: int, proto: int, address: Any, reuse_port: bool) -> socket.socket:
    sock = socket.socket(family, kind, proto)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as exc:
        sock.close()
        problem = os.strerror(exc.errno).lower() if exc.errno else str(exc)
        raise OSError(exc.errno, f"cannot listen on {address[0]} port {address[1]}: {problem}") from None
    return sock


def _remove_stale(name: str) -> None:
    """Remove a socket file that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.stat(name).st_mode):
            return  # Linux refuses a connection to a plain file as well
    except OSError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(name)
    except ConnectionRefusedError:
        os.unlink(name)
    except OSError:
        pass
    finally:
        probe.close()


def printable(sock: socket.socket) -> str:
    """The address of a bound socket, for people."""
    name = sock.getsockname()
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name)


def port_of(sockets: Iterable[socket.socket]) -> int:
    """The port that the first of these listens on. Raises ``ValueError`` where there is none."""
    for sock in sockets:
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            port: int = sock.getsockname()[1]
            return port
    raise ValueError("the server does not listen on a port")
