"""How often one recogniser is right on labelled crops, in this very process: started by benchmarks.peers.

``python crops.py ADAPTER MODE CROPS.npz OUT``

Runs in a rival's own environment: needs the standard library, NumPy and OpenCV alone, and whatever the adapter imports.
``CROPS.npz`` holds ``x`` uint8 (N, H, W), ``y`` (N,) and ``names``. A crop shows a face and little else, in which no
finder of faces finds one: each is enlarged and set into a picture of SIDE x SIDE, its border repeated and blurred.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

# The folder of run.py, which a process that is started by its file does not know.
sys.path.insert(0, str(Path(__file__).parent / "rivals"))

SIDE, FACE = 320, 160
"""Pixels: the picture and the crop in its middle."""

SAME = {"anger": "angry", "disgusted": "disgust", "fearful": "fear", "scared": "fear", "happiness": "happy"}
SAME |= {"sadness": "sad", "surprised": "surprise"}
"""Other words for the same expressions."""


def scene(crop: Any) -> Any:
    """A picture with the crop in it: BGR uint8 (SIDE, SIDE, 3)."""
    large = cv2.resize(crop, (FACE, FACE), interpolation=cv2.INTER_CUBIC)
    edge = (SIDE - FACE) // 2
    picture = cv2.copyMakeBorder(large, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    picture = cv2.GaussianBlur(picture, (0, 0), 6)
    picture[edge : edge + FACE, edge : edge + FACE] = large
    return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)


def word(label: object) -> str:
    """A label in this project's words."""
    said = str(label).strip().lower()
    return SAME.get(said, said)


def labels_of(module: Any, mode: str, pictures: Sequence[Any]) -> list[str | None]:
    """What a recogniser calls the largest face of each picture; None where it finds none.

    A module that takes pictures to follow one another may have ``apart(mode, pictures)`` for those that do not.
    """
    apart: Callable[[str, Sequence[Any]], Any] | None = getattr(module, "apart", None)
    if apart is not None:
        found = apart(mode, pictures)
    else:
        peer = module.Peer(mode)
        found = (peer.look(picture) for picture in pictures)
    said: list[str | None] = []
    for faces in found:
        largest = max(faces, key=lambda face: face[1][2] * face[1][3], default=(None, None))
        said.append(None if largest[0] is None else word(largest[0]))
    return said


def main(arguments: list[str]) -> None:
    """Run from the command line."""
    from run import load

    adapter, mode, crops, out = arguments
    with np.load(crops, allow_pickle=False) as stored:
        pixels, codes, names = stored["x"], stored["y"], [str(name) for name in stored["names"]]
    said = labels_of(load(adapter), mode, [scene(crop) for crop in pixels])
    Path(out).write_text(json.dumps({"said": said, "truth": [names[code] for code in codes]}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
