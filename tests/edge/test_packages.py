"""What is not installed is named, with what to type."""

import importlib.util
import sys

import pytest

import edge
from edge.device import describe
from edge.doctor import screen
from edge.engine import open_engine
from edge.faces.detect import FaceDetector
from edge.faces.landmarks import Landmarks, model_path


def test_no_dlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(edge.MissingPackageError, match="type: pip install dlib-bin"):
        FaceDetector()
    with pytest.raises(edge.MissingPackageError, match="type: pip install dlib-bin"):
        Landmarks()


def test_no_onnxruntime(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(edge.MissingPackageError, match="type: pip install onnxruntime"):
        open_engine(edge.Bundle.open())
    report, usable = screen()
    assert not usable
    assert "NO  backend onnxruntime: this backend needs onnxruntime; type: pip install onnxruntime" in report


def test_no_landmark_models(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "face_recognition_models" else find(name, *rest),
    )
    with pytest.raises(edge.MissingPackageError, match="type: pip install face_recognition_models"):
        model_path("68")


def test_the_landmark_package_is_never_imported(portrait):
    """Importing it needs pkg_resources, which newer setuptools no longer ship."""
    with edge.Recognizer() as recognizer:
        assert recognizer.process(portrait).faces
    assert "face_recognition_models" not in sys.modules


def test_the_machine_is_described():
    machine = describe()
    assert machine.cores >= 1
    assert machine.python.startswith("3.")
    assert machine.packages["onnxruntime"]
    assert machine.packages["dlib"]
