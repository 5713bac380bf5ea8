"""What a robot is told in ROS: REP-155 (ROS4HRI, https://www.ros.org/reps/rep-0155.html), without ROS installed.

/humans/faces/tracked           hri_msgs/IdsList                       each result: who is in the picture
/humans/faces/<id>/roi          hri_msgs/NormalizedRegionOfInterest2D  each result that shows the face
/humans/faces/<id>/expression   hri_msgs/Expression                    only where the state is ``ok``
"""

from __future__ import annotations

import math
import random
import string
import time
from collections.abc import Mapping

from edge.errors import MissingPackageError
from edge.outputs.contract import Output
from edge.outputs.rosaddress import DEFAULT, RosAddress, parse
from edge.outputs.roscarrier import Carrier, Topic
from edge.outputs.rosclock import now_ns
from edge.outputs.rosmessages import Expression, Header, Ids, Message, Region
from edge.types import Face, FaceState, Frame, Result

TRACKED = "/humans/faces/tracked"

# fmt: off
OWN_WORDS = frozenset({
    "neutral", "angry", "sad", "happy", "surprised", "disgusted", "scared", "pleading", "vulnerable", "despaired",
    "guilty", "disappointed", "embarrassed", "horrified", "skeptical", "annoyed", "furious", "suspicious", "rejected",
    "bored", "tired", "asleep", "confused", "amazed", "excited",
})
# fmt: on
"""What hri_msgs/Expression can say."""

WORDS: Mapping[str, str] = {
    "anger": "angry",
    "disgust": "disgusted",
    "fear": "scared",
    "happiness": "happy",
    "sadness": "sad",
    "surprise": "surprised",
    "boredom": "bored",
}
"""The message's word for a bundle's label, where the two differ."""


def word(label: str) -> str:
    """A bundle's label in the message's words; empty where it has none, as for contempt: none is put in its place."""
    said = WORDS.get(label, label)
    return said if said in OWN_WORDS else ""


def stamp_ns(frame: Frame) -> int:
    """When a frame was captured (a live one) or read (a file's), nanoseconds since 1970, as ROS stamps have it."""
    return now_ns() - (time.monotonic_ns() - frame.read_ns if frame.read_ns else 0)


def region(header: Header, face: Face, width: int, height: int) -> Region:
    """Where a face is. ``c`` is 1, and 0 for a face that is followed while the detector no longer sees it.

    Args:
        header: of the message.
        face: in pixels.
        width: of the picture, pixels.
        height: likewise.
    """
    box = face.box
    sides = (box.x / width, box.y / height, (box.x + box.width) / width, (box.y + box.height) / height)
    xmin, ymin, xmax, ymax = (min(1.0, max(0.0, side)) for side in sides)
    return Region(header, xmin, ymin, xmax, ymax, 0.0 if "unconfirmed" in face.reasons else 1.0)


def expression(header: Header, face: Face) -> Expression | None:
    """What a face shows; None unless its state is ``ok``: an uncertain face says nothing.

    The networks are trained on words. Valence and arousal are therefore NaN, which no listener can take for calm.
    """
    if face.state is not FaceState.OK or face.label is None:
        return None
    return Expression(header, word(face.label), math.nan, math.nan, face.confidence)


class Ros4Hri(Output):
    """A ROS node that tells of faces.

    A face has topics for as long as results know it, the second in which it is lost included; ``tracked`` holds those
    that the picture shows. Its id is a letter, this run's four letters and its number, since ids may not come back.

    Args:
        carrier: the node; it is closed at the end.
        frame_id: the camera's frame in the headers.
        run: this run's letters; None draws some.
    """

    def __init__(self, carrier: Carrier, frame_id: str = "camera", run: str | None = None) -> None:
        self._carrier: Carrier | None = carrier
        self._frame_id = frame_id
        self._run = "".join(random.choices(string.ascii_lowercase, k=4)) if run is None else run
        self._tracked = carrier.topic(TRACKED, Ids)
        self._faces: dict[str, dict[type[Message], Topic]] = {}

    def write(self, frame: Frame, result: Result) -> None:
        """Take in one frame's result; nobody is waited for."""
        height, width = frame.image.shape[:2]
        self.tell(Header(stamp_ns(frame), self._frame_id), result, width, height)

    def tell(self, header: Header, result: Result, width: int, height: int) -> None:
        """The same, of a picture whose header is known.

        Args:
            header: of the picture, and so of all that is said of it.
            result: what was seen in it.
            width: of the picture, pixels.
            height: likewise.
        """
        if self._carrier is None:
            return
        faces = {self.id_of(face): face for face in result.faces}
        for gone in self._faces.keys() - faces.keys():
            self._forget(gone)
        for name in faces.keys() - self._faces.keys():
            self._faces[name] = {
                Region: self._carrier.topic(f"/humans/faces/{name}/roi", Region),
                Expression: self._carrier.topic(f"/humans/faces/{name}/expression", Expression),
            }
        self._tracked.send(Ids(header, tuple(name for name, face in faces.items() if face.visible)))
        for name, face in faces.items():
            if face.visible:
                self._faces[name][Region].send(region(header, face, width, height))
                if (said := expression(header, face)) is not None:
                    self._faces[name][Expression].send(said)

    def finish(self, whole: bool) -> str | None:
        """Say that nobody is there any more, and leave the network; may be called twice."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            self._tracked.send(Ids(Header(now_ns(), self._frame_id), ()))
            for name in list(self._faces):
                self._forget(name)
            self._tracked.close()
            carrier.close()
        return None

    def id_of(self, face: Face) -> str:
        """A face's id in ROS."""
        return f"f{self._run}{face.id}"

    def _forget(self, name: str) -> None:
        for topic in self._faces.pop(name).values():
            topic.close()


def open_ros(where: str = DEFAULT, run: str | None = None) -> Ros4Hri:
    """The output that ``edge run --ros`` has.

    Args:
        where: see :mod:`edge.outputs.rosaddress`.
        run: see :class:`Ros4Hri`.

    Raises:
        OptionError: a URI that is not understood, or a place that can't be used.
        MissingPackageError: a package of the extra ``ros`` is not installed.
    """
    address = parse(where)
    return Ros4Hri(_carrier(address), address.frame, run)


def _carrier(address: RosAddress) -> Carrier:
    if address.kind == "zenoh":
        from edge.outputs.roszenoh import ZenohCarrier

        return ZenohCarrier(address)
    try:
        from edge.outputs.rosdds import DdsCarrier
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "--ros dds:// needs cyclonedds; type: pip install cyclonedds (on a Jetson there is no wheel of it: "
            "use zenoh://)"
        ) from error
    return DdsCarrier(address)
