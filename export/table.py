"""``python -m export.table``: all five families at their papers' size, exported in three precisions, as one table.

Networks are initialised, not trained: parity, time and size do not depend on what was learnt, and agreement says
little. What was learnt is measured where a bundle is made, with ``--evaluate``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from edge.device import describe
from edge.flow import named
from edge.synthetic import SyntheticSource

if TYPE_CHECKING:
    from train.checkpoint import Checkpoint

CONFIGS: dict[str, dict[str, Any]] = {
    "cspp": {"batch_norm": True},
    "conv_lstm": {},
    "two_stream": {"classes": 7},
    "emotional_vlan": {"classes": 7},
    "dam_cnn": {"decoders": 0},
}
"""Departures from each family's default configuration: one number of classes, and no decoders, which export drops."""

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FILM_S = 16
START, END = "<!-- table: python -m export.table -->", "<!-- end of table -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m export.table", description="Export every family; print a table.")
    parser.add_argument("--families", default=",".join(CONFIGS), help="some of them (default: all)")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="replace the table in this page")
    options = parser.parse_args(arguments)
    chosen = options.families.split(",")
    if unknown := set(chosen) - set(CONFIGS):
        parser.error(f"family {min(unknown)!r} is unknown; expected some of {', '.join(CONFIGS)}")
    rows = []
    # A process each, so that one family's memory is not another's.
    with (
        tempfile.TemporaryDirectory() as folder,
        multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool,
    ):
        film(Path(folder))
        for family in chosen:
            print(f"{family}:", file=sys.stderr)
            rows.append(pool.apply(measured, (family, Path(folder))))
    text = table(rows)
    print(text)
    if options.into is not None:
        page = options.into.read_text(encoding="utf-8")
        before, _, rest = page.partition(START)
        _, _, after = rest.partition(END)
        options.into.write_text(f"{before}{START}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    return 0


def film(folder: Path) -> None:
    """A video of the package's portrait in motion, to calibrate with."""
    source = SyntheticSource(640, 360, 25, FILM_S * 25)
    writer = cv2.VideoWriter(str(folder / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (640, 360))
    for number in range(FILM_S * 25):
        writer.write(source.picture(number / 25))
    writer.release()


def initialised(family: str, **config: Any) -> Checkpoint:
    """A network with random weights, the same each time, as if it had been trained.

    Args:
        family: its name.
        config: some fields of its configuration.
    """
    import torch

    from train.checkpoint import Checkpoint, plain
    from train.models import FAMILIES

    torch.manual_seed(0)
    entry = FAMILIES[family]
    chosen = entry.config(**config)
    flow = asdict(named("clg")) if any(spec.kind == "flow" for spec in entry.inputs(chosen)) else None
    return Checkpoint(
        family=family,
        config=plain(chosen),
        recipe={},
        labels=LABELS,
        corpus="none",
        synthetic=False,
        stage="initialised",
        complete=True,
        epoch=0,
        weights=entry.build(chosen).state_dict(),
        state={},
        temperature=1.0,
        abstain_below=0.0,
        held_out={},
        flow=flow,
    )


def measured(family: str, folder: Path) -> dict[str, Any]:
    """One family's figures: what its manifest says, parameters, and the export's peak memory in GiB."""
    from export.assemble import Wishes, export

    checkpoint = initialised(family, **CONFIGS[family])
    wishes = Wishes(precisions=("fp32", "fp16", "int8"), calibrate=folder)
    bundle = export(checkpoint, folder / family, wishes, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    return {
        "family": family,
        "parameters": bundle.manifest.data["parameters"],
        "precisions": dict(bundle.manifest.metrics["precisions"]),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| family | parameters | precision | parity | MB | ms a frame | of fp32 | window / frame | peak GiB |",
        "| --- " * 9 + "|",
    ]
    for row in rows:
        for number, (precision, one) in enumerate(row["precisions"].items()):
            first = (row["family"], f"{row['parameters'] / 1e6:.1f} M") if not number else ("", "")
            ratio = f"{one['window_ms'] / one['frame_ms']:.1f}" if not number else ""
            peak = f"{row['peak']:.1f}" if not number else ""
            lines.append(
                f"| {first[0]} | {first[1]} | {precision} | {one['parity']:.0e} | {one['megabytes']:.1f} "
                f"| {one['frame_ms']:.2f} | {one['share_of_fp32_time']:.2f} | {ratio} | {peak} |"
            )
    lines += ["", f"ONNX Runtime's CPU provider, one thread, {describe().processor}."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
