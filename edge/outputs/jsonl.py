"""One JSON object a line, one line a frame (see :meth:`edge.types.Result.to_dict`)."""

from __future__ import annotations

import json
import sys
from typing import TextIO

from edge.errors import OptionError, OutputError
from edge.outputs.contract import Output, PartialFile
from edge.types import Frame, Result


def line(result: Result) -> str:
    """A result as one line of JSON, without the line's end."""
    return json.dumps(result.to_dict(), separators=(",", ":"))


class JsonLines(Output):
    """Writes to a file, or to standard output for ``-``.

    Raises:
        OptionError: the file can't be written.
    """

    def __init__(self, target: str) -> None:
        self.file: PartialFile | None = None
        if target == "-":
            # Python has none where the shell closed it.
            if sys.stdout is None:
                raise OptionError("--jsonl -: there is no standard output; give a file")
            self._stream: TextIO = sys.stdout
        else:
            self.file = PartialFile(target)
            try:
                self._stream = self.file.partial.open("w", encoding="utf-8")
            except OSError as error:
                raise OptionError(f"{target}: can't be written ({error.strerror}); choose another place") from error

    def write(self, frame: Frame, result: Result) -> None:
        """One line; standard output is flushed at once, so that a reader sees it as it happens."""
        self._stream.write(line(result) + "\n")
        if self.file is None or self.file.direct:
            self._stream.flush()

    def finish(self, whole: bool) -> str | None:
        """See :class:`Output`."""
        if self.file is None:
            return None
        try:
            self._stream.close()
        except OSError as error:
            raise OutputError(f"{self.file.path}: not whole ({error.strerror}); make room and run it again") from error
        return self.file.finish(whole)
