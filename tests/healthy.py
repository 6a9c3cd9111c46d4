"""A client in a process of its own that goes on being served: ``healthy.py PORT [tls]``.

It sends a message, waits for the echo, and rests a moment, again and again.  For each line that it reads it prints the
round trips since the last one, as JSON (seconds); it ends when there is nothing more to read.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time

_REST = 0.001
_REQUEST = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_MESSAGE = b"are you there?"
_FRAME = bytes([0x81, 0x80 | len(_MESSAGE), 0, 0, 0, 0]) + _MESSAGE  # with a mask of zeros
_ECHO = bytes([0x81, len(_MESSAGE)]) + _MESSAGE


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        received = sock.recv(size - len(data))
        if not received:
            raise EOFError
        data += received
    return data


def connect(port: int, tls: bool) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return sock
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock)


def main(port: int, tls: bool) -> None:
    times: list[float] = []
    with connect(port, tls) as sock:
        sock.sendall(_REQUEST.encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += read(sock, 1)
        while True:
            begun = time.perf_counter()
            sock.sendall(_FRAME)
            if read(sock, len(_ECHO)) != _ECHO:
                raise ValueError("that is no echo")
            times.append(time.perf_counter() - begun)
            if select.select([sys.stdin], [], [], _REST)[0]:
                if not sys.stdin.readline():
                    return
                print(json.dumps(times), flush=True)
                times.clear()


if __name__ == "__main__":
    main(int(sys.argv[1]), "tls" in sys.argv)
