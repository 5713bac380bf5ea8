"""A robot's behaviour in ROS 2: it greets who smiles, once, and says goodbye.

    edge run 0 --ros                            # on one side (or: ros2 run edge_ros2 faces)
    python examples/ros2_behaviour.py           # on the other, with ROS (rclpy)
    python examples/ros2_behaviour.py zenoh://localhost:7447      # or without ROS: pip install rosbags eclipse-zenoh

It listens to /humans/faces/tracked and, for each face in it, to /humans/faces/<id>/expression (REP-155), and so works
with every node that speaks ROS4HRI.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection
from typing import Any

SURE = 0.6
"""Below this confidence an expression is no ground to act."""

SMILES_S = 0.3
"""So long must somebody smile."""

GREETED, GOODBYE = "hello", "goodbye"


class Greeter:
    """The behaviour: no ROS in it, no clock of its own.

    Args:
        act: is told what to do, and to whom.
    """

    def __init__(self, act: Callable[[str, str], None]) -> None:
        self._act = act
        self._since: dict[str, float] = {}
        self._greeted: set[str] = set()

    def tracked(self, ids: Collection[str]) -> None:
        """Who is there. Who went is said goodbye to if it was greeted."""
        for face in sorted((self._since.keys() | self._greeted) - set(ids)):
            self._since.pop(face, None)
            if face in self._greeted:
                self._greeted.discard(face)
                self._act(GOODBYE, face)

    def expression(self, face: str, word: str, confidence: float, at_s: float) -> None:
        """What a face shows, and when the picture was taken."""
        if word != "happy" or confidence < SURE:
            self._since.pop(face, None)
        elif at_s - self._since.setdefault(face, at_s) >= SMILES_S and face not in self._greeted:
            self._greeted.add(face)
            self._act(GREETED, face)


def with_ros(greeter: Greeter) -> None:
    """Listen as a node of rclpy, until ROS stops."""
    import rclpy
    from hri_msgs.msg import Expression, IdsList
    from rclpy.node import Node

    class Behaviour(Node):
        def __init__(self) -> None:
            super().__init__("greeter")
            self._faces: dict[str, Any] = {}
            self.create_subscription(IdsList, "/humans/faces/tracked", self._tracked, 10)

        def _tracked(self, message: Any) -> None:
            for face in set(message.ids) - self._faces.keys():
                topic = f"/humans/faces/{face}/expression"
                self._faces[face] = self.create_subscription(Expression, topic, self._listener(face), 10)
            for face in self._faces.keys() - set(message.ids):
                self.destroy_subscription(self._faces.pop(face))
            greeter.tracked(message.ids)

        def _listener(self, face: str) -> Callable[[Any], None]:
            return lambda message: greeter.expression(face, message.expression, message.confidence, at_s(message))

    rclpy.init()
    node = Behaviour()
    try:
        while rclpy.ok():
            rclpy.spin_once(node, timeout_sec=0.2)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()


def with_zenoh(greeter: Greeter, place: str, domain: int, seconds: float) -> None:
    """Listen as a zenoh peer, as a node with rmw_zenoh would; 0 seconds is until interrupted."""
    import zenoh
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg("std_msgs/Header header\nstring[] ids\n", "hri_msgs/msg/IdsList"))
    fields = "std_msgs/Header header\nstring expression\nfloat32 valence\nfloat32 arousal\nfloat32 confidence\n"
    store.register(get_types_from_msg(fields, "hri_msgs/msg/Expression"))

    def heard(sample: Any) -> None:
        # <domain>/humans/faces/tracked/<type>/<hash>, or .../faces/<id>/expression/...
        parts, payload = str(sample.key_expr).split("/"), sample.payload.to_bytes()
        if parts[3] == "tracked":
            greeter.tracked(store.deserialize_cdr(payload, "hri_msgs/msg/IdsList").ids)
        elif parts[4] == "expression":
            message: Any = store.deserialize_cdr(payload, "hri_msgs/msg/Expression")
            greeter.expression(parts[3], message.expression, message.confidence, at_s(message))

    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("listen/endpoints", "[]")
    config.insert_json5("connect/endpoints", f'["tcp/{place}"]')
    config.insert_json5("connect/exit_on_failure", "false")
    with zenoh.open(config) as session, session.declare_subscriber(f"{domain}/humans/faces/**", heard):
        print("listening", flush=True)
        begun = time.monotonic()
        while not seconds or time.monotonic() - begun < seconds:
            time.sleep(0.05)


def at_s(message: Any) -> float:
    """When the picture was taken, seconds."""
    return float(message.header.stamp.sec + message.header.stamp.nanosec / 1e9)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Greet who smiles.")
    parser.add_argument("place", nargs="?", metavar="zenoh://HOST:PORT", help="without ROS (default: rclpy)")
    parser.add_argument("--domain", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="without ROS: how long (default: until Ctrl-C)")
    options = parser.parse_args(arguments)
    greeter = Greeter(lambda what, face: print(what, face, flush=True))
    if options.place is None:
        with_ros(greeter)
    else:
        with_zenoh(greeter, options.place.removeprefix("zenoh://"), options.domain, options.seconds)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(0)
