"""Scripts, units and containers: what can be told of them without a board."""

import configparser
import os
import re
import subprocess
import time

import pytest
from boards import JETSON, ROOT, needs

SCRIPTS = sorted([*JETSON.rglob("*.sh"), *(ROOT / "tests" / "jetson").glob("*.sh")])
UNITS = sorted((JETSON / "units").glob("*.service"))


def test_shellcheck_is_clean():
    done = subprocess.run(
        [needs("shellcheck"), "-x", "-P", str(ROOT), *map(str, SCRIPTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_scripts_stop_at_errors_and_are_executable():
    for script in SCRIPTS:
        text = script.read_text()
        if script.parent.name == "lib" or script.name == "standins.sh":
            assert text.startswith("# shellcheck shell=bash\n"), script
        else:
            assert "\nset -euo pipefail\n" in text, script
            assert os.access(script, os.X_OK), script


def test_systemd_understands_the_units(tmp_path):
    """The programs they start lie on a board; here, anything executable stands for them."""
    verify = needs("systemd-analyze")
    for unit in UNITS:
        text = re.sub(r"/opt/edge/[a-z./-]+", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        [verify, "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def unit(name):
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=")
    parser.optionxform = str
    parser.read(JETSON / "units" / name)
    return parser


def test_the_service_is_confined_and_watched():
    service = unit("edge.service")["Service"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 10
    assert service["User"] == service["Group"] == "edge-emotion"
    assert service["ProtectSystem"] == "strict"
    assert "ReadWritePaths" not in service
    assert service["CapabilityBoundingSet"] == ""
    assert service["MemoryMax"] == "2G"
    assert service["Restart"] == "always"
    assert unit("edge.service")["Unit"]["StartLimitIntervalSec"] == "0"
    # The wait before a start must end before systemd loses patience with it.
    assert int(service["TimeoutStartSec"]) >= 60 + 90


def test_units_start_what_is_installed():
    for path in UNITS:
        for program in re.findall(
            r"^Exec\w+=[+-]*/opt/edge/(board|provisioning/jetson/board)/(\S+)", path.read_text(), re.M
        ):
            assert (JETSON / "board" / program[1]).exists(), program


def back_off(folder, what, result=None):
    environment = {"PATH": os.environ["PATH"], "RUNTIME_DIRECTORY": str(folder)}
    if result is not None:
        environment["SERVICE_RESULT"] = result
    return subprocess.run(
        [str(JETSON / "board" / "back-off.sh"), what], env=environment, capture_output=True, text=True, check=True
    )


def test_the_back_off_grows_and_forgets(tmp_path):
    began = time.monotonic()
    assert back_off(tmp_path, "before").stdout == ""
    assert time.monotonic() - began < 0.9
    back_off(tmp_path, "after", "exit-code")
    back_off(tmp_path, "after", "watchdog")
    began = time.monotonic()
    assert back_off(tmp_path, "before").stdout == "<4>failed 2 times in a row; next try in 2 s\n"
    assert time.monotonic() - began >= 2
    # A run that was long enough was none of the series.
    (tmp_path / "failures.began").write_text(str(int(time.time()) - 700))
    back_off(tmp_path, "after", "exit-code")
    assert (tmp_path / "failures").read_text() == "1\n"
    back_off(tmp_path, "after", "success")
    assert not (tmp_path / "failures").exists()


def test_who_has_the_camera_is_told(tmp_path):
    camera = tmp_path / "video0"
    camera.touch()
    script = str(JETSON / "board" / "who-has-the-camera.sh")
    with camera.open():
        done = subprocess.run([script, f"v4l2://{camera}?width=640"], capture_output=True, text=True, check=True)
    assert re.fullmatch(
        rf"<4>{camera} is open in \S+ \(pid {os.getpid()}\); if the camera is busy, stop that, .*\n", done.stdout
    )
    for source in (f"v4l2://{camera}", "csi://0", "synthetic://", "/nowhere"):
        assert subprocess.run([script, source], capture_output=True, text=True, check=True).stdout == ""


DOCKERFILES = sorted((JETSON / "container").glob("Dockerfile.*"))


def test_hadolint_is_clean():
    config = JETSON / "container" / "hadolint.yaml"
    done = subprocess.run(
        [needs("hadolint"), "--config", str(config), *map(str, DOCKERFILES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("jetpack", "ubuntu", "cuda"), [(6, "22.04", "12-6"), (7, "24.04", "13-2")])
def test_each_jetpack_has_its_own_system(jetpack, ubuntu, cuda):
    text = (JETSON / "container" / f"Dockerfile.jetpack{jetpack}").read_text()
    assert f"FROM ubuntu:{ubuntu} AS base" in text
    assert f"cuda-nvcc-{cuda} " in text
    # What the image runs as, and what it is told, is what the service does.
    for fact in re.findall(r"(?:HOME|TMPDIR)=/var/cache/edge", unit("edge.service")["Service"]["Environment"]):
        assert fact in text


def test_compose_gives_what_a_camera_the_gpu_and_a_display_need():
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((JETSON / "container" / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["runtime"] == "nvidia"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        mounts = [volume.rsplit(":", 1)[0] if volume.endswith(":ro") else volume for volume in service["volumes"]]
        assert "/tmp:/tmp" in mounts, "argus' socket and X's lie there"
        assert "/etc/edge/edge.toml:/etc/edge/edge.toml" in mounts
        assert service["devices"] == ["${CAMERA:-/dev/video0}"]
        assert ("DISPLAY" in service["environment"]) == (name == "display")
        context = (JETSON / "container" / service["build"]["context"]).resolve()
        assert context == JETSON
        for jetpack in ("6", "7"):
            assert (context / service["build"]["dockerfile"].replace("${JETPACK:-6}", jetpack)).exists()
