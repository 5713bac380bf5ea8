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
        """


class PartialFile:
    """A file's name while it is written, and its way to the final one.

    Args:
        path: the final place; its folder is made.

    Raises:
        OptionError: the folder can't be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.stem}.partial{path.suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"{path}: can't be written ({error.strerror}); choose another place") from error
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise OptionError(f"{path}: can't be written; choose a file in a folder that you may write to")

    def finish(self, whole: bool) -> str | None:
        """Move it into place, or say where the part is; an empty part is removed."""
        if not self.partial.exists():
            return None
        if whole:
            os.replace(self.partial, self.path)
            return f"{self.path} written"
        if self.partial.stat().st_size == 0:
            self.partial.unlink()
            return None
        return f"{self.partial} holds what there was before the stop"
