"""ROS messages straight through DDS, by Cyclone DDS: any DDS implementation of ROS 2 hears them.

Names follow https://design.ros2.org/articles/topic_and_service_names.html: topic ``/x`` is ``rt/x``, type
``pkg/msg/T`` is ``pkg::msg::dds_::T_``. Importing this needs cyclonedds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cyclonedds.core import DDSException, Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import make_idl_struct
from cyclonedds.idl.types import float32, int32, sequence, uint32
from cyclonedds.pub import DataWriter
from cyclonedds.topic import Topic as DdsName

from edge.errors import OutputError
from edge.outputs.rosaddress import RosAddress
from edge.outputs.roscarrier import Carrier, Topic
from edge.outputs.rosmessages import Encoder, Expression, Ids, Message, Region, dds_name

Sample = Any
"""An instance of one of Cyclone DDS' own types."""

TIME = make_idl_struct("Time", "builtin_interfaces::msg::dds_::Time_", {"sec": int32, "nanosec": uint32})
HEADER = make_idl_struct("Header", "std_msgs::msg::dds_::Header_", {"stamp": TIME, "frame_id": str})


def _type(kind: type[Message], fields: Mapping[str, object]) -> Any:
    name = dds_name(kind)
    return make_idl_struct(name.rpartition("::")[2].rstrip("_"), name, {"header": HEADER, **fields})


TYPES: Mapping[type[Message], Any] = {
    Ids: _type(Ids, {"ids": sequence[str]}),
    Region: _type(Region, dict.fromkeys(("xmin", "ymin", "xmax", "ymax", "c"), float32)),
    Expression: _type(Expression, {"expression": str, "valence": float32, "arousal": float32, "confidence": float32}),
}


def sample(message: Message) -> Sample:
    """A message as Cyclone DDS takes it."""
    seconds, nanoseconds = divmod(message.header.stamp_ns, 10**9)
    header = HEADER(stamp=TIME(sec=seconds, nanosec=nanoseconds), frame_id=message.header.frame_id)
    fields = {field: getattr(message, field) for field in message.__dataclass_fields__ if field != "header"}
    if isinstance(message, Ids):
        fields["ids"] = list(message.ids)
    return TYPES[type(message)](header=header, **fields)


class DdsCarrier(Carrier):
    """A participant in a domain.

    Raises:
        MissingPackageError: rosbags, which knows the types' hashes, is not installed.
    """

    def __init__(self, address: RosAddress) -> None:
        encoder = Encoder()
        self._hashes = {kind: encoder.type_hash(kind) for kind in TYPES}
        self._participant: DomainParticipant | None = DomainParticipant(address.domain)

    def topic(self, name: str, kind: type[Message]) -> Topic:
        """See :class:`Carrier`."""
        return _DdsTopic(self._participant, name, kind, self._hashes[kind])

    def close(self) -> None:
        """Leave the domain."""
        self._participant = None


class _DdsTopic(Topic):
    def __init__(self, participant: DomainParticipant | None, name: str, kind: type[Message], type_hash: str) -> None:
        qos = Qos(
            # Who waits for no acknowledgement is never held up; a lost message is followed by the next.
            Policy.Reliability.Reliable(0),
            Policy.Durability.Volatile,
            Policy.History.KeepLast(10),
            # Since Iron, ROS looks there for the type's version (rmw_dds_common).
            Policy.Userdata(f"typehash={type_hash};".encode()),
        )
        topic = DdsName(participant, f"rt{name}", TYPES[kind])
        self._writer: DataWriter | None = DataWriter(participant, topic, qos=qos)

    def send(self, message: Message) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(sample(message))
        except DDSException as error:
            if error.code != DDSException.DDS_RETCODE_TIMEOUT:
                raise OutputError(f"--ros dds://: can't be sent ({error}); is the network still there?") from error
            # Somebody who asked for every message is too slow for them, and goes without this one.

    def close(self) -> None:
        self._writer = None  # Cyclone DDS takes it back with its last reference
