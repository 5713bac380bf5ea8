"""jetson/ros2: the node's own code, and the package as colcon would find it."""

import ast
import importlib.util
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="pip install rosbags")

from ros_standin import STORE, install

from edge.outputs.rosmessages import Encoder, Expression, Header, Ids, Region
from edge.synthetic import SyntheticSource

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "jetson" / "ros2"


@pytest.fixture
def ros(monkeypatch):
    """The stand-in, in place before the package is imported."""

    def begin(**parameters):
        return install(monkeypatch, parameters)

    monkeypatch.syspath_prepend(str(PACKAGE))
    yield begin
    for name in [name for name in sys.modules if name.startswith("edge_ros2")]:
        del sys.modules[name]


def image(picture, stamp_ns=0, encoding="bgr8", padding=0):
    height, width = picture.shape[:2]
    rows = picture.reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="head_camera")
    fields = {"height": height, "width": width, "encoding": encoding, "is_bigendian": 0, "step": rows.shape[1]}
    return types["sensor_msgs/msg/Image"](header=header, data=rows.reshape(-1).copy(), **fields)


def test_a_source_of_its_own(ros):
    heard = ros(source="synthetic://?frames=60", frame_id="eyes")
    from edge_ros2.node import main

    assert main() == 0
    tracked = heard.heard["/humans/faces/tracked"]
    assert len(tracked) == 61
    (name,) = tracked[30].ids
    assert tracked[-1].ids == []
    said = heard.heard[f"/humans/faces/{name}/expression"]
    assert {each.expression for each in said} == {"happy"}
    assert all(each.header.frame_id == "eyes" and np.isnan(each.valence) for each in said)
    assert len(heard.heard[f"/humans/faces/{name}/roi"]) > len(said) > 20
    advertised = [topic for what, topic in heard.events if what == "advertised"]
    withdrawn = [topic for what, topic in heard.events if what == "withdrawn"]
    assert sorted([*advertised, "edge"]) == sorted(withdrawn)
    assert not heard.running


def test_pictures_of_another_node(ros):
    heard = ros()
    from edge_ros2.node import main

    camera, begun_ns = SyntheticSource(), 1_795_000_000 * 10**9
    for number in range(30):
        rgb = np.ascontiguousarray(camera.picture(number / 30)[:, :, ::-1])
        heard.send("image", image(rgb, begun_ns + number * 33_333_333, "rgb8", padding=8))
    heard.send("image", image(np.zeros((4, 4, 2), np.uint8), begun_ns, "yuv422"))
    heard.send("image", image(camera.picture(0), begun_ns))
    heard.send(None, None)
    assert main() == 0
    tracked = heard.heard["/humans/faces/tracked"]
    (before,), (after,) = tracked[29].ids, tracked[31].ids
    assert before != after, "time went back: nobody is known from before"
    assert tracked[29].header.stamp.sec == 1_795_000_000
    assert tracked[29].header.frame_id == "head_camera"
    assert {each.expression for each in heard.heard[f"/humans/faces/{before}/expression"]} == {"happy"}
    levels = [level for level, _ in heard.logged]
    assert levels == ["error", "warning"]
    assert "encoding 'yuv422' is not understood" in heard.logged[0][1]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({"source": "nowhere.mp4"}, "no such file or folder"), ({"landmarks": "7"}, "68")],
)
def test_what_edge_refuses(ros, parameters, expected, capfd):
    heard = ros(**parameters)
    from edge_ros2.node import main

    assert main() == 2
    assert expected in capfd.readouterr().out
    assert not heard.running


def test_a_source_that_breaks(ros, make_clip, tmp_path):
    data = make_clip(60, "clip.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    heard = ros(source=str(tmp_path / "half.avi"))
    from edge_ros2.node import main

    assert main() == 2
    assert heard.logged[0][0] == "fatal"
    assert "truncated" in heard.logged[0][1]


def test_pictures_in_every_encoding(ros):
    ros()
    from edge_ros2.images import CHANNELS, to_bgr

    random = np.random.default_rng(0)
    for encoding, channels in CHANNELS.items():
        picture = random.integers(0, 256, (20, 30, channels), np.uint8)
        for padding in (0, 5):
            given = to_bgr(image(picture, encoding=encoding, padding=padding))
            blue = {"rgb8": 2, "rgba8": 2}.get(encoding, 0)
            assert given.shape == (20, 30, 3)
            assert given.flags.c_contiguous
            assert np.array_equal(given[:, :, 0], picture[:, :, blue])
            assert np.array_equal(given[:, :, 1], picture[:, :, min(1, channels - 1)])
    short = image(np.zeros((20, 30, 3), np.uint8))
    short.height = 21
    with pytest.raises(ValueError, match="30x21 bgr8 with rows of 90 bytes is more than 1800 bytes"):
        to_bgr(short)


def test_the_node_says_the_same_bytes(ros):
    ros()
    from edge_ros2.carrier import to_ros

    header = Header(12 * 10**9 + 34, "camera")
    for message in (
        Expression(header, "happy", 0.5, -0.25, 0.875),
        Region(header, 0.1, 0.2, 0.3, 0.4, 1.0),
        Ids(header, ("f1", "f2")),
    ):
        made = to_ros(message)
        assert bytes(STORE.serialize_cdr(made, made.__msgtype__)) == Encoder().encode(message)


def test_the_package_is_one(tmp_path):
    # Only looked for: importing it after somebody has imported distutils fails.
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is absent")
    manifest = ElementTree.parse(PACKAGE / "package.xml").getroot()
    assert manifest.findtext("name") == "edge_ros2"
    assert manifest.find("export/build_type").text == "ament_python"
    assert (PACKAGE / "resource" / "edge_ros2").is_file()
    said = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "--name", "--version"],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ["edge_ros2", manifest.findtext("version")]
    depends = {each.text for each in manifest.findall("exec_depend")}
    own = {"edge", "edge_ros2", "numpy"}
    for path in PACKAGE.rglob("*.py"):
        if path.name == "setup.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
                tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"__future__"}
                assert tops <= depends | own, path
    parameters = (PACKAGE / "config" / "faces.yaml").read_text()
    from ruamel.yaml import YAML

    said = YAML(typ="safe").load(parameters)["edge"]["ros__parameters"]
    tree = ast.parse((PACKAGE / "edge_ros2" / "node.py").read_text())
    (defaults,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "PARAMETERS"
    )
    assert said == ast.literal_eval(defaults)
