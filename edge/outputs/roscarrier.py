"""What carries ROS messages: a node that has topics."""

from __future__ import annotations

from abc import ABC, abstractmethod

from edge.outputs.rosmessages import Message


class Topic(ABC):
    """A topic that this node publishes on."""

    @abstractmethod
    def send(self, message: Message) -> None:
        """Hand a message over; nobody is waited for, and whoever is too slow does not get it."""

    @abstractmethod
    def close(self) -> None:
        """Take the topic back, so that ``ros2 topic list`` no longer shows it."""


class Carrier(ABC):
    """A node on a network."""

    @abstractmethod
    def topic(self, name: str, kind: type[Message]) -> Topic:
        """Begin to publish.

        Args:
            name: as ROS has it, with its first slash.
            kind: what will be sent.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the network."""
