"""``run``: from the arguments to the end of the last process."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

from ..options import check_count, check_port
from ..server.server import Server
from .activation import adopt, inherited_descriptors
from .binding import Binding, bind_shared, bind_tcp, bind_unix_path
from .loading import load
from .loops import loop_factory
from .metrics import showing
from .notify import Notifier
from .plan import Plan
from .serving import Serving
from .supervisor import Supervisor

__all__ = ["Place", "launch", "prepare", "run"]

Announce = Callable[[Sequence[socket.socket]], None]


class Place:
    """Where to listen. Raises ``TypeError`` or ``ValueError`` for a wrong argument."""

    def __init__(
        self,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        path: str | os.PathLike[str] | None = None,
        descriptors: Iterable[int] = (),
    ) -> None:
        self.hosts = ("127.0.0.1",) if host is None else (host,) if isinstance(host, str) else tuple(host)
        check_port(port)
        self.port = 8765 if port is None else port
        self.path = None if path is None else os.fspath(path)
        self.descriptors = list(descriptors)
        for descriptor in self.descriptors:
            check_count("descriptors", descriptor, least=0)
        self._given = {"host": host, "port": port, "path": path, "descriptors": self.descriptors or None}

    def bind(self, slots: int, inherited: list[int]) -> Binding:
        """The sockets, for so many workers. Raises ``OSError``, and ``ValueError`` for what contradicts itself.

        ``inherited``: the descriptors that systemd has handed over.
        """
        given = {name for name, value in self._given.items() if value is not None}
        ways = [way for way in ({"host", "port"}, {"path"}, {"descriptors"}) if way & given]
        if len(ways) > 1 or (ways and inherited):
            names = " and ".join(sorted(given)) + (" and systemd's sockets" if inherited else "")
            raise ValueError(f"only one of host and port, path, descriptors says where to listen, not {names}")
        if inherited or self.descriptors:
            return bind_shared(adopt(inherited or self.descriptors), slots)
        if self.path is not None:
            return bind_unix_path(self.path, slots)
        return bind_tcp(self.hosts, self.port, slots)


def run(
    app: str,
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    descriptors: Iterable[int] = (),
    workers: int | None = None,
    factory: bool = False,
    app_dir: str | os.PathLike[str] = ".",
    certificate: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    drain: float = 30.0,
    start_timeout: float = 60.0,
    worker_timeout: float = 60.0,
    uvloop: bool | None = None,
    log_format: str = "text",
    log_level: str = "info",
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
    **options: Any,
) -> None:
    """Serve ``app`` until SIGTERM or SIGINT, in this process or in several: what ``taut serve`` does.

    ``app``: MODULE:ATTRIBUTE, of what ``serve`` takes, or of a ``serve(...)`` that is not awaited; with ``factory``, of
    what is called to make it: it returns that, or an awaitable of it, or an asynchronous context manager. ``app_dir``:
    where modules are looked for first.

    ``host`` (127.0.0.1), ``port`` (8765): where to listen. ``path``: a Unix socket instead; ``descriptors``: sockets
    that are open. Without any of these, the sockets that systemd hands over are used where it does.
    ``certificate``, ``key``: files of a TLS certificate.

    ``workers``: how many processes serve, below this one, which starts them again when they end, and replaces them on
    SIGHUP; None for this process alone. ``drain`` (30 s): how long connections are closed over at the end.
    ``start_timeout`` (60 s): how long a worker may take to get ready. ``worker_timeout`` (60 s): how long the event
    loop of a worker may be blocked before the worker is killed and started again, 0 for ever. ``uvloop``: whether to
    run on uvloop, None for where it is installed. ``log_format`` ("text"), ``log_level`` ("info"): of the log, on
    stderr, unless the program configures ``logging`` itself. ``metrics_port``, ``metrics_host`` (127.0.0.1): where
    ``/metrics``, ``/healthz`` and ``/readyz`` of all processes are answered by the one at the top, None for nowhere.
    ``options``: those of ``serve``.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, ``OSError`` when listening fails, ``StartError`` when
    the application cannot be started, ``RuntimeError`` outside the main thread, and whatever the module raises that is
    loaded into this process.
    """
    plan = Plan(
        app=app,
        factory=factory,
        app_dir=os.fspath(app_dir),
        certificate=None if certificate is None else os.fspath(certificate),
        key=None if key is None else os.fspath(key),
        drain=drain,
        start_timeout=start_timeout,
        worker_timeout=worker_timeout,
        uvloop=uvloop,
        log_format=log_format,
        log_level=log_level,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        options=options,
    )
    check_count("workers", workers, least=1, optional=True)
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals reach the main thread only: that is where workers are run from")
    binding = prepare(plan, Place(host, port, path, descriptors), workers)
    launch(plan, binding, workers, lambda sockets: None)


def prepare(plan: Plan, place: Place, workers: int | None) -> Binding:
    """The sockets, when everything else that can be known beforehand is in order. Raises as ``run`` does."""
    plan.server_certificate()
    binding = place.bind(workers or 1, inherited_descriptors(os.environ))
    if plan.metrics_port is not None:
        try:
            binding.metrics = bind_tcp([plan.metrics_host], plan.metrics_port, 1).sockets
        except BaseException:
            binding.close()
            raise
    return binding


def launch(plan: Plan, binding: Binding, workers: int | None, announce: Announce) -> None:
    """Run to the end. ``announce``: is called with the sockets once everything serves."""
    notifier = Notifier(os.environ)
    try:
        if workers is None:
            _run_here(plan, binding, notifier, announce)
        else:
            plan.configure_logging()
            with asyncio.Runner() as runner:
                runner.run(_supervise(plan, binding, notifier, announce))
    finally:
        binding.close()
        for sock in binding.metrics:
            sock.close()


def _run_here(plan: Plan, binding: Binding, notifier: Notifier, announce: Announce) -> None:
    app = load(plan.app, plan.app_dir)
    plan.configure_logging()

    def ready(server: Server) -> None:
        notifier.ready(f"serving {plan.app}")
        announce(server.sockets)

    async def serve_here() -> None:
        serving = Serving(plan, alone=True, leaves=binding.inherited, on_stop=notifier.stopping)
        with _watched(notifier):
            async with showing(binding.metrics, lambda _: serving.counted(), lambda: serving.is_ready):
                await serving.run(app, binding.sockets, ready)

    with asyncio.Runner(loop_factory=loop_factory(plan.uvloop)) as runner:
        runner.run(serve_here())


async def _supervise(plan: Plan, binding: Binding, notifier: Notifier, announce: Announce) -> None:
    with _watched(notifier):
        await Supervisor(plan, binding, notifier, lambda: announce(binding.sockets)).run()


@contextmanager
def _watched(notifier: Notifier) -> Generator[None]:
    """Tell systemd's watchdog, if there is one, that the event loop turns."""
    if notifier.watchdog is None:
        yield
        return
    task = asyncio.get_running_loop().create_task(_tell(notifier, notifier.watchdog))
    try:
        yield
    finally:
        task.cancel()


async def _tell(notifier: Notifier, interval: float) -> None:
    while True:
        notifier.alive()
        await asyncio.sleep(interval)
