"""Hands items from one thread to another, by a stated policy, and carries the sender's death to the receiver."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class DropPolicy(str, Enum):
    """What happens to an item when the receiver is slower than the sender."""

    WAIT = "wait"
    """The sender waits: nothing is lost. Right for files."""
    DROP_OLDEST = "drop_oldest"
    """The oldest unread item goes, and is counted: the receiver gets the newest. Right for live cameras."""


class Mailbox(Generic[T]):
    """A bounded queue between one sender and one receiver.

    Args:
        capacity: items that may lie unread, 1 or more.
        policy: what to do when it is full.
    """

    def __init__(self, capacity: int, policy: DropPolicy) -> None:
        self._items: deque[T] = deque()
        self._capacity = capacity
        self._policy = policy
        self._changed = threading.Condition()
        self._ended = False
        self._closed = False
        self._failure: BaseException | None = None
        self.dropped = 0
        """Items that were never received."""

    def put(self, item: T) -> bool:
        """Send an item; False once the receiver has closed the mailbox."""
        with self._changed:
            if self._policy is DropPolicy.WAIT:
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                return False
            if len(self._items) >= self._capacity:
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            return True

    def end(self, failure: BaseException | None = None) -> None:
        """The sender has no more; with ``failure``, this is why."""
        with self._changed:
            self._ended, self._failure = True, failure
            self._changed.notify_all()

    def get(self, timeout_s: float | None = None) -> T | None:
        """The next item, waiting for it; None at the end or when closed.

        Args:
            timeout_s: how long to wait, seconds; None is for ever.

        Raises:
            BaseException: what the sender died of, once the items before it have been received.
            queue.Empty: nothing came in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._ended or self._closed, timeout_s):
                raise queue.Empty
            if self._closed:
                return None
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            return None

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait until there is something to get, even the end, or until something else is so.

        Args:
            until: asked at once, and whenever :meth:`stir` is called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._closed or until())

    def stir(self) -> None:
        """What :meth:`wait` waits for may be so now."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """The receiver wants no more; a waiting sender is let go."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
