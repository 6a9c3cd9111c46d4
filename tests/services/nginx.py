"""nginx as a reverse proxy in front of a WebSocket server, as its documentation says for WebSocket."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from .certificates import write_certificate
from .install import program
from .processes import Service

_FRAME = """
daemon off;
{user}
pid nginx.pid;
error_log stderr notice;
{main}
http {{
    access_log access.log;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {site}
}}
"""
_MAIN = """
worker_processes 1;
{shutdown}
events {{ worker_connections 512; }}
"""
_SITE = """
map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
server {{
    listen {listen};
    {tls}
    location {prefix} {{
        proxy_pass http://127.0.0.1:{upstream}/;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_connect_timeout 5s;
        proxy_read_timeout {read_timeout};
    }}
}}
"""


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f}ms"


class Nginx(Service):
    """A reverse proxy of ``upstream`` (a port of 127.0.0.1).

    Args:
        tls: Speak TLS; certificates.trusting_context() trusts it.
        prefix: What lies under this path is the upstream's root; ends with a slash.
        read_timeout: Seconds without anything from the upstream until nginx ends a connection.
        shutdown_timeout: Seconds that connections may go on after a reload; None for as long as they like.
        site: Gives the http block's contents instead of all this, once the port is known.
        main: What stands before the http block, with a site of one's own.
    """

    name = "nginx"

    def __init__(
        self,
        upstream: int,
        *,
        tls: bool = False,
        prefix: str = "/",
        read_timeout: float = 60.0,
        shutdown_timeout: float | None = None,
        site: Callable[[Nginx], str] | None = None,
        main: str | None = None,
    ) -> None:
        super().__init__()
        self.upstream = upstream
        self.tls = tls
        self.prefix = prefix
        self.read_timeout = read_timeout
        self.shutdown_timeout = shutdown_timeout
        self.site = site or Nginx._site
        self.main = main or Nginx._main(shutdown_timeout)
        self.scheme = "wss" if tls else "ws"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.prefix}"

    @staticmethod
    def _main(shutdown_timeout: float | None) -> str:
        shutdown = f"worker_shutdown_timeout {_milliseconds(shutdown_timeout)};" if shutdown_timeout else ""
        return _MAIN.format(shutdown=shutdown)

    def _site(self) -> str:
        tls = ""
        if self.tls:
            certificate, key = write_certificate(self.folder)
            tls = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
        return _SITE.format(
            listen=f"{self.host}:{self.port}{' ssl' if self.tls else ''}",
            tls=tls,
            prefix=self.prefix,
            upstream=self.upstream,
            read_timeout=_milliseconds(self.read_timeout),
        )

    def command(self) -> list[str]:
        # Its workers would be www-data, to whom the folder is closed.
        user = "user root root;" if os.geteuid() == 0 else ""
        path = self.folder / "nginx.conf"
        path.write_text(_FRAME.format(user=user, main=self.main, site=self.site(self)))
        return [program("nginx"), "-p", str(self.folder), "-c", str(path), "-e", "stderr"]

    def reload(self) -> None:
        """Have it take over its configuration again: new workers for new connections."""
        self.signal(signal.SIGHUP)
