"""The PROXY protocol, versions 1 and 2: what a proxy says of a connection that it forwards, read and (2 only) written.

The header is the first thing on the connection, before TLS and before HTTP.  The specification is HAProxy's
proxy-protocol.txt; the numbers in comments are its sections.  Whether there has to be a header is agreed beforehand,
never guessed from the bytes (2.): the reader takes nothing else.

What is fed is judged byte by byte as it arrives: the first byte that cannot belong to a header ends it, so that the
outcome does not depend on how the bytes were split.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Literal

from taut.errors import InvalidMessage
from taut.types import BytesLike

__all__ = ["ProxyHeader", "ProxyHeaderReader", "encode_proxy_header"]

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_SIZE = 107
"""The longest line of version 1, with its end (2.1)."""
_V2_HEAD = 16
_UNIX_PATH = 108

_line = re.compile(
    rb"PROXY (?:(UNKNOWN)(?: [^\r\n]*)?"
    rb"|TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)

_LOCAL, _PROXY = 0x20, 0x21  # version and command
_UNSPEC = 0x00
_TLS_TLV = 0x20
_CLIENT_TLS = 0x01
# Family and transport, as one byte, and the size of the addresses that it stands for (2.2).
_ADDRESS_SIZES = {_UNSPEC: 0, 0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 2 * _UNIX_PATH, 0x32: 2 * _UNIX_PATH}


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy says of a connection.

    ``version``: 1 or 2.  ``command``: "PROXY", or "LOCAL" when the proxy connected on its own account, to see whether
    the server is alive for example.  ``source``, ``destination``: the client, and what it connected to, as
    ``getpeername`` and ``getsockname`` would give them; None where the proxy does not know, and for "LOCAL".
    ``tlvs``: types and values of what else it says, in order, not interpreted.
    """

    version: Literal[1, 2]
    command: Literal["PROXY", "LOCAL"]
    source: Any = None
    destination: Any = None
    tlvs: tuple[tuple[int, bytes], ...] = ()

    @property
    def secure(self) -> bool | None:
        """Whether the client reached the proxy through TLS; None where the proxy does not say (2.2.6)."""
        for kind, value in self.tlvs:
            if kind == _TLS_TLV and value:
                return bool(value[0] & _CLIENT_TLS)
        return None


class ProxyHeaderReader:
    """Reads the header that opens a connection.

    ``max_size``: largest size that a header of version 2 may declare (bytes, default 4096).
    """

    def __init__(self, max_size: int = 4096) -> None:
        self._max_size = max_size
        self._data = bytearray()
        self._over = False
        self._header: ProxyHeader | None = None
        self.remaining = b""
        """What followed the header."""

    @property
    def header(self) -> ProxyHeader:
        """The header, once ``feed`` returned True; ``RuntimeError`` before."""
        if self._header is None:
            raise RuntimeError("the header is not complete")
        return self._header

    def feed(self, data: BytesLike) -> bool:
        """Take the next bytes; return True when the header is complete, and feed nothing more after that.

        Raises ``InvalidMessage``, as soon as the bytes allow.
        """
        if self._over:
            raise RuntimeError("the header is complete, or was refused: nothing more may be fed")
        self._over = True  # stands if an exception leaves
        self._data += data
        size = self._size()
        if size is None or len(self._data) < size:
            self._over = False
            return False
        head = bytes(self._data[:size])
        self._header = _read_line(head) if head.startswith(_V1) else _read_binary(head)
        self.remaining = bytes(self._data[size:])
        self._data = bytearray()
        return True

    def eof(self) -> None:
        """The peer closed its side: raises ``InvalidMessage``, unless the header was complete."""
        if self._header is None:
            self._over = True
            raise InvalidMessage("PROXY protocol: the connection was closed before the header was complete")

    def _size(self) -> int | None:
        """How long the header is, as far as that can be said."""
        data = self._data
        if _V1.startswith(data[: len(_V1)]):
            if (newline := data.find(b"\n", 0, _V1_SIZE)) >= 0:
                return newline + 1
            if len(data) >= _V1_SIZE:
                raise InvalidMessage(f"PROXY protocol: the line is longer than {_V1_SIZE} bytes")
            return None
        if not _V2.startswith(data[: len(_V2)]):
            raise InvalidMessage("PROXY protocol: this is no header")
        if len(data) < _V2_HEAD:
            return None
        size = int.from_bytes(data[14:16], "big")
        if size > self._max_size:
            raise InvalidMessage(f"PROXY protocol: a header of {size} bytes is over the limit of {self._max_size}")
        _check_kind(data[12], data[13], size)
        return _V2_HEAD + size


def _read_line(line: bytes) -> ProxyHeader:
    """Version 1 (2.1)."""
    found = _line.fullmatch(line)
    if found is None:
        raise InvalidMessage("PROXY protocol: malformed line")
    if found[1]:
        return ProxyHeader(1, "PROXY")
    version: Literal[4, 6] = 4 if found[2] == b"4" else 6
    try:
        source = _address(found[3].decode("ascii"), int(found[5]), version)
        destination = _address(found[4].decode("ascii"), int(found[6]), version)
    except ValueError as exc:
        raise InvalidMessage(f"PROXY protocol: malformed line: {exc}") from None
    return ProxyHeader(1, "PROXY", source, destination)


def _address(host: str, port: int, version: Literal[4, 6]) -> tuple[str, int] | tuple[str, int, int, int]:
    if port > 65535:
        raise ValueError(f"there is no port {port}")
    if version == 4:
        return str(ipaddress.IPv4Address(host)), port
    return str(ipaddress.IPv6Address(host)), port, 0, 0


def _check_kind(command: int, family: int, size: int) -> None:
    if command not in (_LOCAL, _PROXY):
        raise InvalidMessage(f"PROXY protocol: unknown version and command 0x{command:02x}")
    if command == _LOCAL:
        return  # what it says about addresses has to be ignored, whatever it is
    if family not in _ADDRESS_SIZES:
        raise InvalidMessage(f"PROXY protocol: unknown family and transport 0x{family:02x}")
    if size < _ADDRESS_SIZES[family]:
        raise InvalidMessage(f"PROXY protocol: {size} bytes are too few for the addresses")


def _read_binary(head: bytes) -> ProxyHeader:
    """Version 2 (2.2)."""
    if head[12] == _LOCAL:
        return ProxyHeader(2, "LOCAL")
    family, body = head[13], head[_V2_HEAD:]
    if family == _UNSPEC:
        return ProxyHeader(2, "PROXY")  # what follows may be addresses of a kind that is not known here
    addresses, rest = body[: _ADDRESS_SIZES[family]], body[_ADDRESS_SIZES[family] :]
    source: Any
    destination: Any
    match family >> 4:
        case 1:
            ports = int.from_bytes(addresses[8:10], "big"), int.from_bytes(addresses[10:12], "big")
            source = (str(ipaddress.IPv4Address(addresses[:4])), ports[0])
            destination = (str(ipaddress.IPv4Address(addresses[4:8])), ports[1])
        case 2:
            ports = int.from_bytes(addresses[32:34], "big"), int.from_bytes(addresses[34:36], "big")
            source = (str(ipaddress.IPv6Address(addresses[:16])), ports[0], 0, 0)
            destination = (str(ipaddress.IPv6Address(addresses[16:32])), ports[1], 0, 0)
        case _:
            source, destination = _path(addresses[:_UNIX_PATH]), _path(addresses[_UNIX_PATH:])
    return ProxyHeader(2, "PROXY", source, destination, _read_tlvs(rest))


def _path(raw: bytes) -> str | bytes:
    """As Python's sockets give it: str, but bytes for a name in Linux's abstract namespace."""
    if raw[0] == 0:
        return raw.rstrip(b"\0") or ""
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _read_tlvs(data: bytes) -> tuple[tuple[int, bytes], ...]:
    tlvs: list[tuple[int, bytes]] = []
    while data:
        end = 3 + int.from_bytes(data[1:3], "big")
        if len(data) < 3 or len(data) < end:
            raise InvalidMessage("PROXY protocol: a value at the end is cut short")
        tlvs.append((data[0], data[3:end]))
        data = data[end:]
    return tuple(tlvs)


def encode_proxy_header(source: Any, destination: Any) -> bytes:
    """The header of version 2 for a connection that ``source`` made to ``destination``, addresses as sockets have them.

    Without both, or for other addresses than those of one IP version, it says nothing of them; None for both stands for
    a connection that the proxy makes on its own account (LOCAL).
    """
    command = _LOCAL if source is None and destination is None else _PROXY
    family, body = _UNSPEC, b""
    if isinstance(source, tuple) and isinstance(destination, tuple):
        one, other = _packed(source), _packed(destination)
        if len(one[0]) == len(other[0]):
            family = 0x11 if len(one[0]) == 4 else 0x21
            body = one[0] + other[0] + one[1] + other[1]
    return _V2 + bytes([command, family]) + len(body).to_bytes(2, "big") + body


def _packed(address: Any) -> tuple[bytes, bytes]:
    """Host and port."""
    return ipaddress.ip_address(str(address[0]).partition("%")[0]).packed, int(address[1]).to_bytes(2, "big")
