"""The smoothing's table: by hand on made answers, and on the shipped bundle's to real faces."""

import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import smoothing
from benchmarks.errors import BenchError
from edge.bundle import Bundle
from edge.smooth import Smoothing

SAID = np.eye(7, dtype=np.float32) * 6


def test_changes_and_delays_by_hand():
    """Eleven frames of one label, one of another, again: smoothing hides it; a step shows when the average turns."""
    flicker = SAID[[0] * 11 + [1] + [0] * 11]
    step = np.concatenate([SAID[[0] * smoothing.HALF], SAID[[1] * smoothing.HALF]])
    bundle = Bundle.open()
    raw = smoothing.effect([flicker], [step], bundle, smoothing.SETTINGS["none"])
    assert raw == smoothing.Effect(pytest.approx(100 * 2 / 22), (0.0,), 0)
    calm = smoothing.effect([flicker], [step], bundle, Smoothing())
    assert calm.changes == 0
    # The old label's share falls as exp(-t / 100 ms), and counts the first new frame: 0.51 after two, 0.37 after three.
    assert calm.delays_ms == pytest.approx((66.7,), abs=0.1)


def test_a_step_that_never_shows_is_counted():
    """Three frames in five say another label faintly, and two the old one loudly: its average stays ahead."""
    faint = np.zeros((5, 7), np.float32)
    faint[[0, 2, 4], 1] = 0.2
    faint[[1, 3], 0] = 6.0
    torn = np.tile(faint, (8, 1))
    found = smoothing.effect([], [np.concatenate([SAID[[0] * smoothing.HALF], torn])], Bundle.open(), Smoothing())
    assert found == smoothing.Effect(0.0, (), 1)


def test_a_face_is_shaken_as_much_as_is_said():
    face = np.zeros((48, 48), np.uint8)
    face[20:28, 20:28] = 200
    shown = np.stack(smoothing.shaken(face, 200, np.random.default_rng(0))).astype(float)
    rows, columns = np.mgrid[:48, :48]
    weights = np.where(shown > 60, shown, 0)
    middles = [(weights * axis).sum((1, 2)) / weights.sum((1, 2)) for axis in (rows, columns)]
    assert np.std(middles, axis=1) == pytest.approx([0.96, 0.96], rel=0.2), "0.02 of 48 pixels"


def test_the_table_of_the_shipped_bundle(capsys, shared):
    assert smoothing.main(["--data", str(shared / "fer2013"), "--faces", "12"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " ms" in line and "/" in line]
    assert [row[0].strip("|* ") for row in rows] == ["none", "50 ms", "100 ms", "150 ms", "200 ms", "300 ms"]
    changes = {row[0].strip("|* "): float(row[1].strip("* ")) for row in rows}
    assert changes["100 ms"] < changes["none"] / 5
    assert changes["100 ms"] <= 5


def test_a_bundle_of_other_faces_is_refused():
    with pytest.raises(BenchError, match="expected a bundle of single grey faces"):
        smoothing.measure(Bundle.open(), np.zeros((2, 64, 64), np.uint8))
    with pytest.raises(BenchError, match="names no two of 2 faces clearly and unlike"):
        smoothing.measure(Bundle.open(), np.zeros((2, 48, 48), np.uint8))


def test_bad_options(tmp_path, capsys):
    assert smoothing.main(["--data", str(tmp_path)]) == 2
    assert "FER2013" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        smoothing.main(["--faces", "1"])
