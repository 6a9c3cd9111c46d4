"""HAProxy in front of a WebSocket server: it forwards bytes, with the PROXY protocol, or requests, with headers."""

from __future__ import annotations

from pathlib import Path

from .certificates import write_certificate
from .install import program
from .processes import Service

_CONFIGURATION = """
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
    """

    name = "haproxy"

    def __init__(self, upstream: int, *, tls: bool = False, send: str | None = "send-proxy-v2") -> None:
        super().__init__()
        self.upstream = upstream
        self.tls = tls
        self.send = send
        self.scheme = "wss" if tls else "ws"

    def command(self) -> list[str]:
        tls = ""
        if self.tls:
            certificate, key = write_certificate(self.folder)
            both = self.folder / "both.pem"
            both.write_bytes(Path(certificate).read_bytes() + Path(key).read_bytes())
            tls = f"ssl crt {both}"
        text = _CONFIGURATION.format(
            mode="http" if self.send is None else "tcp",
            host=self.host,
            port=self.port,
            tls=tls,
            headers=_HEADERS if self.send is None else "",
            upstream=self.upstream,
            send=self.send or "",
        )
        path = self.folder / "haproxy.cfg"
        path.write_text(text)
        return [program("haproxy"), "-db", "-f", str(path)]
