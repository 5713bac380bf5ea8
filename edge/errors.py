"""Every error that ``edge`` raises on purpose.

A message is one line and says three things: what was wrong, what was expected, and what to type or do.
The command line prints it as it is and exits with status 2.
"""

from __future__ import annotations


class EdgeError(Exception):
    """Base class: anything the user or the machine got wrong, told in one line."""


class OptionError(EdgeError, ValueError):
    """An option, argument or combination of them that can't be used."""


class FrameError(EdgeError, ValueError):
    """An array that is not the picture that was asked for: BGR uint8 (H, W, 3), unless the message says otherwise."""


class SourceError(EdgeError):
    """A camera, file, folder or URI that can't be opened or read."""


class BundleError(EdgeError):
    """A bundle that is missing, damaged, altered, or of another schema."""


class BackendError(EdgeError):
    """An inference backend or precision that can't run here."""


class MissingPackageError(EdgeError, ImportError):
    """A package that is not installed; the message names what to install."""


class OutputError(EdgeError):
    """Something written that can't be kept, as on a full disk."""


class StaleResultError(EdgeError):
    """No result is fresh enough; nothing older is ever handed out in its place."""


class ClosedError(EdgeError):
    """A recognizer that was closed is asked for more."""
