"""Finished crops cut once more, as the robot would cut them: by the eyes that its own detector and landmarks find.

A corpus of crops shows each face where its own maker's detector put it. On the robot the crop comes from two eyes that
were found, which for a turned or expressive head is another cut. A network that has seen both reads both.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edge.bundle import InputSpec
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import DEFAULT_MODEL, Landmarks
from edge.preprocess import face_crop
from train.arrays import read_arrays, write_arrays
from train.datasets.errors import CorpusError
from train.examples import Examples
from train.prepare import MIN_FACE

ENLARGED = 3
"""A crop of 48 pixels becomes a face of 144, large enough for the detector."""

GREY = 128
"""Level of what is put around it, half its side wide, so that a face that fills its crop can be found."""

VERSION = 1
"""Part of the result's key: raise it when the same pictures would be cut otherwise."""

PIECE = 256
"""Pictures that a process takes at a time."""

Pixels = npt.NDArray[np.uint8]


def recut(examples: Examples, spec: InputSpec, cache: Path, *, workers: int = 0, progress: bool = True) -> Examples:
    """Each crop in which exactly one face is found, as the robot would have cut it.

    Args:
        examples: finished grey crops of ``spec``'s size.
        spec: the network's input: how the robot cuts.
        cache: folder to keep the result in; made where missing.
        workers: processes; 0 is one a core.
        progress: show a bar, on a terminal.

    Returns:
        Copies, not ``originals``, of the pictures with a face, in their order: labels, sequences and all else theirs.

    Raises:
        CorpusError: no face is found in any of them.
    """
    pixels = examples.arrays[spec.name]
    how = json.dumps([VERSION, ENLARGED, GREY, MIN_FACE, DEFAULT_MODEL, asdict(spec)]).encode()
    file = cache / f"recut-{hashlib.sha256(how + np.ascontiguousarray(pixels).tobytes()).hexdigest()[:32]}.npz"
    kept = read_arrays(file)
    if kept is None or set(kept) != {"found", "crops"}:
        cut = _cut(pixels, spec, workers or len(os.sched_getaffinity(0)), progress)
        found = np.flatnonzero([one is not None for one in cut])
        those = [one for one in cut if one is not None]
        kept = {"found": found, "crops": np.stack(those) if those else pixels[:0]}
        write_arrays(file, kept)
    found, crops = np.asarray(kept["found"], np.int64), np.asarray(kept["crops"], np.uint8)
    if not len(found):
        raise CorpusError(
            f"{examples.corpus}: one face is found in none of {len(pixels):,} crops; expected crops of frontal faces; "
            "leave --recut out"
        )
    return replace(examples.subset(found), arrays={spec.name: crops}, originals=np.zeros(len(found), bool))


def _cut(pixels: Pixels, spec: InputSpec, workers: int, progress: bool) -> list[Pixels | None]:
    pieces = [pixels[start : start + PIECE] for start in range(0, len(pixels), PIECE)]
    bar = tqdm(total=len(pixels), desc="recut", leave=False, disable=None if progress else True)
    cut: list[Pixels | None] = []
    with bar, ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for done in pool.map(_piece, pieces, repeat(spec)):
            cut += done
            bar.update(len(done))
    return cut


@lru_cache(maxsize=1)
def _models() -> tuple[FaceDetector, Landmarks]:
    """Once for each process."""
    return FaceDetector(MIN_FACE), Landmarks(DEFAULT_MODEL)


def _piece(pixels: Pixels, spec: InputSpec) -> list[Pixels | None]:
    detector, landmarks = _models()
    done: list[Pixels | None] = []
    for crop in pixels:
        size = ENLARGED * crop.shape[1], ENLARGED * crop.shape[0]
        margin = size[0] // 2
        enlarged = cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC)
        grey = np.asarray(cv2.copyMakeBorder(enlarged, *(margin,) * 4, cv2.BORDER_CONSTANT, value=(GREY,)), np.uint8)
        faces = detector.find(grey)
        if len(faces) != 1:
            done.append(None)
            continue
        eyes = landmarks.eyes(landmarks.points(grey, faces[0].box))
        picture = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
        try:
            done.append(face_crop(picture, eyes, spec))
        except ValueError:  # two eyes in one place: no face that could be read
            done.append(None)
    return done
