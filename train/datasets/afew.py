"""AFEW (Dhall et al. 2012; here the 2018 release): clips from films, seven expressions, train and validation.

``Train_AFEW/Angry/000519240.avi`` (or ``Train``) and ``Val_AFEW/...``; aligned faces, where they were unpacked, are
folders of frames named after the clip, below a label folder or in a tree of their own. The same number may name one
clip in Train and another in Val, so a sequence here carries its split.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from train.datasets.disk import Collector, find_root, folders, label_of_folder
from train.datasets.samples import PICTURE_SUFFIXES, VIDEO_SUFFIXES, Corpus, word

NAMES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
LAYOUT = "Train and Val (or Train_AFEW and Val_AFEW) with label folders of clips (Train/Angry/000519240.avi)"
_PARTS = r"(train|val)(_.*)?"


def parse(root: Path, *, aligned: bool = False) -> Corpus:
    """Parse AFEW. There are no subject ids.

    Args:
        root: the folder that holds the train and validation folders.
        aligned: the aligned faces, one sample of frames a clip; False: the clips as videos.

    Raises:
        CorpusError: not AFEW, or a label folder of another name.
    """
    root = find_root(root, "AFEW", LAYOUT, lambda folder: any(_has_labels(part) for part in folders(folder, _PARTS)))
    collector = Collector("afew", root, LAYOUT)
    for part in folders(root, _PARTS):
        split = "train" if part.name.lower().startswith("train") else "val"
        (_add_frames if aligned else _add_clips)(collector, part, split)
    for part in folders(root, r"test(_.*)?"):
        collector.skip(part, "test clips without a label")
    return collector.finish(NAMES, 773 + 383, "Saurav et al. 2020, section 4.1 (773 train, 383 validation)")


def _has_labels(part: Path) -> bool:
    return any(word(folder.name) in NAMES for folder in folders(part))


def _add_clips(collector: Collector, part: Path, split: str) -> None:
    for folder in folders(part):
        if "aligned" in folder.name.lower() or "lbptop" in folder.name.lower():
            continue  # a tree of frames beside the label folders
        label = label_of_folder(collector, folder, NAMES)
        for file in collector.videos(folder):
            collector.add(file, label, None, f"{split}/{file.stem}", split)


def _add_frames(collector: Collector, part: Path, split: str) -> None:
    frames: dict[Path, list[Path]] = defaultdict(list)
    clips: dict[str, set[str]] = defaultdict(set)
    videos: list[Path] = []
    for file in collector.files(part, (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES), "a picture or a video"):
        if file.suffix.lower() in VIDEO_SUFFIXES:
            clips[file.stem].add(label_of_folder(collector, file.parent, NAMES))
            videos.append(file)
        else:
            frames[file.parent].append(file)
    for folder, files in frames.items():
        label = word(folder.parent.name)
        if label is None:  # a tree of its own: the clip of the same number tells the label
            told = clips.get(folder.name, set())
            if len(told) != 1:
                collector.skip(folder, "clip number in several label folders" if told else "frames of no known clip")
                continue
            (label,) = told
        elif label not in NAMES:
            raise collector.unknown(folder.parent, folder.parent.name, NAMES)
        collector.add(tuple(files), label, None, f"{split}/{folder.name}", split)
    found = {folder.name for folder in frames}
    for file in videos:
        if file.stem not in found:
            collector.skip(file, "no aligned face in this clip")
