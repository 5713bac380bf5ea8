"""Artefacts flow train -> export -> edge, imports the other way; inside edge data flows one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("edge", "train", "export", "benchmarks", "jetson")
MAY_IMPORT = {
    "edge": set(),
    "train": {"edge"},
    "export": {"edge", "train"},
    "benchmarks": {"edge", "train", "export"},
    "jetson": {"edge"},
}
NEVER_IN_EDGE = {"torch", "onnx", "onnxscript", "sklearn", "scipy", "lightning_fabric", "matplotlib", "pandas"}
# Stages don't know each other; pipeline.py joins them.
STAGES = (
    "camera",
    "faces.detect",
    "faces.landmarks",
    "faces.track",
    "preprocess",
    "flow",
    "engine",
    "smooth",
    "outputs",
)
JOINERS = {"pipeline", "window", "recognizer", "check", "doctor", "__main__"}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", [room for room in ROOMS if (ROOT / room).is_dir()])
def test_rooms_import_in_one_direction(room):
    for path in files(room):
        rooms = {name.split(".")[0] for name in imports_of(path)} & set(ROOMS)
        assert rooms <= MAY_IMPORT[room] | {room}, f"{path} imports {rooms}"


def test_edge_needs_nothing_of_the_desktop():
    for path in files("edge"):
        tops = {name.split(".")[0] for name in imports_of(path)}
        assert not tops & NEVER_IN_EDGE, f"{path} imports {tops & NEVER_IN_EDGE}"


def test_no_stage_imports_another():
    def stage_of(module: str) -> str | None:
        return next((s for s in STAGES if module == f"edge.{s}" or module.startswith(f"edge.{s}.")), None)

    for path in files("edge"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        own = stage_of(module)
        if own is None:
            continue
        others = {stage_of(name) for name in imports_of(path)} - {own, None}
        assert not others, f"{path} imports the stage {others}"


def test_only_joiners_see_several_stages():
    for path in files("edge"):
        if path.stem in JOINERS or path.parent.name != "edge":
            continue
        seen = {s for s in STAGES for name in imports_of(path) if name == f"edge.{s}"}
        assert len(seen) <= 1, f"{path} joins {seen}; that is pipeline.py's job"


def test_importing_edge_is_light():
    code = (
        "import sys, edge; heavy = {'dlib', 'onnxruntime', 'cv2', 'numpy', 'torch'} & set(sys.modules); "
        "assert not heavy, heavy; assert 'Recognizer' in dir(edge)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_public_name_is_there():
    import edge

    for name in edge.__all__:
        assert getattr(edge, name) is not None
    with pytest.raises(AttributeError, match="Recogniser"):
        _ = edge.Recogniser
