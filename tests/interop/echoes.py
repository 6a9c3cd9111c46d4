"""Echo servers on three WebSocket libraries, with one way of telling each connection how to behave.

``uri(behaviour...)`` is where a connection behaves like that; every kind of server knows these behaviours:

================= ====================================================================================================
``deflate``       permessage-deflate with these parameters (names of RFC 7692, 7.1); None, the default: without it
``protocols``     the subprotocols that it chooses from, as "a,b"
``commands``      takes each text message as a command in JSON: {"do": "close", "code", "reason"}, {"do": "terminate"},
                  {"do": "ping", "data"}, which sends "pong DATA" once it is answered
``fragments``     sends back in fragments of that many bytes (not aiohttp, which cannot)
``status``        refuses with this status
``id``            makes ``ending(id)`` tell how the connection has ended for the server
================= ====================================================================================================
"""

from __future__ import annotations

import asyncio
import http
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import parse_qs, urlencode, urlsplit

import websockets
from aiohttp import WSMsgType, web
from services import NodeWs
from websockets.asyncio.server import Request, Response, Server, ServerConnection, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory

NO_CODE = 1005


class EchoServer(Protocol):
    """What the tests use."""

    def uri(self, **behaviour: Any) -> str: ...

    async def ending(self, identity: str) -> tuple[int, str]:
        """The close code and the reason that the server saw."""
        ...


class NodeEcho:
    """Node's ``ws``."""

    def __init__(self, service: NodeWs) -> None:
        self._service = service

    def uri(self, deflate: dict[str, Any] | None = None, **behaviour: Any) -> str:
        if deflate is not None:
            words = {name: name.split("_") for name in deflate}
            names = {name: first + "".join(word.title() for word in rest) for name, (first, *rest) in words.items()}
            behaviour["deflate"] = {names[name]: value for name, value in deflate.items()}
        return self._service.uri(**behaviour)

    async def ending(self, identity: str) -> tuple[int, str]:
        while True:
            for ending in self._service.endings(identity):
                if "code" in ending:
                    return ending["code"], ending["reason"]
            await asyncio.sleep(0.005)  # it is written by another process


class _Behaviour:
    """The query of a request's target, for the servers in this process."""

    def __init__(self, target: str) -> None:
        self._query = parse_qs(urlsplit(target).query)

    def __contains__(self, name: str) -> bool:
        return name in self._query

    def text(self, name: str, default: str = "") -> str:
        return self._query.get(name, [default])[0]

    def number(self, name: str) -> int:
        return int(self.text(name, "0"))


class _InProcess:
    """What the servers in this process share."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self.port = 0
        self._endings: dict[str, asyncio.Future[tuple[int, str]]] = {}

    def uri(self, **behaviour: Any) -> str:
        query = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in behaviour.items()}
        return f"{self.scheme}://127.0.0.1:{self.port}/?{urlencode(query)}"

    def _ending(self, identity: str) -> asyncio.Future[tuple[int, str]]:
        return self._endings.setdefault(identity, asyncio.get_running_loop().create_future())

    async def ending(self, identity: str) -> tuple[int, str]:
        return await self._ending(identity)

    def ended(self, identity: str, code: int, reason: str) -> None:
        self._ending(identity).set_result((code, reason))


class WebsocketsEcho(_InProcess):
    """The ``websockets`` package."""

    async def respond(self, connection: ServerConnection, request: Request) -> Response | None:
        """Runs before the opening handshake is answered: what is offered or refused depends on the request."""
        behaviour = _Behaviour(request.path)
        if "status" in behaviour:
            return connection.respond(http.HTTPStatus(behaviour.number("status")), "no")
        protocol = connection.protocol
        if "deflate" in behaviour:
            parameters = json.loads(behaviour.text("deflate"))
            protocol.available_extensions = [ServerPerMessageDeflateFactory(**parameters)]
        if "protocols" in behaviour:
            protocol.available_subprotocols = [
                websockets.Subprotocol(name) for name in behaviour.text("protocols").split(",")
            ]
        return None

    def select(self, connection: ServerConnection, offered: Any) -> Any:
        available = connection.protocol.available_subprotocols or ()
        return next((name for name in offered if name in available), None)

    async def handle(self, ws: ServerConnection) -> None:
        assert ws.request is not None
        behaviour = _Behaviour(ws.request.path)
        size = behaviour.number("fragments")
        try:
            async for message in ws:
                if "commands" in behaviour and isinstance(message, str):
                    await self._obey(ws, json.loads(message))
                elif size:
                    await ws.send([message[at : at + size] for at in range(0, len(message), size)])
                else:
                    await ws.send(message)
        except websockets.ConnectionClosed:
            pass
        if "id" in behaviour:
            self.ended(behaviour.text("id"), ws.close_code or 1006, ws.close_reason or "")

    async def _obey(self, ws: ServerConnection, command: dict[str, Any]) -> None:
        match command["do"]:
            case "close":
                await ws.close(command.get("code", 1000), command.get("reason", ""))
            case "terminate":
                ws.transport.abort()
            case "ping":
                await (await ws.ping(command["data"]))
                await ws.send(f"pong {command['data']}")


class AiohttpEcho(_InProcess):
    """aiohttp."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        behaviour = _Behaviour(request.path_qs)
        if "status" in behaviour:
            return web.Response(status=behaviour.number("status"), text="no")
        protocols = behaviour.text("protocols").split(",") if "protocols" in behaviour else []
        ws = web.WebSocketResponse(protocols=protocols, compress="deflate" in behaviour, max_msg_size=0, autoping=False)
        await ws.prepare(request)
        async for message in ws:
            if message.type == WSMsgType.TEXT and "commands" in behaviour:
                command = json.loads(message.data)
                match command["do"]:
                    case "close":
                        await ws.close(code=command.get("code", 1000), message=command.get("reason", "").encode())
                    case "terminate":
                        assert request.transport is not None
                        request.transport.abort()
                    case "ping":
                        await ws.ping(command["data"].encode())
            elif message.type == WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type == WSMsgType.BINARY:
                await ws.send_bytes(message.data)
            elif message.type == WSMsgType.PING:
                await ws.pong(message.data)
            elif message.type == WSMsgType.PONG:
                await ws.send_str(f"pong {message.data.decode()}")
        if "id" in behaviour:
            # aiohttp keeps the code, not the reason
            self.ended(behaviour.text("id"), ws.close_code or 1006, "")
        return ws


@asynccontextmanager
async def websockets_echo(context: ssl.SSLContext | None) -> AsyncIterator[WebsocketsEcho]:
    echo = WebsocketsEcho("wss" if context else "ws")
    server: Server
    async with serve(
        echo.handle,
        "127.0.0.1",
        0,
        ssl=context,
        process_request=echo.respond,
        select_subprotocol=echo.select,
        compression=None,
        max_size=None,
    ) as server:
        echo.port = next(iter(server.sockets)).getsockname()[1]
        yield echo


@asynccontextmanager
async def aiohttp_echo(context: ssl.SSLContext | None) -> AsyncIterator[AiohttpEcho]:
    echo = AiohttpEcho("wss" if context else "ws")
    application = web.Application()
    application.router.add_get("/", echo.handle)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        echo.port = runner.addresses[0][1]
        yield echo
    finally:
        await runner.cleanup()
        for _ in range(3):
            await asyncio.sleep(0)  # the loop's own task of a TLS handshake that failed ends after it has told
