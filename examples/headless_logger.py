"""A robot without a screen that keeps a diary: what changed, and each minute how it went. No picture is ever kept.

    python examples/headless_logger.py 0 --into /var/log/faces

One JSON object a line; a new file at midnight (UTC), the last seven are kept. A camera that is unplugged is waited for,
and that too is in the diary.
"""

from __future__ import annotations

import argparse
import json
import logging
import logging.handlers
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import edge

KEPT_DAYS = 7


class Diary:
    """Writes lines; takes in results.

    Args:
        folder: made where it is not there.
        every_s: seconds between summaries.
    """

    def __init__(self, folder: Path, every_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = logging.handlers.TimedRotatingFileHandler(
            folder / "faces.jsonl", when="midnight", backupCount=KEPT_DAYS, utc=True, encoding="utf-8"
        )
        self._every_s = every_s
        self._shown: dict[int, str] = {}
        self._begin()

    def note(self, what: str, **facts: object) -> None:
        """One line."""
        said = json.dumps({"at": round(time.time(), 3), "what": what, **facts}, separators=(",", ":"))
        self._file.emit(logging.LogRecord("diary", logging.INFO, "", 0, said, None, None))

    def take(self, result: edge.Result) -> None:
        """A result: who came, who shows something else than before, who went."""
        sure = {face.id: face for face in result.faces if face.state is edge.FaceState.OK and face.label is not None}
        for number, face in sure.items():
            if self._shown.get(number) != face.label:
                self.note("shows", face=number, label=face.label, confidence=round(face.confidence, 3))
                self._shown[number] = str(face.label)
        for number in self._shown.keys() - {face.id for face in result.faces}:
            self.note("gone", face=number)
            del self._shown[number]
        self._frames += 1
        self._with_face += any(face.visible for face in result.faces)
        self._labels.update(face.label for face in sure.values())
        if time.monotonic() - self._since >= self._every_s:
            self.summary()

    def summary(self) -> None:
        """What was since the last one."""
        seconds = max(1e-9, time.monotonic() - self._since)
        rate = round(self._frames / seconds, 2)
        self.note("summary", per_s=rate, frames=self._frames, with_face=self._with_face, labels=dict(self._labels))
        self._begin()

    def close(self) -> None:
        """The last summary."""
        self.summary()
        self._file.close()

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._frames = self._with_face = 0
        self._labels: Counter[str | None] = Counter()


class Troubles(logging.Handler):
    """What edge itself reports, as a camera lost and back, goes into the diary too."""

    def __init__(self, diary: Diary) -> None:
        super().__init__(logging.WARNING)
        self._diary = diary

    def emit(self, record: logging.LogRecord) -> None:
        """One warning."""
        self._diary.note("trouble", text=record.getMessage())


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Keep a diary of faces.")
    parser.add_argument("source", nargs="?", default="0")
    parser.add_argument("--into", type=Path, default=Path("diary"), metavar="FOLDER")
    parser.add_argument(
        "--every", type=float, default=60.0, metavar="S", help="seconds between summaries (default: 60)"
    )
    options = parser.parse_args(arguments)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, stack: stop.set())
    signal.signal(signal.SIGINT, lambda number, stack: stop.set())
    diary = Diary(options.into, options.every)
    troubles = Troubles(diary)
    logging.getLogger("edge").addHandler(troubles)
    try:
        with edge.Recognizer(options.source) as recognizer:
            diary.note("begun", source=options.source)
            for result in recognizer:
                diary.take(result)
                if stop.is_set():
                    break
            diary.note("stopped" if stop.is_set() else "ended", dropped=recognizer.dropped)
    except edge.EdgeError as error:
        diary.note("failed", text=str(error))
        print(f"headless_logger: {error}", file=sys.stderr)
        return 2
    finally:
        logging.getLogger("edge").removeHandler(troubles)
        diary.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
