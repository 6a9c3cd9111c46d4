"""Install the services (``python -m services install``), or start them all until interrupted (``start``)."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from contextlib import ExitStack

from .chromium import Chromium
from .haproxy import HAProxy
from .install import NotInstalled, install
from .nginx import Nginx
from .node import NodeWs
from .processes import Service, ServiceError
from .proxies import Dante, Tinyproxy
from .redis import Redis


def start(stack: ExitStack) -> dict[str, Service]:
    """Start one of each."""
    services: dict[str, Service] = {
        "HTTP proxy": Tinyproxy(),
        "HTTP proxy with a password": Tinyproxy(auth=True),
        "SOCKS proxy": Dante(),
        "SOCKS proxy with a password": Dante(auth=True),
        "echo server": NodeWs(),
        "echo server with TLS": NodeWs(tls=True),
        "browser, its debugging port": Chromium(),
        "Redis": Redis(),
    }
    for service in services.values():
        stack.enter_context(service)
    upstream = services["echo server"].port
    proxied = {"reverse proxy of the echo server": Nginx(upstream), "another one": HAProxy(upstream, send=None)}
    for service in proxied.values():
        stack.enter_context(service)
    return services | proxied


def main() -> int:
    parser = argparse.ArgumentParser(prog="services", description=__doc__)
    parser.add_argument("action", choices=["install", "start"])
    action = parser.parse_args().action
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        install()
        if action == "install":
            return 0
        with ExitStack() as stack:
            for title, service in start(stack).items():
                print(f"  {title:33} {service.name:10} {service.url}", flush=True)
            print("services: running until interrupted", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("services: stopped")
    except (subprocess.CalledProcessError, OSError, NotInstalled, ServiceError) as problem:
        print(f"services: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
