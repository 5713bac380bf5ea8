"""One JSON object a line, one line a frame (see :meth:`edge.types.Result.to_dict`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TextIO

from edge.errors import OptionError
from edge.outputs.contract import Output, PartialFile
from edge.types import Frame, Result


class JsonLines(Output):
    """Writes to a file, or to standard output for ``-``.

    Raises:
        OptionError: the file can't be written.
    """

    def __init__(self, target: str) -> None:
        self._file: PartialFile | None = None
        self._stream: TextIO = sys.stdout
        if target != "-":
            self._file = PartialFile(Path(target))
            try:
                self._stream = self._file.partial.open("w", encoding="utf-8")
            except OSError as error:
                raise OptionError(f"{target}: can't be written ({error.strerror}); choose another place") from error

    def write(self, frame: Frame, result: Result) -> None:
        """One line; standard output is flushed at once, so that a reader sees it as it happens."""
        self._stream.write(json.dumps(result.to_dict(), separators=(",", ":")) + "\n")
        if self._file is None:
            self._stream.flush()

    def finish(self, whole: bool) -> str | None:
        """See :class:`Output`."""
        if self._file is None:
            return None
        self._stream.close()
        return self._file.finish(whole)
