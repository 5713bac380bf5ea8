"""ROS messages through zenoh, as rmw_zenoh has them, so that ``ros2`` tools and nodes see an ordinary node.

Topics' keys, liveliness tokens, attachments and the session's configuration follow rmw_zenoh's docs/design.md
(https://github.com/ros2/rmw_zenoh), read at its commit 99a6a2bd:

    <domain>/<topic>/<type>/<hash>                                                              messages
    @ros2_lv/<domain>/<session>/0/0/NN/%/%/<node>                                               this node
    @ros2_lv/<domain>/<session>/0/<entity>/MP/%/%/<node>/<%topic>/<type>/<hash>/<qos>           a topic of it
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import socket
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge.errors import MissingPackageError, OptionError
from edge.outputs.rosaddress import RosAddress
from edge.outputs.roscarrier import Carrier, Topic
from edge.outputs.rosclock import now_ns
from edge.outputs.rosmessages import INSTALL, Encoder, Message, dds_name

if TYPE_CHECKING:
    import zenoh

CONFIG_VARIABLE = "ZENOH_SESSION_CONFIG_URI"
"""A zenoh configuration that is used instead of ours, as rmw_zenoh does: for TLS, users, other links."""

QOS = "::,10:,:,:,,"
"""Reliable, volatile, the last 10 kept; the rest as rmw_zenoh has it by default (its ``qos_to_keyexpr``)."""

CONNECT_TIMEOUT_S = 1.0

_LOG = logging.getLogger(__name__)


class ZenohCarrier(Carrier):
    """A peer that knows rmw_zenoh's router. One that is not there yet is tried again for ever, in the background.

    Raises:
        OptionError: no such host, or a port to listen at that is taken.
        MissingPackageError: eclipse-zenoh or rosbags is not installed.
    """

    def __init__(self, address: RosAddress, environment: Mapping[str, str] = os.environ) -> None:
        try:
            import zenoh
        except ModuleNotFoundError as error:
            raise MissingPackageError(f"--ros zenoh:// needs eclipse-zenoh; type: {INSTALL}") from error
        self._encoder = Encoder()
        self._address = address
        config = _config(zenoh, address, environment.get(CONFIG_VARIABLE))
        try:
            self._session: zenoh.Session = zenoh.open(config)
        except zenoh.ZError as error:
            reason = " ".join(str(error).split())
            if address.listen is not None and "listen" in reason.lower():
                reason = f"port {address.listen} can't be listened at: is it in use, perhaps by a zenoh router?"
                raise OptionError(f"--ros: {reason} Leave listen out, or choose another port") from None
            raise OptionError(f"--ros: zenoh can't be opened ({reason[:300]}); check the address") from None
        self._entities = itertools.count(1)
        self._liveliness = self._session.liveliness()
        self._root = f"@ros2_lv/{address.domain}/{self._session.info.zid()}/0"
        self._token = self._liveliness.declare_token(f"{self._root}/0/NN/%/%/{address.node}")

    def topic(self, name: str, kind: type[Message]) -> Topic:
        """See :class:`Carrier`."""
        return _ZenohTopic(self, name, kind)

    def close(self) -> None:
        """Take back the node and end the session; may be called twice."""
        if not self._session.is_closed():
            self._token.undeclare()
            self._session.close()

    def declare(self, name: str, kind: type[Message]) -> tuple[zenoh.Publisher, zenoh.LivelinessToken, str]:
        """A publisher, the token by which it is seen, and that token's key."""
        import zenoh

        type_hash = self._encoder.type_hash(kind)
        key = f"{self._address.domain}/{name.strip('/')}/{dds_name(kind)}/{type_hash}"
        publisher = self._session.declare_publisher(
            key,
            # A subscriber that is too slow must not hold up the loop.
            congestion_control=zenoh.CongestionControl.DROP,
            reliability=zenoh.Reliability.RELIABLE,
        )
        seen = "/".join(
            [
                f"{self._root}/{next(self._entities)}/MP/%/%/{self._address.node}",
                *(name.replace("/", "%"), dds_name(kind), type_hash, QOS),
            ]
        )
        return publisher, self._liveliness.declare_token(seen), seen

    def encode(self, message: Message) -> bytes:
        """See :class:`Encoder`."""
        return self._encoder.encode(message)


class _ZenohTopic(Topic):
    def __init__(self, carrier: ZenohCarrier, name: str, kind: type[Message]) -> None:
        self._carrier = carrier
        self._publisher, self._token, seen = carrier.declare(name, kind)
        # rmw_zenoh's own are another hash of the same key. Nobody but this process makes this one, and it is only
        # compared with itself, to tell publishers apart.
        self._gid = hashlib.blake2b(seen.encode(), digest_size=16).digest()
        self._sequence = itertools.count(1)

    def send(self, message: Message) -> None:
        attachment = struct.pack("<qqB16s", next(self._sequence), now_ns(), 16, self._gid)
        self._publisher.put(self._carrier.encode(message), attachment=attachment)

    def close(self) -> None:
        self._token.undeclare()
        self._publisher.undeclare()


def _config(zenoh: Any, address: RosAddress, file: str | None) -> Any:
    """rmw_zenoh's session: a peer that finds others through the router alone, and by no multicast."""
    if file:
        try:
            return zenoh.Config.from_file(file)
        except zenoh.ZError as error:
            reason = " ".join(str(error).split())[:200]
            raise OptionError(f"{CONFIG_VARIABLE}={file}: not a zenoh configuration ({reason})") from None
    config = zenoh.Config()
    for key, value in {
        "mode": '"peer"',
        "connect/endpoints": f'["tcp/{_reachable(address)}"]',
        "connect/timeout_ms": "-1",
        "connect/exit_on_failure": "false",
        "listen/endpoints": f'["tcp/localhost:{address.listen or 0}"]',
        "listen/exit_on_failure": "true",
        "scouting/multicast/enabled": "false",
        "scouting/gossip/enabled": "true",
        "timestamping/enabled": "true",
    }.items():
        config.insert_json5(key, value)
    return config


def _reachable(address: RosAddress) -> str:
    """``HOST:PORT`` as zenoh takes it; whether somebody is there is said, and no reason to stop."""
    shown = f"[{address.host}]" if ":" in address.host else address.host
    try:
        socket.create_connection((address.host, address.port), CONNECT_TIMEOUT_S).close()
    except socket.gaierror:
        raise OptionError(f"--ros: no such host {address.host!a}; expected zenoh://HOST:PORT") from None
    except OSError as error:
        if address.listen is None:
            _LOG.warning(
                "--ros: no zenoh router at %s:%d yet (%s); it is tried again and again. To start one: "
                "ros2 run rmw_zenoh_cpp rmw_zenohd",
                *(shown, address.port, error.strerror or "no answer"),
            )
    return f"{shown}:{address.port}"
