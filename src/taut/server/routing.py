"""``Router``: which handler serves which path, on which terms.

A router is made of routes, in the order in which they were added; the first whose host, path and kind fit a request
serves it.  A route is either for WebSocket, with a handler and terms of its own (subprotocols, compression, origins,
limits), or for plain HTTP, with a function that answers.  Routers can be mounted in others, below a path or for a host;
mounting copies the routes, so that what is looked up is one list.

Paths are compared as they were sent, segment by segment; parameters are percent-decoded after that, so that an escaped
slash never separates anything (RFC 3986, 2.2).
"""

from __future__ import annotations

import http
import inspect
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar
from urllib.parse import unquote

from ..listener import Listener
from ..types import Request, Response
from .connection import Handler, check_handler
from .handshake import plain_response
from .terms import Terms, route_terms

__all__ = ["Match", "Route", "Router", "finish_answer"]

Served = TypeVar("Served", bound=Callable[..., Any])
Answering = TypeVar("Answering", bound="Answer")
Answer: TypeAlias = Callable[..., "Response | str | Awaitable[Response | str]"]


@dataclass(frozen=True, slots=True)
class Converter:
    """What a parameter may be: a pattern for its escaped text, and what its text becomes. ``ValueError``: no match."""

    pattern: str
    convert: Callable[[str], Any]


CONVERTERS: Mapping[str, Converter] = {
    "str": Converter(r"[^/]+", str),
    "int": Converter(r"[0-9]{1,18}", int),
    "float": Converter(r"[0-9]{1,18}(?:\.[0-9]{1,18})?", float),
    "uuid": Converter(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", uuid.UUID),
    "path": Converter(r".+", str),
}
_port = re.compile(r":[0-9]*\Z")
_parameter = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([A-Za-z_][A-Za-z0-9_]*))?\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A path or a host with parameters in braces, ``{name}`` or ``{name:converter}``."""

    text: str
    expression: re.Pattern[str] = field(repr=False)
    converters: Mapping[str, Converter] = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def match(self, text: str) -> dict[str, Any] | None:
        """The parameters, None if it does not fit."""
        found = self.expression.fullmatch(text)
        if found is None:
            return None
        try:
            return {
                name: converter.convert(unquote(found[name], errors="strict"))
                for name, converter in self.converters.items()
            }
        except ValueError:  # UnicodeDecodeError among them
            return None


def compile_pattern(name: str, text: str, separator: str) -> Pattern:
    """Read a pattern; ``separator`` is what {name} does not match. Raises ``ValueError`` naming ``name``."""
    expression, converters, end = "", dict[str, Converter](), 0
    for found in _parameter.finditer(text):
        parameter, kind = found[1], found[2] or "str"
        if kind not in CONVERTERS:
            raise ValueError(f"{name}={text!r}: {kind!r} is not one of {', '.join(CONVERTERS)}")
        if parameter in converters:
            raise ValueError(f"{name}={text!r}: {{{parameter}}} is there twice")
        converters[parameter] = CONVERTERS[kind]
        pattern = CONVERTERS[kind].pattern.replace("/", separator)
        expression += f"{_literal(name, text, end, found.start())}(?P<{parameter}>{pattern})"
        end = found.end()
    expression += _literal(name, text, end, len(text))
    return Pattern(text, re.compile(expression, re.DOTALL), converters)


def _literal(name: str, text: str, start: int, end: int) -> str:
    part = text[start:end]
    if "{" in part or "}" in part:
        raise ValueError(f"{name}={text!r}: a parameter is written {{name}} or {{name:converter}}")
    return re.escape(part)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """What serves a path.

    ``target``: the handler, or the function that answers plain HTTP. ``methods``: None for WebSocket, else those that
    it answers. ``name``: for logs and metrics, by default the pattern of the path.
    """

    path: Pattern
    host: Pattern | None
    target: Any
    terms: Terms
    methods: tuple[str, ...] | None
    name: str

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters of its host and path."""
        return (*(self.host.converters if self.host is not None else ()), *self.path.converters)


@dataclass(frozen=True, slots=True)
class Match:
    """A route that serves a request, and the parameters of its path and host."""

    route: Route
    parameters: Mapping[str, Any]


class Router:
    """Routes requests by path and host: ``serve(router, ...)``.

    ``host``: for every route, such as "api.example.com" or "{tenant}.example.com"; None for any. ``options``: terms for
    every route that does not say otherwise: ``origins``, ``subprotocols``, ``select_subprotocol``, ``compression``,
    ``process_request``, ``max_connections`` of each route, and everything in ``ConnectionOptions``.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """

    def __init__(self, *, host: str | None = None, **options: Any) -> None:
        self._host = None if host is None else compile_pattern("host", host.lower(), r"\.")
        self._terms = route_terms(options)
        self._routes: list[Route] = []

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes, in the order in which they are looked at."""
        return tuple(self._routes)

    # -- adding routes -----------------------------------------------------------------------------------------

    def add(self, path: str, handler: Handler | type[Listener], *, name: str | None = None, **options: Any) -> None:
        """Serve WebSocket connections to ``path`` with ``handler``, which gets the parameters by name.

        ``path``: "/chat/{room}", "/items/{number:int}"; converters are str, int, float, uuid and path. A ``Listener``
        finds the parameters in ``ws.path_parameters``. ``name``: for logs and metrics. ``options``: as for the router.
        """
        self._append(path, check_handler(handler), name, None, options)

    def route(self, path: str, *, name: str | None = None, **options: Any) -> Callable[[Served], Served]:
        """Decorate a handler: ``@router.route("/chat/{room}")``. The arguments are those of ``add``."""

        def decorate(handler: Served) -> Served:
            self.add(path, handler, name=name, **options)
            return handler

        return decorate

    def add_http(
        self, path: str, answer: Answer, *, methods: Iterable[str] = ("GET", "HEAD"), name: str | None = None
    ) -> None:
        """Answer plain HTTP requests to ``path`` with what ``answer`` returns, a ``Response`` or a str.

        ``answer``: a function or coroutine function, called with the connection and the request, and the parameters by
        name. The connection is closed after the answer.
        """
        if not callable(answer):
            raise TypeError(f"answer must be a function of a connection and a request, not {answer!r}")
        if isinstance(methods, str):
            raise TypeError(f"methods must be a sequence of names, not {methods!r}")
        self._append(path, answer, name, tuple(method.upper() for method in methods), {})

    def http(
        self, path: str, *, methods: Iterable[str] = ("GET", "HEAD"), name: str | None = None
    ) -> Callable[[Answering], Answering]:
        """Decorate a function that answers plain HTTP: ``@router.http("/healthz")``; arguments as for ``add_http``."""

        def decorate(answer: Answering) -> Answering:
            self.add_http(path, answer, methods=methods, name=name)
            return answer

        return decorate

    def mount(self, prefix: str, router: Router) -> None:
        """Serve the routes of ``router`` below ``prefix``, on its terms, where it has none on those of this one.

        ``prefix``: "/api", or "" for the same paths (with another host, for example); it may hold parameters.
        """
        if not isinstance(router, Router):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"router must be a Router, not {router!r}")
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise ValueError(f"prefix must be empty, or begin with / and not end with it, not {prefix!r}")
        if router is self:
            raise ValueError("a router cannot be mounted in itself")
        for route in router.routes:
            path = compile_pattern("path", prefix + route.path.text, "/")
            host = route.host if route.host is not None else self._host
            self._routes.append(replace(route, path=path, host=host, terms=route.terms.over(self._terms)))

    def _append(
        self, path: str, target: Any, name: str | None, methods: tuple[str, ...] | None, options: Mapping[str, Any]
    ) -> None:
        if not path.startswith("/"):
            raise ValueError(f"path must begin with /, not {path!r}")
        terms = route_terms(options).over(self._terms)
        self._routes.append(Route(compile_pattern("path", path, "/"), self._host, target, terms, methods, name or path))

    def check(self) -> None:
        """Refuse handlers that do not take the parameters of their routes, before anybody asks for them."""
        for route in self._routes:
            if isinstance(route.target, type):
                continue  # a Listener finds them in ws.path_parameters
            wanted = "(ws{})" if route.methods is None else "(ws, request{})"
            try:
                inspect.signature(route.target).bind(
                    *(None,) * (1 if route.methods is None else 2), **dict.fromkeys(route.parameters)
                )
            except TypeError as exc:
                names = "".join(f", {name}" for name in route.parameters)
                call = wanted.format(names)
                raise TypeError(f"what serves {route.path.text!r} cannot be called with {call}: {exc}") from None
            except ValueError:
                pass  # some callables do not tell their signature

    # -- looking up --------------------------------------------------------------------------------------------

    def find(self, request: Request, host: str | None = None) -> Match | Response:
        """What serves ``request``, or the response that says that nothing does: 404, 405 with Allow.

        ``host``: what the client asked for, where a proxy has told, instead of the Host header.

        A WebSocket handshake gets the WebSocket routes, anything else the others; where a path has only a WebSocket
        route, anything else gets it as well, and the handshake refuses it with 426.
        """
        path = request.path.partition("?")[0]
        host = _port.sub("", request.headers.get("Host", "") if host is None else host).lower()
        upgrades = "websocket" in request.headers.get("Upgrade", "").lower()
        allowed: list[str] = []
        fallback: Match | None = None
        for route in self._routes:
            if (parameters := _fits(route, path, host)) is None:
                continue
            match = Match(route, parameters)
            if route.methods is None:
                if upgrades:
                    return match
                fallback = fallback or match
            elif request.method in route.methods and not upgrades:
                return match
            else:
                allowed += route.methods
        if fallback is not None and not allowed:
            return fallback
        if allowed and not upgrades:
            response = plain_response(http.HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed\n")
            response.headers.add("Allow", ", ".join(dict.fromkeys(allowed)))
            return response
        return plain_response(http.HTTPStatus.NOT_FOUND, "not found\n")


def _fits(route: Route, path: str, host: str) -> dict[str, Any] | None:
    parameters: dict[str, Any] = {}
    if route.host is not None:
        found = route.host.match(host)
        if found is None:
            return None
        parameters |= found
    found = route.path.match(path)
    return None if found is None else parameters | found


def finish_answer(request: Request, answer: object) -> Response:
    """The response that an answer to plain HTTP is: text is a 200, and HEAD gets the head of it alone."""
    if isinstance(answer, str):
        answer = plain_response(http.HTTPStatus.OK, answer)
    if not isinstance(answer, Response):
        raise TypeError(f"an HTTP route must return a Response or a str, not {answer!r}")
    headers = answer.headers.copy()
    for name, value in (("Content-Length", str(len(answer.body))), ("Connection", "close")):
        if name not in headers:
            headers.add(name, value)
    return replace(answer, headers=headers, body=b"" if request.method == "HEAD" else answer.body)
