"""Bundles of all five families, and of one family with several window lengths: networks initialised, not trained.

Time, size and memory do not depend on what was learnt; accuracy does, and is not measured on these. Needs torch.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchError

LENGTHS = (4, 8, 16, 32)
"""Frames of a window, for the curve; the paper's network sees 8."""


def build(families: Sequence[str], folder: Path, tell: Callable[[str], None] = lambda line: None) -> list[str]:
    """Export families at their papers' size, in three precisions, unless done before.

    Args:
        families: names in ``train.models.FAMILIES``.
        folder: where the bundles go, each under its family's name.
        tell: is told what happens.

    Returns:
        Paths, in that order.

    Raises:
        BenchError: an unknown family, or torch is missing.
        EdgeError: an export that fails.
    """
    table = _table()
    if unknown := [one for one in families if one not in table.CONFIGS]:
        raise BenchError(f"family {unknown[0]!r} is unknown; expected some of {', '.join(table.CONFIGS)}")
    folder.mkdir(parents=True, exist_ok=True)
    # A process each, so that one family's memory is not another's.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for family in families:
            if (folder / family / "manifest.json").is_file():
                continue
            if not (folder / "film.mp4").is_file():
                table.film(folder)
            tell(f"{family}: exporting, which takes minutes")
            pool.apply(table.measured, (family, folder))
    return [str(folder / family) for family in families]


def lengths(folder: Path, tell: Callable[[str], None] = lambda line: None) -> dict[int, str]:
    """Bundles of 3DCNN-ConvLSTM with windows of several lengths, FP32 alone, unless made before.

    Args:
        folder: where they go.
        tell: is told what happens.

    Returns:
        Paths by length.

    Raises:
        BenchError: torch is missing.
    """
    _table()
    folder.mkdir(parents=True, exist_ok=True)
    made = {length: folder / f"conv_lstm-{length}" for length in LENGTHS}
    wanted = {length: path for length, path in made.items() if not (path / "manifest.json").is_file()}
    if wanted:
        tell(f"conv_lstm with windows of {', '.join(map(str, wanted))} frames: exporting")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(_export_lengths, (wanted,))
    return {length: str(path) for length, path in made.items()}


def _table() -> Any:
    try:
        import torch  # noqa: F401

        from export import table
    except ImportError as error:
        raise BenchError(
            'making bundles needs torch and onnx; type: pip install "edge-emotion[train,export]"'
        ) from error
    return table


def _export_lengths(wanted: dict[int, Path]) -> None:
    from export.assemble import Wishes, export
    from export.table import initialised

    for length, path in wanted.items():
        export(initialised("conv_lstm", frames=length), path, Wishes(precisions=("fp32",)))
