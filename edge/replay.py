"""A recorded run, had again: the same frames through the same pipeline, or, of a private recording, its second half.

On the machine that recorded it a replay gives the recorded results to the last digit, timings apart: no stage looks at
a clock, and what a live run dropped is not in its recording. A frame that was searched for faces and then dropped in
favour of a newer one is: it is searched again, as those after it were followed from there, and has no result.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from edge.device import describe
from edge.errors import OptionError, SourceError
from edge.faces.watch import Sighting
from edge.manifest import to_document
from edge.pipeline import Pipeline, Seen
from edge.recognizer import open_trusted
from edge.record import FRAMES, MANIFEST, PICTURES, RESULTS, SCHEMA, TENSORS, Facts, versions
from edge.source import SMALLEST
from edge.types import Box, Frame, Image, Result, Tensor

NO_PICTURE = np.zeros((0, 0, 3), np.uint8)
"""Stands for the picture of a frame that a private recording did not keep."""

MOST_BYTES = 1 << 30
"""No tensor of a recording may unpack to more."""

_GARBLED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, zlib.error)
"""What the readers raise of contents that are not what they should be."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the index of frames."""

    number: int
    """0, 1, 2, ... in the recording."""
    index: int
    captured_ns: int
    contents: Mapping[str, Any]
    degraded: tuple[str, ...] = ()
    """The steps of :mod:`edge.budget` that it was done with."""


class Recording:
    """A recording on disk, up to its last whole frame.

    Args:
        folder: that :class:`edge.record.Recorder` wrote to.

    Raises:
        SourceError: no recording, one of another version, or a damaged one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            document = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SourceError(f"{folder}: no recording; give a folder that edge run --record wrote") from error
        except OSError as error:
            raise SourceError(f"{folder}: can't be read ({error.strerror}); choose another recording") from error
        except ValueError as error:
            raise self._damaged(f"{MANIFEST} is no JSON") from error
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            found = document.get("schema") if isinstance(document, dict) else None
            raise SourceError(f"{folder}: schema {found!r}, this version of edge reads {SCHEMA}; record the run again")
        try:
            self.facts = Facts.parse(document["run"])
            self.whole = document["ended"] is not None
            """Whether it was closed in order; else it was cut off."""
        except (OptionError, *_GARBLED) as error:
            raise self._damaged(f"{MANIFEST} is garbled ({error})") from error

    def entries(self) -> Iterator[Entry]:
        """The frames, in order.

        Raises:
            SourceError: a line is damaged.
        """
        for number, entry in enumerate(self._lines(FRAMES)):
            try:
                steps = tuple(str(step) for step in entry.get("degraded", ()))
                one = Entry(number, int(entry["frame"]), int(entry["captured_ns"]), entry, steps)
            except _GARBLED as error:
                raise self._damaged(f"line {number + 1} of {FRAMES} is garbled") from error
            yield one

    def results(self) -> Iterator[dict[str, Any]]:
        """The recorded results, in order: see :meth:`edge.Result.to_dict`.

        Raises:
            SourceError: a line is damaged.
        """
        return self._lines(RESULTS)

    def frame(self, entry: Entry) -> Frame:
        """A frame; without its picture where that was not kept.

        Raises:
            SourceError: it is missing or not as it was recorded.
        """
        return Frame(entry.index, entry.captured_ns, NO_PICTURE if self.facts.private else self._picture(entry))

    def seen(self, entry: Entry) -> Seen:
        """What a frame of a private recording shows.

        Raises:
            SourceError: it is missing or not as it was recorded.
        """
        try:
            sightings, problems, kept = [], {}, {}
            for face in entry.contents["faces"]:
                number, box = int(face["id"]), Box(*map(float, face["box"]))
                sightings.append(
                    Sighting(number, box, None, None, None, int(face["seen_ns"]), int(face["confirmed_ns"]))
                )
                if face["problems"] is not None:
                    problems[number] = tuple(str(one) for one in face["problems"])
                    given = face["tensors"]
                    kept[number] = None if given is None else {name: self._tensor(one) for name, one in given.items()}
        except OSError as error:
            raise self._damaged(f"{TENSORS} can't be read ({error.strerror})") from error
        except _GARBLED as error:
            raise self._damaged(f"frame {entry.index} is not as it was recorded") from error
        return Seen(self.frame(entry), tuple(sightings), problems, {"detect": 0, "landmarks": 0}, kept, entry.degraded)

    def _lines(self, name: str) -> Iterator[dict[str, Any]]:
        try:
            with (self.folder / name).open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        return  # cut off while it was written
                    try:
                        entry = json.loads(line)
                    except ValueError as error:
                        raise self._damaged(f"line {number} of {name} is no JSON") from error
                    if not isinstance(entry, dict):
                        raise self._damaged(f"line {number} of {name} is no object")
                    yield entry
        except OSError as error:
            raise self._damaged(f"{name} can't be read ({error.strerror})") from error

    def _picture(self, entry: Entry) -> Image:
        path = self.folder / PICTURES / f"{entry.number:08d}.png"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise self._damaged(f"{path.name} can't be read ({error.strerror})") from error
        if zlib.crc32(data) != entry.contents.get("crc32"):
            raise self._damaged(f"{path.name} is not as it was recorded")
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None or min(image.shape[:2]) < SMALLEST:
            raise self._damaged(f"{path.name} is no frame")
        return np.asarray(image, np.uint8)

    def _tensor(self, entry: Mapping[str, Any]) -> Tensor:
        at, size, dtype = int(entry["at"]), int(entry["bytes"]), np.dtype(entry["dtype"])
        shape = tuple(int(side) for side in entry["shape"])
        whole = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.kind != "f" or not 0 < whole <= MOST_BYTES:
            raise ValueError("not a tensor of a frame")
        with (self.folder / TENSORS).open("rb") as file:
            file.seek(at)
            data = file.read(size)
        if zlib.crc32(data) != entry["crc32"]:
            raise ValueError("not as it was recorded")
        values = zlib.decompressobj().decompress(data, whole + 1)
        return np.frombuffer(values, dtype).reshape(shape)

    def _damaged(self, what: str) -> SourceError:
        return SourceError(f"{self.folder}: the recording is damaged: {what}; copy it again, or record anew")


class Replay:
    """Gives a recording's results anew: every frame that had one, in order, with no thread and no waiting.

    Args:
        folder: the recording.
        bundle: where its bundle lies now; None is where it was.

    Raises:
        SourceError: no recording, or a damaged one.
        EdgeError: the bundle, backend or precision of the run can't be used here.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     source = "synthetic://?frames=3"
        ...     with edge.Recognizer(source, record=place, record_private=True) as recognizer:
        ...         faces = [result.faces for result in recognizer]
        ...     with edge.Replay(place) as replay:
        ...         print([result.faces for result in replay] == faces, replay.check())
        True None
    """

    def __init__(self, folder: str | os.PathLike[str], *, bundle: str | os.PathLike[str] | None = None) -> None:
        self.recording = Recording(folder)
        facts = self.recording.facts
        self.bundle, self.engine = open_trusted(bundle or facts.bundle, facts.backend, facts.precision)
        self.answered = 0
        """Results given by the last iteration."""

    @property
    def differences(self) -> tuple[str, ...]:
        """What is not here as it was there and may change results: the bundle, versions. Empty is the same."""
        facts, found = self.recording.facts, []
        if (digest := to_document(self.bundle.manifest)["digest"]) != facts.digest:
            found.append(f"bundle {digest[:12]}, recorded with {facts.digest[:12]}")
        found += [
            f"{name} {here}, recorded with {facts.versions.get(name)}"
            for name, here in versions().items()
            if here != facts.versions.get(name)
        ]
        return tuple(found)

    @property
    def elsewhere(self) -> str | None:
        """The recording machine's processor where it is another one: last digits may differ; None is the same."""
        there = self.recording.facts.processor
        return there if there != describe().processor else None

    def __iter__(self) -> Iterator[Result]:
        """The results."""
        return (result for _, result in self.with_frames())

    def with_frames(self) -> Iterator[tuple[Frame, Result]]:
        """The results, each with its frame; that of a private recording has no picture.

        Raises:
            SourceError: the recording is damaged; results up to there have been given.
        """
        recording = self.recording
        pipeline = Pipeline.again(recording.facts, self.bundle, self.engine)
        wanted = (self._index(result) for result in recording.results())
        following = next(wanted, None)
        self.answered = 0
        for entry in recording.entries():
            if recording.facts.private:
                if following is None:
                    return
                seen = recording.seen(entry)
            else:
                seen = pipeline.look(recording.frame(entry), entry.degraded)
            if entry.index != following:
                continue
            result = pipeline.answer(seen)
            if seen.kept is not None and any(
                (seen.kept[one] is None) != (pipeline.fed[one] is None) for one in seen.kept
            ):
                raise SourceError(f"{recording.folder}: frame {entry.index} is of another bundle; give --bundle")
            self.answered += 1
            yield seen.frame, result
            following = next(wanted, None)

    def check(self) -> str | None:
        """Replay it all and compare with what was recorded, timings apart.

        Returns:
            The first difference, as ``frame 12: faces[0].label is 'sad', recorded was 'happy'``; None is none.

        Raises:
            OptionError: another bundle or version, which may answer something else.
            SourceError: the recording is damaged.
        """
        self.require_same()
        results = iter(self)
        for recorded in self.recording.results():
            if (result := next(results, None)) is None:
                return f"frame {recorded.get('frame')}: not replayed, recorded was a result"
            if (found := differs(result, recorded)) is not None:
                return found
        return None

    def require_same(self) -> None:
        """Refuse to compare what may differ.

        Raises:
            OptionError: another bundle or version.
        """
        if self.differences:
            raise OptionError(
                f"{self.recording.folder}: nothing can be proven with {'; '.join(self.differences)}; "
                "give the bundle and install the versions of the recording, or leave --check out"
            )

    def _index(self, result: Mapping[str, Any]) -> int:
        try:
            return int(result["frame"])
        except _GARBLED as error:
            raise SourceError(f"{self.recording.folder}: a line of {RESULTS} is garbled; copy it again") from error

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def __enter__(self) -> Replay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def differs(result: Result, recorded: Mapping[str, Any]) -> str | None:
    """The first field in which a result is not the recorded one, timings apart; None is none."""
    # Once through JSON, as the recorded one was.
    found = json.loads(json.dumps(result.to_dict()))
    facts = {key: value for key, value in recorded.items() if key != "timings_ms"}
    del found["timings_ms"]
    where = _first("", found, facts)
    return None if where is None else f"frame {result.frame}: {where}"


def _first(name: str, found: object, wanted: object) -> str | None:
    if isinstance(found, dict) and isinstance(wanted, dict) and list(found) == list(wanted):
        pairs = [(f"{name}.{key}" if name else key, found[key], wanted[key]) for key in found]
    elif isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = [(f"{name}[{at}]", one, other) for at, (one, other) in enumerate(zip(found, wanted, strict=True))]
    elif type(found) is type(wanted) and found == wanted:
        return None
    else:
        return f"{name} is {_short(found)}, recorded was {_short(wanted)}"
    return next((first for pair in pairs if (first := _first(*pair)) is not None), None)


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value)[:80] if not isinstance(value, dict) else f"an object of {', '.join(value)}"[:80]
