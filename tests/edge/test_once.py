"""One picture, one call; and every public name has an example that runs."""

import doctest

import cv2
import numpy as np
import pytest

import edge

NAMES = {"edge": edge, "np": np}


def test_a_path_and_an_array_give_the_same(tmp_path, portrait):
    cv2.imwrite(str(tmp_path / "face.png"), portrait)
    from_path = edge.recognize(tmp_path / "face.png")
    from_array = edge.recognize(portrait)
    assert from_path.faces == from_array.faces
    (face,) = from_path.faces
    assert (face.id, face.label, face.state) == (1, "happy", edge.FaceState.OK)
    assert edge.recognize(str(tmp_path / "face.png")).faces == from_path.faces


def test_it_is_what_a_recognizer_says_of_a_picture(tmp_path, portrait):
    cv2.imwrite(str(tmp_path / "face.png"), portrait)
    with edge.Recognizer(tmp_path / "face.png") as recognizer:
        (result,) = recognizer
    assert edge.recognize(portrait).faces == result.faces


def test_no_face_is_no_statement():
    assert edge.recognize(np.full((120, 160, 3), 90, np.uint8)).faces == ()


def test_what_is_no_picture_is_refused(tmp_path, make_clip):
    with pytest.raises(edge.SourceError, match="can't be read .No such file"):
        edge.recognize(tmp_path / "none.png")
    with pytest.raises(edge.SourceError, match="not a picture that can be read"):
        edge.recognize(make_clip(5))
    with pytest.raises(edge.SourceError, match="can't be read .Is a directory"):
        edge.recognize(tmp_path)
    with pytest.raises(edge.SourceError):
        edge.recognize("a\0b")
    with pytest.raises(edge.FrameError, match="frame is a int"):
        edge.recognize(0)
    with pytest.raises(edge.FrameError, match="frame is grey"):
        edge.recognize(np.zeros((64, 64), np.uint8))
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(edge.FrameError, match=r"dot.png: frame is 2x2 pixels"):
        edge.recognize(tmp_path / "dot.png")
    with pytest.raises(edge.OptionError, match="min_face"):
        edge.recognize(np.zeros((64, 64, 3), np.uint8), min_face=3)


# -- examples ---------------------------------------------------------------------------------------------------------


def examples(text, name):
    """The doctests of a docstring."""
    return doctest.DocTestParser().get_doctest(text or "", dict(NAMES), name, None, None)


def undocumented(names, package):
    """Public names without a docstring of their own, or that no example uses that runs."""
    missing = []
    for name in names:
        own = getattr(package, name).__doc__ or ""
        running = [
            example.source
            for text in (own, package.__doc__)
            for example in examples(text, name).examples
            if not example.options.get(doctest.SKIP)
        ]
        # What dataclasses write by themselves tells nobody anything.
        if not own or own.startswith(f"{name}(") or not any(f"edge.{name}" in source for source in running):
            missing.append(name)
    return missing


def test_every_public_name_is_documented_with_an_example():
    assert undocumented(edge.__all__, edge) == []


def test_a_name_without_an_example_is_found():
    class Package:
        """Nothing.

        >>> edge.Shown
        >>> edge.Skipped  # doctest: +SKIP
        """

        class Shown:
            """With words."""

        class Skipped:
            """With words."""

        class Unshown:
            """With words."""

        class Wordless:
            pass

    assert undocumented(["Shown", "Skipped", "Unshown", "Wordless"], Package) == ["Skipped", "Unshown", "Wordless"]


@pytest.mark.parametrize("name", ["", *edge.__all__])
def test_the_examples_run(name):
    text = getattr(edge, name).__doc__ if name else edge.__doc__
    found = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(examples(text, name or "edge"), out=found.append)
    assert not runner.failures, "".join(found)


def test_the_package_says_that_it_is_typed(tmp_path):
    """A caller's misspelt name, wrong argument and wrong use of a result are found by a type checker."""
    api = pytest.importorskip("mypy.api")
    (tmp_path / "user.py").write_text(
        "import edge\n"
        "label: str | None = edge.recognize('face.jpg').faces[0].label\n"
        "wrong: int = edge.recognize('face.jpg').faces[0].label\n"
        "edge.recognise('face.jpg')\n"
        "edge.Recognizer(record=3)\n"
        "edge.Replay('run').check().upper()\n"
    )
    arguments = ["--strict", "--config-file=", "--ignore-missing-imports", f"--cache-dir={tmp_path / 'cache'}"]
    out, err, status = api.run([*arguments, "--python-version", "3.10", str(tmp_path / "user.py")])
    assert status == 1, err
    lines = {int(line.split(":")[1]) for line in out.splitlines() if "user.py" in line and ": error:" in line}
    assert lines == {3, 4, 5, 6}, out
