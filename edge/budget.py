"""Time for a frame, kept by doing less: an explicit ladder of steps, gone down while frames cost too much, and back up.

Which steps a frame is done with is decided once, before it is looked at, said in its result and kept in a recording:
the decision depends on how fast a machine is, what follows from it does not.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Sequence

from edge.errors import OptionError

_LOG = logging.getLogger(__name__)

SEARCH_RARELY, FOLLOW_LONGER, READ_HALF, READ_QUARTER, SPARE = (
    "search_rarely",
    "follow_longer",
    "read_half",
    "read_quarter",
    "spare",
)

LADDER = (SEARCH_RARELY, FOLLOW_LONGER, READ_HALF, READ_QUARTER)
"""In the order in which they are taken; each holds those before it.

``search_rarely``: new faces are sought three times more rarely (:data:`edge.faces.watch.RARER`), be somebody known or
not. A new face shows later; those that are known are followed as ever. ``follow_longer``: the detector looks at a known
face, and its landmarks are fitted, in every ninth frame in place of every sixth. ``read_half``, ``read_quarter``: the
network reads a known face in every second or fourth frame alone; between, what was said stands. Not for a bundle that
sees windows: its frames must come at its own rate, and what it makes of them holds its motion too. ``spare``, where a
spare bundle was given, comes last: that one reads the faces.
"""


def ladder(*, streams: bool, spare: bool) -> tuple[str, ...]:
    """The steps that there are for a bundle.

    Args:
        streams: whether it sees windows.
        spare: whether there is another one to read with.
    """
    steps = tuple(step for step in LADDER if not (streams and step in (READ_HALF, READ_QUARTER)))
    return (*steps, SPARE) if spare else steps


JUDGED = 15
"""Frames whose mean decides that too much is spent: half a second of a camera's."""

RESTED = 90
"""Frames whose mean decides that there is room again, at first."""

ROOM = 0.6
"""... when it is under this share of the budget: a step saves less than the rest."""

PATIENCE = 16
"""A step that had to be taken again as soon as it was left is kept twice as long each time, up to this many times."""


class Budget:
    """Decides how far down the ladder to be. :meth:`spend` is called on one thread, and ``steps`` read on any.

    Args:
        budget_ms: what a frame may cost, milliseconds: ``Result.timings_ms["total"]``, on average over 15 frames.
        ladder: the steps there are, in order.

    Raises:
        OptionError: not a positive number.
    """

    def __init__(self, budget_ms: float, ladder: Sequence[str] = LADDER) -> None:
        if isinstance(budget_ms, bool) or not isinstance(budget_ms, int | float) or not 0 < budget_ms < math.inf:
            raise OptionError(f"budget_ms is {budget_ms!r}; expected a positive number of milliseconds, as 20")
        self._budget, self._ladder = float(budget_ms), tuple(ladder)
        self._last: deque[float] = deque(maxlen=RESTED * PATIENCE)
        self._since_up: int | None = None
        self._patience = 1
        self.steps: tuple[str, ...] = ()
        """Those taken now."""

    def spend(self, total_ms: float) -> None:
        """Take in what a frame cost, milliseconds."""
        self._last.append(total_ms)
        depth = len(self.steps)
        if self._since_up is not None:
            self._since_up += 1
            if self._since_up > RESTED * self._patience:
                # It went well for as long again: the next time is a first time.
                self._since_up, self._patience = None, 1
        if len(self._last) >= JUDGED and depth < len(self._ladder) and (spent := self._mean(JUDGED)) > self._budget:
            if self._since_up is not None:
                self._patience = min(PATIENCE, 2 * self._patience)
            self._since_up = None
            self._move(depth + 1, spent)
            return
        rest = RESTED * self._patience
        if depth and len(self._last) >= rest and (spent := self._mean(rest)) < ROOM * self._budget:
            self._since_up = 0
            self._move(depth - 1, spent)

    def _mean(self, frames: int) -> float:
        return math.fsum(list(self._last)[-frames:]) / frames

    def _move(self, depth: int, spent: float) -> None:
        _LOG.warning(
            "a frame costs %.1f ms of %.1f: %s %s",
            spent,
            self._budget,
            "now" if depth > len(self.steps) else "no longer",
            self._ladder[max(depth, len(self.steps)) - 1],
        )
        self.steps = self._ladder[:depth]
        self._last.clear()
