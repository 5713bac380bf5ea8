"""Arrays kept on disk between runs: written whole or not at all, and read only if nothing is wrong with them."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt


def write_arrays(file: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write whole or not at all, so that a run may be killed at any time.

    Args:
        file: a ``.npz``; its folder is made where missing.
        arrays: by name.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".", suffix=".part", delete=False) as stream:
        try:
            np.savez(stream, allow_pickle=False, **dict(arrays))
            stream.close()
            os.replace(stream.name, file)
        except BaseException:
            Path(stream.name).unlink(missing_ok=True)
            raise


def read_arrays(file: Path) -> dict[str, npt.NDArray[np.generic]] | None:
    """What :func:`write_arrays` wrote; None where the file is missing or damaged."""
    try:
        # Opened here, since np.load leaves a damaged file open.
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
