"""edge's messages through rclpy: what ``edge run --ros`` does through zenoh or DDS, in a node that ROS made."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from hri_msgs.msg import Expression, IdsList, NormalizedRegionOfInterest2D
from std_msgs.msg import Header

from edge.outputs import rosmessages
from edge.outputs.roscarrier import Carrier, Topic
from edge.outputs.rosmessages import Message

TYPES: dict[type[Message], Any] = {
    rosmessages.Ids: IdsList,
    rosmessages.Region: NormalizedRegionOfInterest2D,
    rosmessages.Expression: Expression,
}
DEPTH = 10
"""Messages that a publisher keeps for a reader."""


def to_ros(message: Message) -> Any:
    """A message as rclpy takes it."""
    seconds, nanoseconds = divmod(message.header.stamp_ns, 10**9)
    header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=message.header.frame_id)
    fields = {field: getattr(message, field) for field in message.__dataclass_fields__ if field != "header"}
    if isinstance(message, rosmessages.Ids):
        fields["ids"] = list(message.ids)
    return TYPES[type(message)](header=header, **fields)


class NodeCarrier(Carrier):
    """A node's publishers.

    Args:
        node: an rclpy.node.Node; it is not destroyed.
    """

    def __init__(self, node: Any) -> None:
        self._node = node

    def topic(self, name: str, kind: type[Message]) -> Topic:
        """See :class:`Carrier`."""
        return _NodeTopic(self._node, name, kind)

    def close(self) -> None:
        """The node is its maker's."""


class _NodeTopic(Topic):
    def __init__(self, node: Any, name: str, kind: type[Message]) -> None:
        self._node = node
        self._publisher = node.create_publisher(TYPES[kind], name, DEPTH)

    def send(self, message: Message) -> None:
        self._publisher.publish(to_ros(message))

    def close(self) -> None:
        self._node.destroy_publisher(self._publisher)
