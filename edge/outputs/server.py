"""The web server beside the loop: the page, the picture, results by WebSocket, health and metrics.

It runs on a thread of its own and reads the board; nothing that a client does reaches the loop.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import secrets
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edge.errors import MissingPackageError
from edge.outputs.address import Address
from edge.outputs.board import Board
from edge.outputs.metrics import Metrics
from edge.outputs.pictures import Pictures

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.datastructures import Headers
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starlette.websockets import WebSocket

ASSETS = {
    "index.html": "text/html; charset=utf-8",
    "preview.css": "text/css; charset=utf-8",
    "preview.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The page's files, in the package, and their media types."""

OPEN = {"/healthz", "/readyz"}
"""What anybody may ask who can reach the port: whether it works, and nothing of what it sees."""

HEADERS = {
    # Nothing but what this server itself gives: no other host, no inline script, no frame around it.
    "content-security-policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}

LONG_POLL_S = 5.0
"""A request for the next picture waits this long for one."""

FAREWELL_S = 0.3
"""``stop`` gives open WebSockets this long to be closed in good order."""

JOIN_S = 4.0
"""``stop`` waits this long for the thread."""

NO_TOKEN = "a token is needed: open the link that edge run printed, or send 'Authorization: Bearer TOKEN'"


class Server:
    """Serves a board until stopped.

    Args:
        address: where; its socket is closed by :meth:`stop`.
        board: results.
        metrics: numbers.
        pictures: frames; None is privacy mode, in which no picture can be served because none is there.

    Raises:
        MissingPackageError: a package of the extra ``preview`` is not installed.
    """

    def __init__(self, address: Address, board: Board, metrics: Metrics, pictures: Pictures | None) -> None:
        try:
            import starlette  # noqa: F401 - found missing here, not at the first request
            import uvicorn
            import websockets  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                f"the preview needs {error.name}; type: pip install starlette uvicorn websockets prometheus-client "
                "(or the extra edge-emotion[preview])"
            ) from error
        self._address, self._board = address, board
        app = _Guard(_app(_Handlers(address, board, metrics, pictures)), address)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="websockets-sansio",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            # Paths may hold the token, so nothing below that is written to anybody's log.
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws_max_size=1024,
            ws_per_message_deflate=False,
            limit_concurrency=64,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(name="edge-preview", target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to serve; the socket listens already, so that nobody who comes before that is turned away."""
        self._thread.start()

    def stop(self) -> bool:
        """Close every connection and free the port; whether the thread has ended in time."""
        # Clients are told first why it ends; one that doesn't listen is not waited for.
        deadline = time.monotonic() + FAREWELL_S
        while self._board.clients()[0] and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(JOIN_S)
        self._address.socket.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._board.attach(asyncio.get_running_loop())
        try:
            await self._server.serve(sockets=[self._address.socket])
        finally:
            # A client that has stopped reading would keep its connection half open.
            for connection in list(self._server.server_state.connections):
                with suppress(AttributeError):
                    connection.transport.abort()
            await asyncio.sleep(0)


class _Guard:
    """Lets through who may come, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self._app, self._address = app, address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import HTTPConnection
        from starlette.responses import PlainTextResponse

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *own]}
            await send(message)

        connection = HTTPConnection(scope)
        refusal = self._refusal(connection)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        status, reason = refusal
        headers = {"www-authenticate": "Bearer"} if status == 401 else {}
        await PlainTextResponse(f"{reason}\n", status, headers)(scope, receive, send_with_headers)

    def _refusal(self, connection: HTTPConnection) -> tuple[int, str] | None:
        """Status and reason, or None."""
        host = connection.headers.get("host", "")
        # A page of another site can have its name point here (DNS rebinding); then that name is what it asks for.
        if self._address.loopback and not _names_loopback(host):
            return 421, "this server answers to localhost alone; open the link that edge run printed"
        if connection.scope["type"] == "websocket" and not _same_origin(connection.headers, host):
            return 403, "another site's page may not read this"
        # Not connection.url: that is put together from the Host header, which is the client's to write.
        if connection.scope["path"] not in OPEN and not self._admits(connection):
            return 401, NO_TOKEN
        return None

    def _admits(self, connection: HTTPConnection) -> bool:
        token = self._address.token
        if token is None:
            return True
        scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
        shown = [
            bearer.strip() if scheme.lower() == "bearer" else "",
            connection.cookies.get(cookie_name(self._address.port), ""),
            connection.query_params.get("token", ""),
        ]
        return True in [secrets.compare_digest(each.encode(), token.encode()) for each in shown]


def cookie_name(port: int) -> str:
    """Browsers keep cookies by host alone: two robots' pages behind one host need two names."""
    return f"edge_preview_{port}"


def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in ("localhost", "::1") or (name.startswith("127.") and name.replace(".", "").isdigit())


def _same_origin(headers: Headers, host: str) -> bool:
    """Browsers always say where a WebSocket's page came from; what says nothing is no browser."""
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _app(handlers: _Handlers) -> Starlette:
    from starlette.applications import Starlette
    from starlette.routing import Route, WebSocketRoute

    return Starlette(
        routes=[
            Route("/", handlers.page),
            *(Route(f"/{name}", handlers.asset) for name in ASSETS if name != "index.html"),
            Route("/picture", handlers.picture),
            Route("/status", handlers.status),
            Route("/healthz", handlers.healthz),
            Route("/readyz", handlers.readyz),
            Route("/metrics", handlers.exposition),
            WebSocketRoute("/ws", handlers.results),
        ]
    )


class _Handlers:
    """One method an endpoint."""

    def __init__(self, address: Address, board: Board, metrics: Metrics, pictures: Pictures | None) -> None:
        self._address, self._board, self._metrics, self._pictures = address, board, metrics, pictures
        folder = importlib.resources.files("edge.outputs") / "web"
        self._assets = {name: (folder / name).read_bytes() for name in ASSETS}

    async def page(self, request: Request) -> Response:
        from starlette.responses import RedirectResponse, Response

        if self._address.token is not None and "token" in request.query_params:
            # The token moves from the address bar, where it would be copied and kept, to a cookie.
            response = RedirectResponse("/", 303)
            response.set_cookie(
                cookie_name(self._address.port), self._address.token, httponly=True, samesite="lax", path="/"
            )
            return response
        return Response(self._assets["index.html"], media_type=ASSETS["index.html"])

    async def asset(self, request: Request) -> Response:
        from starlette.responses import Response

        name = request.scope["path"][1:]
        return Response(self._assets[name], media_type=ASSETS[name])

    async def picture(self, request: Request) -> Response:
        """The newest frame at once, or with ``?after=N`` the next one that is not frame N."""
        from starlette.responses import JSONResponse, PlainTextResponse, Response

        if (pictures := self._pictures) is None:
            return JSONResponse({"reason": "privacy mode: no picture is made, written or served"}, 410)
        asked = request.query_params.get("after")
        try:
            after = None if asked is None else int(asked)
        except ValueError:
            return PlainTextResponse("after: expected a frame's number\n", 400)
        if asked is not None and not await self._board.changed(LONG_POLL_S, lambda: pictures.is_new(after)):
            return Response(status_code=204)
        picture = await pictures.newest()
        if picture is None:
            return PlainTextResponse("no picture yet\n", 503)
        headers = {"x-frame": str(picture.frame), "x-frame-size": f"{picture.width}x{picture.height}"}
        return Response(picture.data, media_type="image/jpeg", headers=headers)

    async def status(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"picture": self._pictures is not None, **self._board.status()})

    async def healthz(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        health = self._board.health()
        age = None if health.age_s is None else round(health.age_s, 3)
        body = {"alive": health.alive, "reason": health.reason, "result_age_s": age}
        return JSONResponse(body, 200 if health.alive else 503)

    async def readyz(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        ready = self._board.ready
        return JSONResponse({"ready": ready, "reason": "ok" if ready else "no result yet"}, 200 if ready else 503)

    async def exposition(self, request: Request) -> Response:
        from starlette.responses import Response

        text, media_type = self._metrics.exposition(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": media_type})

    async def results(self, socket: WebSocket) -> None:
        """Every result as a JSONL line holds it; closed with 1000 and the reason when there are no more."""
        from starlette.responses import PlainTextResponse

        feed = self._board.join()
        if feed is None:
            await socket.send_denial_response(PlainTextResponse("too many clients\n", 503))
            return
        listening: asyncio.Task[Any] | None = None
        try:
            await socket.accept()
            # What a client says is not heard, only that it left.
            listening = asyncio.create_task(_until_it_leaves(socket))
            speaking = asyncio.create_task(self._tell(socket, feed))
            await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_COMPLETED)
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            self._board.leave(feed)

    async def _tell(self, socket: WebSocket, feed: Any) -> None:
        while True:
            await self._board.changed(LONG_POLL_S, lambda: bool(feed.lines))
            for text in self._board.take(feed):
                await socket.send_text(text)
            if self._board.ended is not None and not feed.lines:
                # A close frame holds 123 bytes.
                await socket.close(1000, self._board.ended.encode()[:120].decode(errors="ignore"))
                return


async def _until_it_leaves(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
