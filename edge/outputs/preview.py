"""Watching the loop from a browser, and measuring it from a monitor."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge.outputs.address import DEFAULT, Address
from edge.outputs.board import Board
from edge.outputs.contract import Output
from edge.outputs.metrics import Metrics
from edge.outputs.pictures import Pictures
from edge.outputs.server import Server
from edge.types import Frame, Result


class Preview(Output):
    """Serves a page with the live picture and results, a WebSocket, health and metrics (docs/preview.md).

    Args:
        where: ``HOST:PORT``, ``[IPv6]:PORT`` or a port alone; anything but loopback demands a token.
        private: no picture is kept, encoded or served: the server is handed results alone.
        counters: gives what the loop counts itself: ``dropped``, ``corrupt``, ``reconnects``, ``frozen``, or some of
            them. It is called from the server's thread.
        trouble: gives what is wrong with the source at this moment, or None; called from the server's thread.
        stale_s: with no result for this long, ``/healthz`` answers 503, seconds.

    Raises:
        OptionError: an address that can't be listened at.
        MissingPackageError: a package of the extra ``preview`` is not installed.
    """

    def __init__(
        self,
        where: str = DEFAULT,
        *,
        private: bool = False,
        counters: Callable[[], Mapping[str, int]] = dict,
        trouble: Callable[[], str | None] = lambda: None,
        stale_s: float = 5.0,
    ) -> None:
        self._board = Board(counters, trouble, stale_s)
        self._metrics = Metrics(counters, self._board.age_s, self._board.clients)
        self._pictures = None if private else Pictures()
        address = Address(where)
        try:
            self._server = Server(address, self._board, self._metrics, self._pictures)
            self._server.start()
        except BaseException:
            address.socket.close()
            raise
        self.url = address.url
        """To be opened in a browser; it holds the token where there is one."""

    def write(self, frame: Frame, result: Result) -> None:
        """Take in one frame's result; no client is waited for."""
        height, width = frame.image.shape[:2]
        if self._pictures is not None:
            self._pictures.put(frame.index, frame.image)
        self._metrics.update(result)
        self._board.publish(result, (width, height), frame.read_ns / 1e9 if frame.read_ns else None)

    def finish(self, whole: bool) -> str | None:
        """Tell the clients that this is the end, and stop. May be called twice."""
        self._board.end("the source has ended" if whole else "the run was stopped")
        return None if self._server.stop() else "the preview's server did not stop in time"
