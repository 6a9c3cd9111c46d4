"""What a process serves and how: checked once, then the same in every worker, which it reaches as JSON."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ..observability import JSONFormatter, metrics_routes
from ..options import check_number, check_port, check_text
from ..server.certificate import ServerCertificate
from ..server.serving import serve
from .loading import LoadError, check_name
from .loops import loop_factory

__all__ = ["FORMATS", "LEVELS", "Plan"]

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a process serves and how. Raises ``TypeError`` or ``ValueError`` for a wrong argument."""

    app: str
    factory: bool = False
    app_dir: str = "."
    certificate: str | None = None
    key: str | None = None
    drain: float = 30.0
    start_timeout: float = 60.0
    worker_timeout: float = 60.0
    uvloop: bool | None = None
    log_format: str = "text"
    log_level: str = "info"
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """The arguments of ``serve`` by name, but for what is said above."""

    def __post_init__(self) -> None:
        check_text("app", self.app)
        check_name(self.app)
        if self.key is not None and self.certificate is None:
            raise ValueError(f"key is the private key of a certificate, and there is no certificate, but {self.key!r}")
        check_number("drain", self.drain, least=0)
        if math.isinf(self.drain):
            raise ValueError("drain must be a finite number of seconds")
        check_number("start_timeout", self.start_timeout, above=0)
        check_number("worker_timeout", self.worker_timeout, least=0)
        for name, value, known in [("log_format", self.log_format, FORMATS), ("log_level", self.log_level, LEVELS)]:
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        check_port(self.metrics_port)
        if self.metrics_port is not None:
            metrics_routes()
        check_text("metrics_host", self.metrics_host)
        loop_factory(self.uvloop)
        wrong = self.options.keys() & {"handler", "host", "port", "sock", "path", "ssl", "logger", "reuse_port"}
        if wrong:
            raise TypeError(f"these options of serve are no options of workers: {', '.join(sorted(wrong))}")
        try:
            json.dumps(self.options)
        except TypeError as exc:
            raise TypeError(f"the options of workers must be numbers, strings, or lists of those: {exc}") from None
        serve(_nothing, **self.options)

    def server_certificate(self) -> ServerCertificate | None:
        """The certificate, loaded; None for a server without TLS. Raises ``LoadError``."""
        if self.certificate is None:
            return None
        try:
            return ServerCertificate(self.certificate, self.key)
        except (OSError, ValueError) as exc:
            raise LoadError(f"the certificate {self.certificate} cannot be loaded: {exc}") from None

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What ``to_json`` wrote."""
        return cls(**json.loads(text))

    def configure_logging(self) -> None:
        """Log to stderr, unless the program has said already what is to be logged where."""
        if not logging.getLogger().hasHandlers():
            handler = logging.StreamHandler()
            handler.setFormatter(JSONFormatter() if self.log_format == "json" else logging.Formatter(_TEXT))
            logging.basicConfig(level=self.log_level.upper(), handlers=[handler])


_TEXT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


async def _nothing(_connection: object) -> None:
    """A handler, to check the options that go with one."""
