"""Which MQTT broker: ``--mqtt URI``.

mqtt://HOST:1883/PREFIX    plain
mqtts://HOST:8883/PREFIX   with TLS

Options, after a ``?``: ``ca`` (a file of certificates to trust instead of the system's), ``queue`` (results kept for a
broker that is away or slow, default 100), ``wait=1`` (begin without the broker if it is not there yet). Who we are
comes from EDGE_MQTT_USER and EDGE_MQTT_PASSWORD: a command line may be read by everybody on the machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from edge.errors import OptionError

USER_VARIABLE, PASSWORD_VARIABLE = "EDGE_MQTT_USER", "EDGE_MQTT_PASSWORD"
PORTS = {"mqtt": 1883, "mqtts": 8883}
QUEUE = 100
"""About three seconds of results."""

_EXPECTED = "expected mqtt://HOST:1883/PREFIX or mqtts://HOST:8883/PREFIX"


@dataclass(frozen=True, slots=True)
class MqttAddress:
    """A broker, and how to speak with it."""

    host: str
    port: int
    prefix: str
    """What all topics begin with, without a slash at its end."""
    tls: bool
    ca: Path | None
    queue: int
    wait: bool
    user: str | None
    password: str | None = field(repr=False)

    @property
    def shown(self) -> str:
        """As messages may have it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"


def parse(where: str, environment: Mapping[str, str] = os.environ) -> MqttAddress:
    """Read a URI and what the environment adds.

    Raises:
        OptionError: not such a URI, an unknown option, or a value that it can't have. No password is repeated.
    """
    if "@" in where:
        raise OptionError(
            f"--mqtt: user and password are not for the address, which others can see; set {USER_VARIABLE} and "
            f"{PASSWORD_VARIABLE}"
        )
    try:
        parts = urlsplit(where)
        port = parts.port
    except ValueError:
        raise OptionError(f"--mqtt {where!a}: {_EXPECTED}") from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0 or parts.fragment:
        raise OptionError(f"--mqtt {where!a}: {_EXPECTED}")
    prefix = unquote(parts.path).strip("/") or "edge"
    if any(sign in prefix for sign in "+#\0") or prefix.startswith("$"):
        raise OptionError(
            f"--mqtt {where!a}: {prefix!a} can't begin a topic; expected no +, no # and no $ at its start"
        )
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in said:
        if name not in ("ca", "queue", "wait"):
            raise OptionError(f"--mqtt {where!a}: unknown option {name!a}; expected of ca, queue, wait")
    ca = Path(said["ca"]) if "ca" in said else None
    if ca is not None and parts.scheme == "mqtt":
        raise OptionError(f"--mqtt {where!a}: ca is for TLS; write mqtts://")
    if ca is not None and not ca.is_file():
        raise OptionError(f"--mqtt: {ca}: no such file; ca is a file of certificates (PEM)")
    queue, wait = said.get("queue", str(QUEUE)), said.get("wait", "0")
    if not (queue.isascii() and queue.isdecimal() and 1 <= int(queue) <= 100_000):
        raise OptionError(f"--mqtt {where!a}: queue is {queue!a}; expected a whole number from 1 to 100000")
    if wait not in ("0", "1"):
        raise OptionError(f"--mqtt {where!a}: wait is {wait!a}; expected 0 or 1")
    user, password = environment.get(USER_VARIABLE) or None, environment.get(PASSWORD_VARIABLE) or None
    if password is not None and user is None:
        raise OptionError(f"{PASSWORD_VARIABLE} is set and {USER_VARIABLE} is not; set both or neither")
    return MqttAddress(
        host=parts.hostname,
        port=PORTS[parts.scheme] if port is None else port,
        prefix=prefix,
        tls=parts.scheme == "mqtts",
        ca=ca,
        queue=int(queue),
        wait=wait == "1",
        user=user,
        password=password,
    )
