"""The options of ``taut connect``, in the groups that its help shows."""

from __future__ import annotations

import argparse

from .arguments import add_loop_option, address, count, header, number, positive, positive_seconds, seconds

__all__ = ["add_connect_arguments"]


def add_connect_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the URI and every option."""
    parser.add_argument("uri", metavar="URI", help="ws://host[:port][/path] or wss://...")
    _add_sending(parser)
    _add_showing(parser)
    _add_handshake(parser)
    _add_security(parser)
    _add_way(parser)
    _add_connection(parser)
    add_loop_option(parser)


def _add_sending(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is sent")
    group.add_argument(
        "-x", "--exec", action="append", default=[], metavar="MESSAGE",
        help="send this first; may be given several times",
    )  # fmt: skip
    answers = group.add_mutually_exclusive_group()
    answers.add_argument(
        "-1", "--one", action="store_const", const=1, dest="answers",
        help="end once one message has been received; the standard input is not read if there is -x",
    )  # fmt: skip
    answers.add_argument("-n", "--answers", type=positive, metavar="N", help="the same for N messages")
    group.add_argument(
        "--wait", type=seconds, metavar="SECONDS",
        help="with -1 and -n: how long to wait for the answers, 0 for ever, else 10 seconds; without them: how long"
        " to stay once the input has ended, 0 until the server closes, else one round trip",
    )  # fmt: skip
    group.add_argument(
        "-b", "--binary", action="store_true",
        help="send what is read from the standard input in Binary messages of at most 64 KiB, and write the payload"
        " of what is received as it is",
    )  # fmt: skip
    group.add_argument("--whole", action="store_true", help="send the whole standard input as one message")
    group.add_argument("--no-history", action="store_true", help="neither read nor keep a history of what is typed")


def _add_showing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what is shown")
    group.add_argument("--json", action="store_true", help="lay out what is received if it is JSON")
    group.add_argument(
        "-t", "--timestamps", action="store_true",
        help="show what is sent as well, and before each message the local time and its direction",
    )  # fmt: skip
    group.add_argument(
        "--ping", type=positive_seconds, nargs="?", const=1.0, metavar="SECONDS",
        help="show the round trip of a Ping that often (every second if no number follows)",
    )  # fmt: skip
    loudness = group.add_mutually_exclusive_group()
    loudness.add_argument(
        "-v", "--verbose", action="store_true", help="show the handshake, TLS, and every attempt that failed"
    )
    loudness.add_argument("-q", "--quiet", action="store_true", help="say nothing about the connection but errors")


def _add_handshake(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the handshake")
    group.add_argument(
        "-H", "--header", action="append", type=header, default=[], metavar="'NAME: VALUE'",
        help="a header to add to the handshake; may be given several times",
    )  # fmt: skip
    group.add_argument(
        "-s", "--subprotocol", action="append", metavar="NAME",
        help="a subprotocol to offer; may be given several times",
    )  # fmt: skip
    group.add_argument("--origin", metavar="ORIGIN", help="the Origin header, as a browser would send it")
    credentials = group.add_mutually_exclusive_group()
    credentials.add_argument(
        "-u", "--user", metavar="NAME[:PASSWORD]", help="basic authentication; the password is asked for if left out"
    )
    credentials.add_argument("--bearer", metavar="TOKEN", help="bearer authentication")
    credentials.add_argument(
        "--bearer-env",
        metavar="VARIABLE",
        help="the same with the token from the environment, which no process list shows",
    )
    group.add_argument("--no-compression", action="store_true", help="do not offer permessage-deflate")
    group.add_argument(
        "--max-redirects", type=number, default=5, metavar="N",
        help="how many redirects to follow (default: %(default)s)",
    )  # fmt: skip


def _add_security(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("TLS (wss)")
    group.add_argument("-k", "--insecure", action="store_true", help="accept any certificate")
    group.add_argument("--cacert", metavar="FILE", help="accept certificates signed by one of this file (PEM) only")
    group.add_argument("--cert", metavar="FILE", help="the certificate of this client (PEM)")
    group.add_argument("--key", metavar="FILE", help="its private key (PEM), if it is in a file of its own")
    group.add_argument(
        "--pin", action="append", metavar="PIN",
        help="accept only this certificate, sha256:HEX, or this public key, sha256/BASE64; may be given several times",
    )  # fmt: skip


def _add_way(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the way to the server")
    proxies = group.add_mutually_exclusive_group()
    proxies.add_argument(
        "--proxy", action="append", metavar="URL",
        help="go through this proxy (http, https, socks4, socks4a, socks5, socks5h), else through the one that the"
        " environment names; given several times, through all of them, the nearest first",
    )  # fmt: skip
    proxies.add_argument("--no-proxy", action="store_true", help="go directly, whatever the environment says")
    addresses = group.add_mutually_exclusive_group()
    addresses.add_argument(
        "--connect-to", type=address, metavar="HOST:PORT", help="connect to this address instead of the URI's"
    )
    addresses.add_argument("--unix", metavar="PATH", help="connect to this Unix socket instead")
    families = group.add_mutually_exclusive_group()
    families.add_argument("-4", "--ipv4", action="store_true", help="use IPv4 only")
    families.add_argument("-6", "--ipv6", action="store_true", help="use IPv6 only")


def _add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the connection")
    group.add_argument(
        "--open-timeout", type=seconds, default=10.0, metavar="SECONDS",
        help="how long opening the connection may take, 0 for ever (default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--ping-interval", type=seconds, default=20.0, metavar="SECONDS",
        help="how often to check that a silent server is alive, 0 for never (default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--max-size", type=count, default=1 << 24, metavar="N",
        help="largest message to receive, in bytes (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--reconnect", action="store_true", help="connect again whenever the connection is lost")
