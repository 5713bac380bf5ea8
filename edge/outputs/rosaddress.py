"""Where ROS messages go: ``--ros [URI]``.

zenoh://HOST:7447   through rmw_zenoh's router at HOST (plain ``--ros``: the one on this machine)
dds://              straight to whoever is in the domain, through Cyclone DDS

Options, after a ``?``: ``domain`` (default: ROS_DOMAIN_ID, else 0), ``node`` (default ``edge``), ``frame`` (that of the
camera, in the headers; default ``camera``), and of zenoh ``listen`` (a port of this machine at which others may come
straight here; no router is needed then).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from edge.errors import OptionError

DEFAULT = "zenoh://localhost:7447"
OPTIONS = ("domain", "node", "frame", "listen")
LARGEST_DOMAIN = 232
"""Above it DDS has no ports left."""

_EXPECTED = "expected zenoh://HOST:PORT or dds://, perhaps with ?domain=0&node=edge&frame=camera"


@dataclass(frozen=True, slots=True)
class RosAddress:
    """Where messages go, and as whose."""

    kind: str
    """``zenoh`` or ``dds``."""
    host: str
    port: int
    domain: int
    node: str
    frame: str
    listen: int | None
    """A port of this machine, or None."""


def parse(where: str = DEFAULT, environment: Mapping[str, str] = os.environ) -> RosAddress:
    """Read a URI.

    Raises:
        OptionError: not such a URI, an unknown option, or a value that it can't have.
    """
    try:
        parts = urlsplit(where if "://" in where else f"{where}://")
        port = parts.port
    except ValueError:
        raise OptionError(f"--ros {where!a}: {_EXPECTED}") from None
    if parts.scheme not in ("zenoh", "dds") or parts.path.strip("/") or parts.fragment or parts.username is not None:
        raise OptionError(f"--ros {where!a}: {_EXPECTED}")
    if parts.scheme == "dds" and parts.netloc:
        raise OptionError(f"--ros {where!a}: DDS finds the others itself; expected dds://, perhaps with ?domain=0")
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in said:
        if name not in OPTIONS or (name == "listen" and parts.scheme == "dds"):
            raise OptionError(f"--ros {where!a}: unknown option {name!a}; expected of {', '.join(OPTIONS)}")
    domain = said.get("domain", environment.get("ROS_DOMAIN_ID") or "0")
    node, frame = said.get("node", "edge"), said.get("frame", "camera")
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", node, re.ASCII) is None:
        raise OptionError(f"--ros {where!a}: node {node!a} is no ROS name; expected letters, digits and _")
    return RosAddress(
        kind=parts.scheme,
        host=parts.hostname or "localhost",
        port=7447 if port is None else port,
        domain=_whole(where, "domain", domain, 0, LARGEST_DOMAIN),
        node=node,
        frame=frame,
        listen=_whole(where, "listen", said["listen"], 1, 65535) if "listen" in said else None,
    )


def _whole(where: str, name: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise OptionError(f"--ros {where!a}: {name} is {text!a}; expected a whole number from {least} to {most}")
    return int(text)
