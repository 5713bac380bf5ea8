"""MMI (Pantic et al. 2005, Valstar and Pantic 2010): sessions of video or stills, some with an expression.

``Sessions/<n>/S001-001.avi`` with ``S001-001.xml`` (``<Metatag Name="Emotion" Value="n"/>``) and ``session.xml``
(``<track view="n"/>``: 0 is frontal, 2 shows the front and the profile in one frame). Most sessions are annotated for
action units only. What the numbers stand for is not published where we could find it: the user writes it down in
``codes.csv``, from the documentation that comes with the licence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from train.datasets.disk import CODES_FORM, Collector, find_file, find_root, folders, read_codes
from train.datasets.errors import CorpusError
from train.datasets.samples import BASIC, PICTURE_SUFFIXES, VIDEO_SUFFIXES, WORDS, Corpus

LAYOUT = "Sessions/<number>/S001-001.avi with S001-001.xml and session.xml"
_FORM = re.compile(r"(?P<subject>S\d+)-\d+.*", re.IGNORECASE)
_MAP = f'{CODES_FORM} in the folder of Sessions, with the numbers that <Metatag Name="Emotion"> has in your copy'


def parse(root: Path, *, codes: Mapping[str, str] | Path | None = None) -> Corpus:
    """Parse MMI's sessions that have an expression; facts are ``session`` and ``view``.

    Args:
        root: the folder that holds ``Sessions``, or ``Sessions`` itself.
        codes: emotion number to label, or the file that holds it; None: ``codes.csv`` or ``codes.json`` in the root.
            A number with an empty label is left out.

    Raises:
        CorpusError: not MMI, no code map, or a number that is not in it.
    """
    root = find_root(root, "MMI", LAYOUT, lambda folder: bool(folders(folder, "sessions")), _has_sessions)
    found = folders(root, "sessions")
    sessions = found[0] if found else root
    known = read_codes("mmi", root, codes)
    if known is None:
        raise CorpusError(f"{root}: MMI's emotion numbers are not guessed; expected a code map; write {_MAP}")
    collector = Collector("mmi", root, LAYOUT)
    for session in folders(sessions, r"\d+"):
        _add(collector, session, known)
    for other in folders(sessions):
        if not other.name.isdecimal():
            collector.skip(other, "not a session's number")
    used = set(known.values())
    names = tuple(name for name in WORDS if name in used)
    if set(names) <= set(BASIC):
        return collector.finish(names, 213, "Zhang et al. 2019, section IV-A (213 sequences of 30 subjects)")
    return collector.finish(names, None, "213 is for the six basic expressions")


def _has_sessions(folder: Path) -> bool:
    return any(True for session in folders(folder, r"\d+") if any(session.glob("*.[xX][mM][lL]")))


def _add(collector: Collector, session: Path, known: Mapping[str, str]) -> None:
    view = _attribute(collector, find_file(session, r"session\.xml"), "track", "view")
    for file in collector.files(session, (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES, ".xml"), "a picture or a video"):
        if file.suffix.lower() == ".xml":
            continue
        match = _FORM.fullmatch(file.stem)
        if match is None:
            collector.skip(file, "name is not SUBJECT-NUMBER")
            continue
        annotation = find_file(file.parent, re.escape(file.stem) + r"\.xml")
        code = _attribute(collector, annotation, "Metatag", "Value", Name="Emotion")
        if code is None:
            collector.skip(file, "no emotion in its XML (action units only)" if annotation else "no XML")
            continue
        label = known.get(code.strip().lower())
        if label is None:
            codes = (f"{key} {name or '(left out)'}" for key, name in known.items())
            raise collector.unknown(annotation or file, code, codes, f"add it to {_MAP}")
        if label == "":
            collector.skip(file, f"emotion {code} left out by the code map")
            continue
        facts = (("session", session.name), *((("view", view),) if view is not None else ()))
        collector.add(file, label, match["subject"].upper(), file.stem.upper(), facts=facts)


def _attribute(collector: Collector, file: Path | None, tag: str, attribute: str, **where: str) -> str | None:
    """The attribute of the first element of this tag, with or without a namespace, or None."""
    if file is None:
        return None
    try:
        tree = ElementTree.parse(file)
    except ElementTree.ParseError:
        collector.skip(file, "damaged XML")
        return None
    for element in tree.iter():
        name = element.tag.rpartition("}")[2].lower()
        if name == tag.lower() and all(element.get(key) == value for key, value in where.items()):
            return element.get(attribute)
    return None
