"""``ros2 run edge_ros2 faces``: faces in a camera of its own, or in pictures of another node.

Parameters (config/faces.yaml):

    source      as ``edge run`` takes it; empty (default) takes pictures from the topic ``image``
    frame_id    the camera's frame, where ``source`` is given; else that of the pictures
    bundle, backend, precision, landmarks, min_face
                as ``edge run`` takes them; 0 or empty leaves them to edge
"""

from __future__ import annotations

import threading
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

import edge
from edge.outputs.ros4hri import Ros4Hri
from edge.outputs.rosmessages import Header
from edge_ros2.carrier import NodeCarrier
from edge_ros2.images import to_bgr

PARAMETERS = {
    "source": "",
    "frame_id": "camera",
    "bundle": "",
    "backend": "auto",
    "precision": "auto",
    "landmarks": "5",
    "min_face": 0,
}

NEWEST = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
"""A picture that is not the newest is of no use."""


class Faces(Node):
    """Publishes /humans/faces/... (REP-155)."""

    def __init__(self) -> None:
        super().__init__("edge")
        said = {name: self.declare_parameter(name, default).value for name, default in PARAMETERS.items()}
        self._source, self._frame_id = str(said["source"]), str(said["frame_id"])
        self._options: dict[str, Any] = {
            name: said[name] for name in ("bundle", "backend", "precision", "landmarks", "min_face") if said[name]
        }
        self._options["landmarks"] = str(said["landmarks"])
        self.failure: BaseException | None = None
        """What ended the watching of ``source``, if it was not its end."""
        self.ended = threading.Event()
        self._last_ns = 0
        self._thread: threading.Thread | None = None
        self._begin()
        if self._source:
            self._thread = threading.Thread(name="edge-ros", target=self._watch, daemon=True)
            self._thread.start()
        else:
            self.create_subscription(Image, "image", self.on_image, NEWEST)

    def on_image(self, message: Any) -> None:
        """A picture of another node."""
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        try:
            picture = to_bgr(message)
        except ValueError as error:
            self.get_logger().error(f"image: {error}", throttle_duration_sec=5.0)
            return
        if stamp_ns < self._last_ns:
            # A bag that begins anew, or a clock that was set: whom we know was there at another time.
            self.get_logger().warning("image: time went back; beginning anew")
            self._end()
            self._begin()
        self._last_ns = stamp_ns
        result = self._recognizer.process(picture, captured_ns=stamp_ns)
        self._output.tell(Header(stamp_ns, message.header.frame_id), result, message.width, message.height)

    def destroy_node(self) -> None:
        """Stop watching; then as every node."""
        self._end()
        super().destroy_node()

    def _watch(self) -> None:
        """A thread: the source's frames, until its end."""
        try:
            for frame, result in self._recognizer.with_frames():
                self._output.write(frame, result)
        except edge.ClosedError:
            pass  # by destroy_node
        except BaseException as error:
            self.failure = error
            self.get_logger().fatal(str(error))
        finally:
            self.ended.set()

    def _begin(self) -> None:
        self._recognizer = edge.Recognizer(self._source or None, **self._options)
        # New letters each time: an id may not come back.
        self._output = Ros4Hri(NodeCarrier(self), self._frame_id)

    def _end(self) -> None:
        self._recognizer.close()
        if self._thread is not None:
            self._thread.join(5.0)  # it may be sending
        self._output.finish(True)


def main() -> int:
    """Spin until the source ends or ROS stops.

    Returns:
        The exit status: 2 for what edge refused.
    """
    rclpy.init()
    node: Faces | None = None
    try:
        node = Faces()
        while rclpy.ok() and not node.ended.is_set():
            rclpy.spin_once(node, timeout_sec=0.2)
        return 2 if node.failure is not None else 0
    except edge.EdgeError as error:
        print(f"edge_ros2: {error}", flush=True)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    finally:
        if node is not None:
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()
