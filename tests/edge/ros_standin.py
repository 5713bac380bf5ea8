"""As much of rclpy as jetson/ros2 uses, for machines without ROS; messages are made from their definitions.

It proves that the node's own code runs and says the right things; not that rclpy takes them.
"""

import queue
import sys
import types
from collections import defaultdict

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from edge.outputs.rosmessages import DEFINITIONS, NAMES

STORE = get_typestore(Stores.ROS2_HUMBLE)
for kind, definition in DEFINITIONS.items():
    STORE.register(get_types_from_msg(definition, NAMES[kind]))


class Ros:
    """What a test sees and does."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.heard = defaultdict(list)  # by topic
        self.events = []  # ("advertised" | "withdrawn", topic)
        self.logged = []
        self.callbacks = {}
        self.pending = queue.SimpleQueue()
        self.running = False

    def send(self, topic, message):
        self.pending.put((topic, message))


class Publisher:
    def __init__(self, ros, kind, topic):
        self.ros, self.kind, self.topic, self.open = ros, kind, topic, True

    def publish(self, message):
        assert self.open
        assert isinstance(message, self.kind)
        # As it would go over the wire; a field of a wrong type fails here.
        name = message.__msgtype__
        self.ros.heard[self.topic].append(STORE.deserialize_cdr(STORE.serialize_cdr(message, name), name))


class Logger:
    def __init__(self, ros):
        self.ros = ros

    def __getattr__(self, level):
        return lambda text, **options: self.ros.logged.append((level, text))


def install(monkeypatch, parameters=None):
    """Put the modules in their places; the Ros that the test talks to."""
    ros = Ros(parameters or {})

    class Node:
        def __init__(self, name):
            self.name = name

        def declare_parameter(self, name, default):
            return types.SimpleNamespace(value=ros.parameters.get(name, default))

        def create_publisher(self, kind, topic, depth):
            ros.events.append(("advertised", topic))
            return Publisher(ros, kind, topic)

        def destroy_publisher(self, publisher):
            publisher.open = False
            ros.events.append(("withdrawn", publisher.topic))

        def create_subscription(self, kind, topic, callback, qos):
            ros.callbacks[topic] = callback
            return topic

        def destroy_subscription(self, topic):
            del ros.callbacks[topic]

        def get_logger(self):
            return Logger(ros)

        def destroy_node(self):
            ros.events.append(("withdrawn", self.name))

    def spin_once(node, timeout_sec):
        try:
            topic, message = ros.pending.get(timeout=timeout_sec)
        except queue.Empty:
            return
        if topic is None:
            raise KeyboardInterrupt
        if topic in ros.callbacks:
            ros.callbacks[topic](message)

    def module(name, **contents):
        made = types.ModuleType(name)
        for key, value in contents.items():
            setattr(made, key, value)
        monkeypatch.setitem(sys.modules, name, made)

    def running(value):
        ros.running = value

    module(
        "rclpy",
        init=lambda: running(True),
        ok=lambda: ros.running,
        shutdown=lambda: running(False),
        spin_once=spin_once,
    )
    module("rclpy.node", Node=Node)
    module("rclpy.executors", ExternalShutdownException=type("ExternalShutdownException", (Exception,), {}))
    policy = types.SimpleNamespace(KEEP_LAST=1, BEST_EFFORT=2)
    module("rclpy.qos", QoSProfile=dict, HistoryPolicy=policy, ReliabilityPolicy=policy)
    for package in ("builtin_interfaces", "std_msgs", "sensor_msgs", "hri_msgs"):
        prefix = f"{package}/msg/"
        module(package)
        found = {name[len(prefix) :]: kind for name, kind in STORE.types.items() if name.startswith(prefix)}
        module(f"{package}.msg", **found)
    return ros
