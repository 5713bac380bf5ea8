"""Where a server listens, and what is asked of those who come there."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress

from edge.errors import OptionError

DEFAULT = "127.0.0.1:8765"
SEND_BUFFER = 64 * 1024
"""Bytes on their way to one client: about five seconds of results, or one large picture."""

TOKEN_VARIABLE = "EDGE_PREVIEW_TOKEN"
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")
_EXPECTED = f"expected HOST:PORT, as {DEFAULT}"


class Address:
    """A socket that listens, and its token.

    Args:
        where: ``HOST:PORT``, ``[IPv6]:PORT``, or a port alone, which is at loopback; port 0 takes a free one.
        environment: where the token may be given.

    Raises:
        OptionError: not an address, one that is not this machine's, one that is taken, or a token that is too short.
    """

    def __init__(self, where: str = DEFAULT, environment: Mapping[str, str] = os.environ) -> None:
        host, port = parse(where)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise OptionError(f"--preview {where}: no such host; {_EXPECTED}") from error
        # IPv4 first: a name that stands for both is most often typed for that one.
        family, _, _, _, place = min(found, key=lambda each: each[0] is not socket.AF_INET)
        self.loopback = ipaddress.ip_address(str(place[0]).split("%")[0]).is_loopback
        self.token = _token(environment, needed=not self.loopback)
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            # A port that was let go a moment ago may be had again; one in use may not.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # What a slow client has not taken yet grows old in here; the operating system's own choice is megabytes.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self.socket.bind(place)
            self.socket.listen(64)
        except OSError as error:
            self.socket.close()
            what = error.strerror or str(error)
            raise OptionError(f"--preview {where}: can't listen there ({what}); choose another port or host") from error
        self.port = int(self.socket.getsockname()[1])
        self._shown = _reachable(family) if ipaddress.ip_address(str(place[0]).split("%")[0]).is_unspecified else host

    @property
    def url(self) -> str:
        """Ready to be opened, with the token where there is one."""
        host = f"[{self._shown}]" if ":" in self._shown else self._shown
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")


def parse(where: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        OptionError: not ``HOST:PORT``, ``[IPv6]:PORT`` or ``PORT``.
    """
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]@]+):)?([0-9]{1,5})", where, re.ASCII)
    if match is None or int(match.group(2)) > 65535:
        raise OptionError(f"--preview {where!a}: {_EXPECTED}")
    return (match.group(1) or "127.0.0.1").strip("[]"), int(match.group(2))


def _token(environment: Mapping[str, str], *, needed: bool) -> str | None:
    given = environment.get(TOKEN_VARIABLE)
    if given:
        if _TOKEN.fullmatch(given) is None:
            raise OptionError(f"{TOKEN_VARIABLE} is no good token; expected 16 or more of A-Z a-z 0-9 . _ ~ -")
        return given
    return secrets.token_urlsafe(24) if needed else None


def _reachable(family: int) -> str:
    """An address of this machine that others can reach: the one from which it would speak to the world."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Documentation addresses (RFC 5737, RFC 3849); connecting a datagram socket sends nothing.
        probe.connect(("192.0.2.1" if family == socket.AF_INET else "2001:db8::1", 9))
        return str(probe.getsockname()[0])
    return socket.gethostname()
