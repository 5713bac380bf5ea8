"""The ROS messages that are sent, as plain values and as the bytes that ROS 2 puts on the wire.

hri_msgs 2 (REP-155), serialised as CDR (XCDR1, little endian) by rosbags; no ROS is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge.errors import MissingPackageError

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

INSTALL = "pip install rosbags eclipse-zenoh (or the extra edge-emotion[ros])"


@dataclass(frozen=True, slots=True)
class Header:
    """std_msgs/Header."""

    stamp_ns: int
    """When the picture was taken, nanoseconds since 1970."""
    frame_id: str
    """The camera's optical frame."""


@dataclass(frozen=True, slots=True)
class Ids:
    """hri_msgs/IdsList: who is there."""

    header: Header
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """hri_msgs/NormalizedRegionOfInterest2D: where a face is, each side 0..1 of the picture."""

    header: Header
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    c: float
    """How sure it is that a face is there, 0..1."""


@dataclass(frozen=True, slots=True)
class Expression:
    """hri_msgs/Expression."""

    header: Header
    expression: str
    """One of the message's own words, or empty where it has none."""
    valence: float
    """-1..1; NaN where nobody measured it."""
    arousal: float
    """-1..1; NaN where nobody measured it."""
    confidence: float
    """0..1."""


Message = Ids | Region | Expression

NAMES: dict[type[Message], str] = {
    Ids: "hri_msgs/msg/IdsList",
    Region: "hri_msgs/msg/NormalizedRegionOfInterest2D",
    Expression: "hri_msgs/msg/Expression",
}

DEFINITIONS: dict[type[Message], str] = {
    Ids: "std_msgs/Header header\nstring[] ids\n",
    Region: "std_msgs/Header header\nfloat32 xmin\nfloat32 ymin\nfloat32 xmax\nfloat32 ymax\nfloat32 c\n",
    Expression: "std_msgs/Header header\nstring expression\nfloat32 valence\nfloat32 arousal\nfloat32 confidence\n",
}
"""The fields of hri_msgs 2.3; comments and constants are no part of a type's hash."""


def dds_name(kind: type[Message]) -> str:
    """A type's name in DDS and in zenoh's keys, as ``hri_msgs::msg::dds_::IdsList_``."""
    package, _, name = NAMES[kind].split("/")
    return f"{package}::msg::dds_::{name}_"


class Encoder:
    """Messages as bytes.

    Raises:
        MissingPackageError: rosbags is not installed.
    """

    def __init__(self) -> None:
        try:
            from rosbags.typesys import Stores, get_types_from_msg, get_typestore
        except ModuleNotFoundError as error:
            raise MissingPackageError(f"--ros needs rosbags; type: {INSTALL}") from error
        # Any ROS 2 distribution's Header and Time: they never changed since ROS 2 began.
        self._store: Typestore = get_typestore(Stores.ROS2_HUMBLE)
        for kind, name in NAMES.items():
            self._store.register(get_types_from_msg(DEFINITIONS[kind], name))

    def encode(self, message: Message) -> bytes:
        """The message with its four bytes of encapsulation (``00 01 00 00``)."""
        name = NAMES[type(message)]
        fields = {field: getattr(message, field) for field in message.__dataclass_fields__ if field != "header"}
        if isinstance(message, Ids):
            fields["ids"] = list(message.ids)
        return bytes(self._store.serialize_cdr(self._type(name)(header=self._header(message.header), **fields), name))

    def type_hash(self, kind: type[Message]) -> str:
        """``RIHS01_`` and 64 digits (REP-2016), by which subscribers know the type's version."""
        return str(self._store.hash_rihs01(NAMES[kind]))

    def _header(self, header: Header) -> object:
        seconds, nanoseconds = divmod(header.stamp_ns, 10**9)
        stamp = self._type("builtin_interfaces/msg/Time")(sec=seconds, nanosec=nanoseconds)
        return self._type("std_msgs/msg/Header")(stamp=stamp, frame_id=header.frame_id)

    def _type(self, name: str) -> Any:
        return self._store.types[name]
