"""Debian's tinyproxy (HTTP CONNECT) and Dante (SOCKS4, SOCKS5), each with and without a password."""

from __future__ import annotations

import getpass
import os

from .install import nss_wrapper, program
from .processes import Service

USERNAME = "taut"
PASSWORD = "secret"
# crypt(3) of PASSWORD
_HASH = "$5$taut$GYCep6XCvSjMsU8IBFbYzf8Ks8x5yvzuQN13X4GJ3L8"


class Tinyproxy(Service):
    """An HTTP proxy; with ``auth`` it wants the user name and the password."""

    name = "tinyproxy"
    scheme = "http"

    def __init__(self, *, auth: bool = False) -> None:
        super().__init__()
        if auth:
            self.username, self.password = USERNAME, PASSWORD

    def command(self) -> list[str]:
        lines = [f"Port {self.port}", f"Listen {self.host}", "MaxClients 200", "Timeout 600", "LogLevel Connect"]
        if self.username:
            lines.append(f"BasicAuth {self.username} {self.password}")
        path = self.folder / "tinyproxy.conf"
        path.write_text("\n".join(lines) + "\n")
        return [program("tinyproxy"), "-d", "-c", str(path)]


class Dante(Service):
    """A SOCKS proxy; with ``auth`` it wants the user name and the password, which SOCKS4 has no place for.

    Dante knows the system's users only.  Those that it sees here are in files of our own, by means of nss_wrapper, a
    library that is loaded before the C library for this very purpose.
    """

    name = "dante"
    scheme = "socks5"

    def __init__(self, *, auth: bool = False) -> None:
        super().__init__()
        if auth:
            self.username, self.password = USERNAME, PASSWORD

    def command(self) -> list[str]:
        user = getpass.getuser()
        lines = [
            "logoutput: stdout",
            f"internal: {self.host} port = {self.port}",
            f"external: {self.host}",
            "clientmethod: none",
            f"socksmethod: {'username' if self.username else 'none'}",
            # It stays who it is: a process that changes its user would not be ended with its parent any more.
            f"user.privileged: {user}",
            f"user.unprivileged: {user}",
            f"user.libwrap: {user}",
            "client pass { from: 127.0.0.0/8 to: 0.0.0.0/0 log: error }",
            "socks pass { from: 127.0.0.0/8 to: 0.0.0.0/0 log: connect error }",
        ]
        path = self.folder / "danted.conf"
        path.write_text("\n".join(lines) + "\n")
        return [program("danted"), "-f", str(path), "-p", str(self.folder / "pid")]

    def environment(self) -> dict[str, str]:
        if not self.username:
            return {}
        users = {getpass.getuser(): os.getuid(), "nobody": 65534, USERNAME: 54321}
        files = {
            "passwd": [f"{name}:x:{number}:{number}::/:/bin/false" for name, number in users.items()],
            "group": [f"{name}:x:{number}:" for name, number in users.items()],
            "shadow": [f"{USERNAME}:{_HASH}:19000:0:99999:7:::"],
        }
        for name, lines in files.items():
            (self.folder / name).write_text("\n".join(lines) + "\n")
        wrapped = {f"NSS_WRAPPER_{name.upper()}": str(self.folder / name) for name in files}
        return {"LD_PRELOAD": nss_wrapper(), **wrapped}
