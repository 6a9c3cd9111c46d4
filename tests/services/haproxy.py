"""HAProxy in front of a WebSocket server: it forwards bytes, with the PROXY protocol, or requests, with headers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .certificates import write_certificate
from .install import program
from .processes import Service

_DEFAULTS = """
global
    maxconn 512
    log stdout format raw local0
defaults
    mode {mode}
    log global
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
"""
_SECTIONS = """
frontend front
    bind {host}:{port} {tls}
    {headers}
    default_backend back
backend back
    server one 127.0.0.1:{upstream} {send}
"""
_HEADERS = """option forwardfor
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
    http-request del-header Forwarded"""


class HAProxy(Service):
    """A reverse proxy of ``upstream`` (a port of 127.0.0.1).

    Args:
        tls: Speak TLS with clients; certificates.trusting_context() trusts it.
        send: How the upstream is told of clients when bytes are forwarded: "send-proxy" for version 1 of the PROXY
            protocol, "send-proxy-v2", "send-proxy-v2-ssl" to tell of TLS as well. None to forward requests instead,
            with X-Forwarded-For and X-Forwarded-Proto.
        sections: Gives frontends and backends instead of these, once the port is known; what they do not say is as
            here.
    """

    name = "haproxy"

    def __init__(
        self,
        upstream: int,
        *,
        tls: bool = False,
        send: str | None = "send-proxy-v2",
        sections: Callable[[HAProxy], str] | None = None,
    ) -> None:
        super().__init__()
        self.upstream = upstream
        self.tls = tls
        self.send = send
        self.sections = sections or HAProxy._sections
        self.scheme = "wss" if tls else "ws"

    def both(self) -> str:
        """The path of a file with a certificate and its key, which trusting_context() trusts."""
        certificate, key = write_certificate(self.folder)
        path = self.folder / "both.pem"
        path.write_bytes(Path(certificate).read_bytes() + Path(key).read_bytes())
        return str(path)

    def _sections(self) -> str:
        return _SECTIONS.format(
            host=self.host,
            port=self.port,
            tls=f"ssl crt {self.both()}" if self.tls else "",
            headers=_HEADERS if self.send is None else "",
            upstream=self.upstream,
            send=self.send or "",
        )

    def command(self) -> list[str]:
        path = self.folder / "haproxy.cfg"
        path.write_text(_DEFAULTS.format(mode="http" if self.send is None else "tcp") + self.sections(self))
        return [program("haproxy"), "-db", "-f", str(path)]
