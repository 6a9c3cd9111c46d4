"""TLS to a proxy, behind an ordinary socket.

What goes through an HTTPS proxy is mostly TLS itself, and asyncio wants a real socket for that.  So the TLS connection
to the proxy is kept here, on the socket as it is and an ``SSLObject`` in memory, and a socket pair stands for it: one
end is handed out, and two coroutines carry what passes the other one, up (encrypted) and down (decrypted).

Neither reads further before the last piece is taken: backpressure passes through.  An end of the stream passes through
as well, in each direction for itself: from this side as close_notify, from the proxy (with close_notify or without:
what is inside has an end of its own) as the end of what the other end of the pair reads.  After this side has ended,
the proxy is heard as long as it does not fall silent, and given what is left as long as it takes some.

The task ends when both directions have, or when TLS fails, and closes both sockets; cancelling it does the same.  It
never raises: ``problem`` keeps what went wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl as ssl_module

__all__ = ["Pump"]

_CHUNK = 65536
_PATIENCE = 5.0
"""For how long a proxy may be silent, or take nothing, once this side has ended (seconds)."""

_running: set[asyncio.Task[None]] = set()  # the event loop itself refers to tasks only weakly


class Pump:
    """A TLS connection over ``sock``, which belongs to it from now on; ``hostname``: whom to expect there."""

    def __init__(self, sock: socket.socket, context: ssl_module.SSLContext, hostname: str) -> None:
        self.problem: OSError | None = None
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._local: socket.socket | None = None
        self._incoming, self._outgoing = ssl_module.MemoryBIO(), ssl_module.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._flushing = asyncio.Lock()  # what is encrypted leaves in the order it was made
        self._sent_all = False
        self._notified = False  # that we will send nothing more
        self._discarding = False
        self._hearing: asyncio.Timeout | None = None
        self._looking: asyncio.TimerHandle
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> socket.socket:
        """Do the TLS handshake, and return the socket that stands for the connection.

        Raises ``ssl.SSLError`` or another ``OSError``; then, and when it is cancelled, everything is closed.
        """
        try:
            await self._shake_hands()
            self._local, given = socket.socketpair()
        except BaseException:
            self._sock.close()
            raise
        self._local.setblocking(False)
        given.setblocking(False)
        self._task = self._loop.create_task(self._run(self._local), name="taut: TLS to a proxy")
        _running.add(self._task)
        self._task.add_done_callback(_running.discard)
        return given

    async def stop(self) -> None:
        """End now; what has not left is dropped."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl_module.SSLWantReadError:
                await self._flush()
                if not await self._fill():
                    raise ConnectionResetError("it was closed") from None
            except ssl_module.SSLError:
                with contextlib.suppress(OSError):  # an alert, if it can leave at once
                    self._sock.send(self._outgoing.read())
                raise
            else:
                return await self._flush()

    async def _run(self, local: socket.socket) -> None:
        sending = self._loop.create_task(self._send(local), name="taut: TLS to a proxy, upwards")
        try:
            await self._receive(local)
            await sending
            await self._notify()
        except OSError as exc:
            self.problem = self.problem or exc
        finally:
            sending.cancel()
            try:
                await asyncio.wait([sending])
            finally:
                self._sock.close()
                local.close()

    async def _send(self, local: socket.socket) -> None:
        """Carry what this side sends, up to its end."""
        try:
            while data := await self._take(local):
                self._tls.write(data)
                await self._flush()
            self._end_sending()
            if self._hearing is not None or self._discarding:
                await self._notify()
        except OSError as exc:
            # What the proxy sent before it stopped listening is still to be had.
            self.problem = self.problem or exc
            self._notified = True
            self._end_sending()

    async def _take(self, local: socket.socket) -> bytes:
        try:
            return await self._loop.sock_recv(local, _CHUNK)
        except ConnectionError:  # closed before everything was read there
            return b""

    def _end_sending(self) -> None:
        self._sent_all = True
        if self._hearing is not None:
            self._hearing.reschedule(self._loop.time() + _PATIENCE)

    async def _notify(self) -> None:
        """Send close_notify, unless that was done; only while nothing waits to be read that is wanted."""
        if self._sent_all and not self._notified:
            self._notified = True
            with contextlib.suppress(ssl_module.SSLError):  # no answer yet, but perhaps data, which ends it for OpenSSL
                self._tls.unwrap()
            await self._flush()

    async def _receive(self, local: socket.socket) -> None:
        """Carry what the proxy sends, up to its end."""
        while True:
            try:
                data = self._tls.read(_CHUNK)
            except ssl_module.SSLWantReadError:
                await self._notify()
                if self._outgoing.pending and not self._flushing.locked():  # TLS 1.3 has answers of its own
                    await self._flush()
                await self._fill()
                continue
            except (ssl_module.SSLZeroReturnError, ssl_module.SSLEOFError):
                data = b""
            try:
                if not data:
                    return local.shutdown(socket.SHUT_WR)
                await self._loop.sock_sendall(local, data)
            except OSError:
                return await self._discard()

    async def _discard(self) -> None:
        """Take what nobody here wants any more: to close with it unread would reset the connection, and last words."""
        self._discarding = True
        async with asyncio.timeout(_PATIENCE):
            await self._notify()
            while await self._loop.sock_recv(self._sock, _CHUNK):
                pass

    async def _flush(self) -> None:
        """Send what is encrypted."""
        async with self._flushing:
            while data := self._outgoing.read():
                self._looking = self._loop.call_later(_PATIENCE, self._look)
                try:
                    await self._loop.sock_sendall(self._sock, data)
                finally:
                    self._looking.cancel()

    def _look(self) -> None:
        """A piece has been leaving for long, and may go on so, unless nobody is left who cares."""
        if self._task is not None and self._local is not None and (self._sent_all or _hung_up(self._local)):
            self._task.cancel()
        else:
            self._looking = self._loop.call_later(_PATIENCE, self._look)

    async def _fill(self) -> bool:
        """Wait for bytes from the proxy; False at their end."""
        async with asyncio.timeout(_PATIENCE if self._sent_all else None) as hearing:
            self._hearing = hearing
            try:
                data = await self._loop.sock_recv(self._sock, _CHUNK)
            finally:
                self._hearing = None
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return bool(data)


def _hung_up(sock: socket.socket) -> bool:
    """Whether the other end is closed altogether, which reading tells only behind everything that is still there."""
    if not hasattr(select, "poll"):
        return False
    poller = select.poll()
    poller.register(sock, 0)  # errors and hang-ups are always reported
    return bool(poller.poll(0))
