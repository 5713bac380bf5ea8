"""What a rule says, what the lint hands out, and which versions of TensorRT it speaks of."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from export.errors import ExportError

Version = tuple[int, int]
"""Major and minor: (10, 3)."""

VERSIONS = ("10.3", "10.13", "10.16", "11.0")
"""JetPack 6, JetPack 7.0 and 7.1 (Thor), JetPack 7.2 (Orin and Thor), a desktop."""

OLDEST: Version = (10, 3)
NEWEST_MAJOR = 11


class LintError(ExportError):
    """A graph that TensorRT would refuse, or something that is no graph."""


@dataclass(frozen=True)
class Violation:
    """One thing that a build would refuse or run badly."""

    node: str
    """The node's name; of an initialiser, input or output its own name; "model" where it is none of them."""
    rule: str
    """Key of the rule, as in :data:`export.lint.RULES`."""
    versions: tuple[str, ...]
    """The versions of TensorRT that it concerns, of those that were asked for."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        """One line, whatever the graph's names contain."""
        line = f"{self.node}: {self.rule}: {self.problem}; {self.remedy} (TensorRT {', '.join(self.versions)})"
        return "".join(letter if letter.isprintable() else "?" for letter in line)


def _every(_: Version) -> bool:
    return True


@dataclass(frozen=True)
class Finding:
    """What a rule yields: a violation that does not yet know which versions were asked for."""

    node: str
    problem: str
    remedy: str
    broken_in: Callable[[Version], bool] = _every


def parse_version(text: str) -> Version:
    """``10.3``, or in full as ``tensorrt.__version__`` says it, ``10.3.0.30`` -> (10, 3).

    Raises:
        LintError: no version, or one that the tables don't cover.
    """
    found = re.fullmatch(r"(\d{1,3})\.(\d{1,3})(\.\d+)*", text)
    if found is None:
        raise LintError(f"{text!r} is no TensorRT version; expected one like {', '.join(VERSIONS)}")
    version = int(found[1]), int(found[2])
    if version < OLDEST or version[0] > NEWEST_MAJOR:
        raise LintError(f"TensorRT {text} is not known here; expected 10.3 to {NEWEST_MAJOR}.x")
    return version
