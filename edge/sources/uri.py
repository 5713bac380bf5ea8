"""A source's URI: its options, and what of it may be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from edge.errors import SourceError

UNSEEN = ("rtsp", "rtsps", "http", "https")
"""Kinds whose address may hold a password or a key."""


@dataclass(frozen=True, slots=True)
class Number:
    """An option that is a number."""

    default: float
    zero: bool = False
    """Whether 0 is allowed; below it nothing is."""
    whole: bool = False
    most: float = 1e6
    """Must be less than this."""

    def read(self, text: str) -> float:
        """The number, or ValueError with what it should have been."""
        kind = ("a whole number" if self.whole else "a number") + " from 0" if self.zero else "a positive number"
        kind = f"{kind} below {self.most:g}" if self.most < 1e6 else kind
        try:
            value = float(text)
        except ValueError:
            raise ValueError(kind) from None
        if not (0 <= value < self.most and (self.zero or value)) or (self.whole and value != int(value)):
            raise ValueError(kind)
        return value


def shown(uri: str) -> str:
    """A URI as messages may show it: without user, password, query and fragment where it points into a network."""
    scheme, sign, rest = uri.partition("://")
    if not sign or scheme in ("file", "dir", "v4l2", "csi", "synthetic"):
        return uri[:200]
    # A password may hold any sign, so everything up to the last @ goes, even if a part of a path goes with it.
    rest = rest.rpartition("@")[2].partition("?")[0].partition("#")[0]
    return f"{scheme}://{rest}"[:200]


def read_options(uri: str, query: str, known: Mapping[str, Number]) -> dict[str, float]:
    """The options of a query string; those that are not given are left out.

    Raises:
        SourceError: one that is not known, or not the number it should be.
    """
    values: dict[str, float] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise SourceError(f"{uri}: unknown option {name!r}; expected {', '.join(known)}")
        try:
            values[name] = known[name].read(text)
        except ValueError as error:
            raise SourceError(f"{uri}: {name}={text!r} is not {error}") from None
    return values
