"""What a line typed at the prompt means: a message, or one of the commands that begin with a slash."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = ["HELP", "Action", "Close", "Help", "Ping", "Send", "parse_line"]

HELP = """\
/ping                   send a Ping and show the round trip
/close [CODE [REASON]]  close the connection (1000 by default)
/binary HEX             send a Binary message: /binary 00 ff 1f
/binary @FILE           send the content of a file as a Binary message
/help                   show this
//...                    send a line that begins with a slash
Ctrl-D closes the connection once what is on its way has arrived, Ctrl-C closes it at once."""

_CODE = re.compile(r"1000|1001|1002|1003|100[7-9]|101[0-4]|[34][0-9]{3}")


@dataclass(frozen=True, slots=True)
class Send:
    """Send this, as a Text message if it is a str."""

    message: str | bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Measure the round trip."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection."""

    code: int = 1000
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Help:
    """Show ``HELP``."""


Action: TypeAlias = Send | Ping | Close | Help


def parse_line(line: str) -> Action:
    """What to do for this line. Raises ``ValueError`` or ``OSError`` with what to tell whoever typed it."""
    if not line.startswith("/"):
        return Send(line)
    if line.startswith("//"):
        return Send(line[1:])
    command, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    match command:
        case "/ping" if not rest:
            return Ping()
        case "/help" if not rest:
            return Help()
        case "/close":
            return _close(rest)
        case "/binary":
            return Send(_binary(rest))
        case "/ping" | "/help":
            raise ValueError(f"{command} takes nothing more; /help lists the commands")
        case _:
            raise ValueError(f"there is no command {command}; /help lists them, and //... sends a line with a slash")


def _close(rest: str) -> Close:
    code, _, reason = rest.partition(" ")
    if not code:
        return Close()
    if not _CODE.fullmatch(code):
        raise ValueError(f"{code!r} is not a close code: 1000 to 1003, 1007 to 1014 or 3000 to 4999")
    return Close(int(code), reason.strip())


def _binary(rest: str) -> bytes:
    if rest.startswith("@"):
        path = Path(rest[1:]).expanduser()
        if not path.is_file():  # a pipe or a device might never end
            raise ValueError(f"{path} is not a file")
        return path.read_bytes()
    try:
        return binascii.unhexlify("".join(rest.split()))
    except ValueError:
        raise ValueError(f"{rest!r} is not hexadecimal: /binary 00 ff 1f, or /binary @FILE") from None
