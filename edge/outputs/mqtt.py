"""Results to an MQTT broker (3.1.1), by paho-mqtt.

PREFIX/availability   ``online`` or ``offline``; retained, and ``offline`` is also the last will (QoS 1)
PREFIX/results        for each result the very JSON that ``--jsonl`` writes (QoS 0)
PREFIX/faces          when it changes, who is in view with which label and state, as a JSON list (QoS 0)
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from edge.errors import MissingPackageError, OptionError
from edge.outputs.contract import Output
from edge.outputs.jsonl import line
from edge.outputs.mqttaddress import PASSWORD_VARIABLE, USER_VARIABLE, MqttAddress, parse
from edge.types import Frame, Result

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo

KEEP_ALIVE_S = 15
CONNECT_TIMEOUT_S = 5.0
LONGEST_PAUSE_S = 4
"""A lost broker is tried again after 1, 2, 4, 4, ... seconds."""

FAREWELL_S = 1.0
"""What is still in the queue at the end has this long to be sent."""

_LOG = logging.getLogger(__name__)


class Mqtt(Output):
    """Publishes results. The loop never waits: a thread sends, from a queue whose oldest result goes when it is full.

    A broker that is lost is tried again and again; what was queued meanwhile is sent when it is back.

    Args:
        where: see :mod:`edge.outputs.mqttaddress`.

    Raises:
        OptionError: a URI that is not understood, or a broker that is not there or does not let us in.
        MissingPackageError: paho-mqtt is not installed.
    """

    def __init__(self, where: str) -> None:
        address = parse(where)
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion
        except ModuleNotFoundError as error:
            raise MissingPackageError(
                "--mqtt needs paho-mqtt; type: pip install paho-mqtt (or the extra edge-emotion[mqtt])"
            ) from error
        self.dropped = 0
        """Results that were never sent."""
        self._address = address
        self._queue: deque[str] = deque()
        self._changed = threading.Condition()
        self._faces, self._faces_told = "[]", "[]"
        self._connected = self._ending = self._ever = False
        self._refusal = ""
        self._client: Client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect, self._client.on_disconnect = self._on_connect, self._on_disconnect
        self._client.reconnect_delay_set(1, LONGEST_PAUSE_S)
        self._client.connect_timeout = CONNECT_TIMEOUT_S
        self._client.will_set(f"{address.prefix}/availability", "offline", qos=1, retain=True)
        _secure(self._client, address)
        self._connect()
        self._sender = threading.Thread(name="edge-mqtt", target=self._send_all, daemon=True)
        self._sender.start()

    def write(self, frame: Frame, result: Result) -> None:
        """Take in one frame's result."""
        text = line(result)
        faces = json.dumps(
            [{"id": face.id, "label": face.label, "state": face.state.value} for face in result.faces if face.visible],
            separators=(",", ":"),
        )
        with self._changed:
            if self._ending:
                return
            if len(self._queue) == self._address.queue:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(text)
            # Not in the queue: a change that was dropped would never be told.
            self._faces = faces
            self._changed.notify_all()

    def finish(self, whole: bool) -> str | None:
        """Send what is left as far as a second goes, say ``offline``, and leave. May be called twice."""
        with self._changed:
            if self._ending:
                return None
            self._ending, self._faces = True, "[]"
            self._changed.notify_all()
        self._sender.join(FAREWELL_S)
        with self._changed:
            self.dropped += len(self._queue)
            self._queue.clear()
        # The last will is for those who go without a word.
        heard = self._connected and _sent(self._publish("availability", "offline", qos=1, retain=True), FAREWELL_S)
        self._client.disconnect()
        if not heard and (connection := self._client.socket()) is not None:
            # paho would wait for a broker that takes nothing until it counts as dead.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()
        if not self.dropped:
            return None
        return f"{self._address.shown}: {self.dropped} results were not sent, as it was away or too slow"

    # -- the connection -----------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        address = self._address
        try:
            if address.wait:
                self._client.connect_async(address.host, address.port, KEEP_ALIVE_S)
            else:
                self._client.connect(address.host, address.port, KEEP_ALIVE_S)
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or "it speaks no TLS"
            raise OptionError(
                f"--mqtt {address.shown}: no TLS with it ({reason}); give the certificates to trust as ?ca=FILE"
            ) from error
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "no answer"
            raise OptionError(
                f"--mqtt {address.shown}: can't be reached ({reason}); is the broker on, and the address right? "
                "?wait=1 begins without it"
            ) from error
        self._client.loop_start()
        if address.wait:
            return
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._refusal, CONNECT_TIMEOUT_S)
            if self._connected:
                return
        self._client.disconnect()
        self._client.loop_stop()
        raise OptionError(
            f"--mqtt {address.shown}: does not let us in ({self._refusal or 'no answer'}); "
            f"expected an MQTT broker, and user and password in {USER_VARIABLE} and {PASSWORD_VARIABLE}"
        )

    def _on_connect(self, client: Client, userdata: object, flags: object, reason: Any, properties: object) -> None:
        """On paho's thread: the broker answered."""
        if reason.is_failure:
            with self._changed:
                first, self._refusal = not self._refusal, str(reason)
                self._changed.notify_all()
            if first and (self._ever or self._address.wait):
                _LOG.warning("%s: does not let us in (%s); trying again", self._address.shown, reason)
            return
        # Before any result, and again after each loss: the broker told everybody our last will.
        self._publish("availability", "online", qos=1, retain=True)
        if self._ever:
            _LOG.warning("%s: back", self._address.shown)
        with self._changed:
            self._connected = self._ever = True
            self._refusal, self._faces_told = "", ""
            self._changed.notify_all()

    def _on_disconnect(self, client: Client, userdata: object, flags: object, reason: Any, properties: object) -> None:
        """On paho's thread: the broker is gone."""
        with self._changed:
            lost, self._connected = self._connected, False
            self._changed.notify_all()
        if lost and not self._ending:
            _LOG.warning("%s: lost (%s); trying again", self._address.shown, reason)

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        """A thread: the queue to the broker, one by one, so that what waits for a slow broker waits in the queue."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending or (self._connected and self._has_news()))
                if self._ending and not (self._connected and self._has_news()):
                    return
                faces = self._faces if self._faces != self._faces_told else None
                self._faces_told = self._faces
                result = self._queue.popleft() if self._queue else None
            if result is not None and not self._sent_while_there(self._publish("results", result)):
                with self._changed:
                    self.dropped += 1
            if faces is not None:
                self._sent_while_there(self._publish("faces", faces))

    def _has_news(self) -> bool:
        return bool(self._queue) or self._faces != self._faces_told

    def _sent_while_there(self, message: MQTTMessageInfo) -> bool:
        begun = time.monotonic()
        while self._connected and not _sent(message, 0.1):
            if self._ending and time.monotonic() - begun > FAREWELL_S:
                return False
        return _sent(message, 0)

    def _publish(self, topic: str, payload: str, qos: int = 0, retain: bool = False) -> MQTTMessageInfo:
        return self._client.publish(f"{self._address.prefix}/{topic}", payload, qos, retain)


def _sent(message: MQTTMessageInfo, seconds: float) -> bool:
    """Whether a message has left this machine (QoS 0) or arrived (QoS 1), waiting for it."""
    try:
        message.wait_for_publish(seconds)
        return bool(message.is_published())
    except (RuntimeError, ValueError):  # it could not even be queued: there is no connection
        return False


def _secure(client: Client, address: MqttAddress) -> None:
    if address.user is not None:
        client.username_pw_set(address.user, address.password)
        if not address.tls and address.host not in ("localhost", "127.0.0.1", "::1"):
            _LOG.warning(
                "%s: the password goes there unencrypted; mqtts:// would not let others read it", address.shown
            )
    if address.tls:
        try:
            client.tls_set(ca_certs=None if address.ca is None else str(address.ca))
        except (ssl.SSLError, OSError) as error:
            raise OptionError(f"--mqtt: {address.ca}: not a file of certificates ({error}); expected PEM") from error
