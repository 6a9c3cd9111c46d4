"""``taut proxy``: a reverse proxy for WebSocket connections."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import ssl
from contextlib import suppress
from typing import Any

import taut

from ..observability import JSONFormatter, metrics_routes, snapshot
from ..proxy import HeaderRules, HealthCheck, Proxy, ProxyServer, Route, Upstream
from ..proxy import serve as serve_proxy
from ..workers.binding import bind_tcp
from ..workers.metrics import showing
from .proxy_arguments import add_proxy_arguments, target
from .running import authority, loop_name, run
from .terminal import CommandError, explain, show

__all__ = ["add_parser"]

_WRONG_USE = 2
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def add_parser(commands: Any) -> None:
    """Describe ``taut proxy`` to argparse."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "proxy",
        help="pass connections on to other servers",
        description="Pass WebSocket connections on to upstreams until SIGINT or SIGTERM: then every connection is"
        " closed with 1012, and the exit status is 0. It is 1 when the address cannot be had, and 2 for a wrong"
        " argument. SIGHUP loads the certificate anew.",
        allow_abbrev=False,
    )
    add_proxy_arguments(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        certificate = _certificate(arguments)
        proxy = Proxy(
            _routes(arguments),
            dial_timeout=arguments.dial_timeout,
            forwards=None if arguments.forwards == "none" else arguments.forwards,
            **_both_sides(arguments),
        )
        serving = _serving(arguments, proxy, certificate)
        if arguments.metrics_port is not None:
            metrics_routes()
    except taut.MissingExtra as exc:
        raise CommandError(str(taut.MissingExtra("--metrics-port", exc.extra)), status=_WRONG_USE) from None
    except (TypeError, ValueError) as exc:
        raise CommandError(str(exc), status=_WRONG_USE) from None
    _configure_logging(arguments)
    return run(lambda: _serve(arguments, serving, certificate), uvloop=arguments.uvloop)


def _serving(arguments: argparse.Namespace, proxy: Proxy, certificate: taut.ServerCertificate | None) -> serve_proxy:
    options = _both_sides(arguments)
    if arguments.origin:
        options["origins"] = None if arguments.origin == ["same"] else arguments.origin
    if isinstance(arguments.listen, str):
        options["path"] = arguments.listen
    else:
        options["host"], options["port"] = arguments.listen
    return serve_proxy(
        proxy,
        ssl=None if certificate is None else certificate.context,
        trusted_proxies=arguments.trusted_proxy,
        proxy_protocol=arguments.proxy_protocol,
        max_connections=arguments.max_connections,
        max_connections_per_address=arguments.max_connections_per_address,
        **options,
    )


def _both_sides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that are for the connections of clients and to upstreams alike."""
    return {
        "compression": None if arguments.no_compression else "deflate",
        "max_size": arguments.max_size,
        "ping_interval": arguments.ping_interval or None,
    }


# -- routes ----------------------------------------------------------------------------------------------------


def _routes(arguments: argparse.Namespace) -> list[Route]:
    given: dict[str, list[str]] = {}
    for path, uri in [("/", uri) for uri in arguments.to] + arguments.route:
        given.setdefault(path, []).append(uri)
    if not given:
        raise CommandError("say where to: --to URI, or --route PATH=URI", status=_WRONG_USE)
    context = _upstream_context(arguments)
    return [_route(arguments, path, uris, context) for path, uris in given.items()]


def _route(arguments: argparse.Namespace, path: str, uris: list[str], context: ssl.SSLContext | None) -> Route:
    health = None
    if arguments.health is not None:
        health = HealthCheck(
            kind=arguments.health,
            path=arguments.health_path,
            interval=arguments.health_interval,
            timeout=arguments.health_timeout,
            unhealthy_after=arguments.unhealthy_after,
            healthy_after=arguments.healthy_after,
        )
    return Route(
        [_upstream(arguments, uri, context) for uri in uris],
        path,
        strip_prefix=arguments.strip_prefix,
        rewrite=None if arguments.rewrite is None else tuple(arguments.rewrite),
        host=arguments.host_header,
        request_headers=_rules(arguments, "header"),
        response_headers=_rules(arguments, "response_header"),
        balance=arguments.balance,
        tries=arguments.tries,
        pause=arguments.pause,
        health=health,
    )


def _rules(arguments: argparse.Namespace, of: str) -> HeaderRules:
    given = vars(arguments)
    return HeaderRules(set=dict(given[f"set_{of}"]), add=given[f"add_{of}"], remove=given[f"remove_{of}"])


def _upstream(arguments: argparse.Namespace, text: str, context: ssl.SSLContext | None) -> Upstream:
    uri, path = target(text)
    own = context if uri.startswith("wss:") else None
    return Upstream(uri=uri, path=path, ssl=own, proxy_protocol=arguments.send_proxy)


# -- TLS -------------------------------------------------------------------------------------------------------


def _upstream_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if arguments.insecure and arguments.cacert:
        raise CommandError("--insecure and --cacert exclude each other", status=_WRONG_USE)
    if not arguments.insecure and not arguments.cacert:
        return None
    try:
        context = ssl.create_default_context(cafile=arguments.cacert)
    except OSError as exc:
        raise CommandError(f"--cacert: {arguments.cacert} cannot be used: {_cause(exc)}", status=_WRONG_USE) from None
    if arguments.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _certificate(arguments: argparse.Namespace) -> taut.ServerCertificate | None:
    if arguments.cert is None:
        if arguments.key is not None:
            raise CommandError("--key needs --cert", status=_WRONG_USE)
        return None
    try:
        return taut.ServerCertificate(arguments.cert, arguments.key)
    except OSError as exc:
        files = " and ".join(file for file in (arguments.cert, arguments.key) if file)
        raise CommandError(f"--cert: {files} cannot be used: {_cause(exc)}", status=_WRONG_USE) from None


def _cause(exc: OSError) -> str:
    reason = exc.reason if isinstance(exc, ssl.SSLError) else None
    return reason or exc.strerror or str(exc)


# -- running ---------------------------------------------------------------------------------------------------


def _configure_logging(arguments: argparse.Namespace) -> None:
    """One line for each connection: that of the proxy, and not one more from each side of it."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if arguments.log_format == "json" else logging.Formatter(_TEXT))
    level: str = arguments.log_level.upper()
    logging.basicConfig(level=level, handlers=[handler])
    if level == "INFO":
        for name in ("taut.proxy.metrics", "taut.proxy.upstream", "taut.server"):
            logging.getLogger(name).setLevel("WARNING")


async def _serve(
    arguments: argparse.Namespace, serving: serve_proxy, certificate: taut.ServerCertificate | None
) -> int:
    try:
        server = await serving
    except (OSError, UnicodeError) as exc:
        raise _cannot_listen(arguments.listen, exc) from None
    if certificate is not None and hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, certificate)
    try:
        sockets = _metrics_sockets(arguments)
        async with showing(sockets, lambda _: snapshot(server), lambda: server.ready, name="proxy"):
            _announce(arguments, server)
            await server.serve_until_signal(drain=arguments.drain)
    finally:
        server.close()
        await server.wait_closed()
        if isinstance(arguments.listen, str):
            with suppress(OSError):
                os.unlink(arguments.listen)
    return 0


def _metrics_sockets(arguments: argparse.Namespace) -> list[socket.socket]:
    """Where metrics are shown; none without ``--metrics-port``."""
    if arguments.metrics_port is None:
        return []
    try:
        return bind_tcp([arguments.metrics_host], arguments.metrics_port, 1).sockets
    except (OSError, UnicodeError) as exc:
        where = arguments.metrics_host, arguments.metrics_port
        raise _cannot_listen(where, exc, "--metrics-port") from None


def _reload(certificate: taut.ServerCertificate) -> None:
    logger = logging.getLogger("taut.proxy")
    try:
        certificate.reload()
    except (OSError, ValueError) as exc:
        logger.error("the certificate stays as it is: %s", exc)
    else:
        logger.info("the certificate was loaded anew")


def _cannot_listen(listen: tuple[str | None, int] | str, exc: Exception, option: str = "--listen") -> CommandError:
    if isinstance(listen, str):
        return CommandError(str(exc))
    advice = f"; choose another with {option}" if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE else ""
    return CommandError(f"cannot listen on {authority(listen[0] or '*', listen[1])}: {explain(exc)}{advice}")


def _announce(arguments: argparse.Namespace, server: ProxyServer) -> None:
    scheme = "ws" if arguments.cert is None else "wss"
    names = ", ".join(dict.fromkeys(stats.name for stats in server.proxy.stats))
    for sock in server.sockets:
        name: tuple[Any, ...] | str = sock.getsockname()
        where = f"{scheme}+unix:{name}" if isinstance(name, str) else f"{scheme}://{authority(name[0], name[1])}/"
        show(f"proxy on {where} to {names} ({loop_name()}; Ctrl-C stops it)")
