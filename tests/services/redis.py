"""Redis, without persistence: what it knew is gone when it is ended."""

from __future__ import annotations

from .install import program
from .processes import Service, ServiceError


class Redis(Service):
    """A server of Redis, at ``url``."""

    name = "redis"
    scheme = "redis"

    def command(self) -> list[str]:
        options = {"bind": self.host, "port": str(self.port), "dir": str(self.folder), "save": "", "appendonly": "no"}
        return [program("redis-server"), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def restart(self) -> None:
        """Start it again, at the same port, after ``end``."""
        self._launch()
        if not self._ready():
            raise ServiceError(f"{self.name} did not start again; the end of its log:\n{self.log()[-2000:]}")
