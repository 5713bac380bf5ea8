"""What every output is. Files are written beside their place and moved there when they are whole."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from edge.errors import OptionError
from edge.types import Frame, Result


class Output(ABC):
    """Takes results in order."""

    @abstractmethod
    def write(self, frame: Frame, result: Result) -> None:
        """Take in one frame's result."""

    @abstractmethod
    def finish(self, whole: bool) -> str | None:
        """Close.

        Args:
            whole: whether the source came to its end; if not, a file keeps its ``.partial`` name.

        Returns:
            What to tell the user, or None.

        Raises:
            OutputError: what was written can't be kept.
        """


class PartialFile:
    """A file's name while it is written, and its way to the final one.

    Symbolic links are followed. A device or pipe is no file to be replaced: it is written to as it is.

    Args:
        name: the final place; its folder is made.

    Raises:
        OptionError: an empty name, or one that can't be written to.
    """

    def __init__(self, name: str) -> None:
        if not name:
            raise OptionError("an output needs a name; give a file, or leave the option out")
        try:
            name.encode()
            self.path = Path(name).resolve()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.direct = self.path.exists() and not self.path.is_file() and not self.path.is_dir()
            refused = self.path.is_dir() or not os.access(self.path if self.direct else self.path.parent, os.W_OK)
        except OSError as error:
            raise OptionError(f"{name}: can't be written ({error.strerror}); choose another place") from error
        except ValueError as error:
            raise OptionError(f"{name!a}: not a file name that can be written; choose another") from error
        if refused:
            raise OptionError(f"{name}: can't be written; choose a file in a folder that you may write to")
        partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
        self.partial = self.path if self.direct else partial

    def finish(self, whole: bool) -> str | None:
        """Move it into place, or say where the part is; an empty part is removed."""
        if self.direct or not self.partial.exists():
            return None
        if whole:
            os.replace(self.partial, self.path)
            return f"{self.path} written"
        if self.partial.stat().st_size == 0:
            self.partial.unlink()
            return None
        return f"{self.partial} holds what there was before the stop"


def refuse_collisions(source: str, targets: list[PartialFile]) -> None:
    """No output may be the source, or another output.

    Raises:
        OptionError: two of them are one file.
    """
    taken = {Path(source).resolve(): "the source"} if "://" not in source else {}
    if source.startswith("file://"):
        taken = {Path(source[len("file://") :]).resolve(): "the source"}
    for target in targets:
        for path in {target.path, target.partial}:
            if path in taken and not target.direct:
                raise OptionError(f"{path}: would be written over while it is {taken[path]}; choose another output")
        taken[target.path] = taken[target.partial] = "another output"
