"""Provisioning and removal, for real, on a copy of this machine; NVIDIA's own tools alone are stand-ins."""

import os
import re
import signal
import time

import pytest
from boards import ROOT

HAS_CONFIG = (ROOT / "edge" / "config.py").exists()
needs_commands = pytest.mark.skipif(not HAS_CONFIG, reason="edge config is not there yet")
RELEASED = "/etc/nv_tegra_release"


@pytest.mark.parametrize(
    ("major", "revision", "words"),
    [
        (35, "6.1", "is JetPack 5: Python 3.8 and TensorRT 8.5"),
        (32, "7.4", "is older than JetPack 5"),
        (36, "2.0", "is a preview of JetPack 6"),
        (40, "1.0", "is not known to this version"),
        (None, "", "no Jetson Linux here"),
    ],
)
def test_a_wrong_jetpack_is_refused_with_the_reason(make_board, major, revision, words):
    board = make_board(major, revision)
    if major is None:
        board.path(RELEASED).unlink(missing_ok=True)
    done = board.provision()
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not board.path("/opt/edge").exists()


@pytest.mark.parametrize(("major", "revision", "jetpack"), [(36, "5.0", 6), (38, "4.0", 7), (39, "2.0", 7)])
def test_known_jetpacks_and_a_dry_run_that_changes_nothing(make_board, major, revision, jetpack):
    board = make_board(major, revision)
    done = board.provision("--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"Jetson Linux {major}.{revision}, JetPack {jetpack}" in done.stdout
    steps = re.findall(r"would ([^:]+):", done.stdout)
    assert len(steps) >= 10
    assert steps[0] == "make the service's user"
    assert not board.path("/opt/edge").exists()
    assert not board.path("/etc/edge").exists()
    assert board.run("getent", "passwd", "edge-emotion").returncode != 0


def test_an_old_tensorrt_is_warned_of(make_board):
    done = make_board(36, "3.0").provision("--dry-run")
    assert done.returncode == 0
    assert "TensorRT 8.6, too old for engines" in done.stderr


def test_no_wheelhouse_another_python_a_damaged_one(board):
    done = board.run(f"{board.jetson}/provision.sh", "--wheelhouse", "/nowhere")
    assert done.returncode == 2
    assert "jetson/wheelhouse.sh /nowhere" in done.stderr
    (wheel,) = board.path("/wheelhouse/wheels").glob("edge_emotion-*.whl")
    wheel.write_bytes(wheel.read_bytes()[:-1])
    done = board.provision()
    assert done.returncode == 2
    assert "/wheelhouse is damaged" in done.stderr
    for lock in board.path("/wheelhouse").glob("requirements-*"):
        lock.rename(lock.with_name("requirements-cp399.txt"))
    done = board.provision()
    assert done.returncode == 2
    assert "was not filled for cp3" in done.stderr
    assert "requirements-cp399.txt" in done.stderr


def test_no_room(board):
    board.path("/opt/edge").mkdir(exist_ok=True)
    board.run("mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", "/opt/edge")
    done = board.provision()
    board.run("umount", "-l", "/opt/edge")
    assert done.returncode == 2
    assert re.search(r"/opt/edge has 5 MiB free; expected \d+ MiB; make room", done.stderr)


def test_two_at_a_time_and_what_is_no_option(board):
    holder = board.start("flock", "/run/lock/edge-provision.lock", "sleep", "60")
    try:
        time.sleep(0.5)
        done = board.provision()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert done.returncode == 2
    assert "another run holds /run/lock/edge-provision.lock" in done.stderr
    assert "unknown argument --fast" in board.provision("--fast").stderr


INSTALLED = """
set -euo pipefail
source {jetson}/lib/say.sh; source {jetson}/lib/facts.sh; source {jetson}/lib/install.sh
make_user; install_package /wheelhouse "$(python_tag "")"; place_files "" ""
"""


def test_install_again_a_cut_in_the_middle_and_removal(board):
    """The package is really installed; a run that was killed half-way is completed by the next one."""
    install = INSTALLED.format(jetson=board.jetson)
    first = board.start("bash", "-c", install)
    versions = board.path("/opt/edge/versions")
    end = time.monotonic() + 60
    while not list(versions.glob("*/bin/python")) and time.monotonic() < end:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    first.stdout.close()
    assert list(versions.glob("*/bin/python"))
    assert not list(versions.glob("*/.complete"))
    assert not board.path("/opt/edge/current").is_symlink()

    done = board.run("bash", "-c", install)
    assert done.returncode == 0, done.stderr
    assert board.path("/opt/edge/current").is_symlink()
    # As the service's user, away from the checkout: what it finds is what was installed.
    found = board.run(
        *("runuser", "-u", "edge-emotion", "--", "env", "-C", "/", "/opt/edge/current/bin/python", "-c"),
        "import edge, cv2; print(edge.__file__)",
    )
    assert found.stdout.startswith("/opt/edge/current/"), found.stderr
    # A user's configuration stays, and nothing is installed twice.
    board.path("/etc/edge/edge.toml").write_text('source = "1"\n')
    began = time.monotonic()
    assert board.run("bash", "-c", install).returncode == 0
    assert time.monotonic() - began < 10
    assert board.path("/etc/edge/edge.toml").read_text() == 'source = "1"\n'

    for unit in ("edge.service", "edge-engines.service", "edge-power.service"):
        assert board.run("systemctl", "enable", unit).returncode == 0
    kept = board.run("/opt/edge/board/remove.sh", "--keep-config")
    assert kept.returncode == 0, kept.stderr
    assert board.path("/etc/edge/edge.toml").exists()
    done = board.run(f"{board.jetson}/remove.sh")
    assert done.returncode == 0, done.stderr
    assert "nothing is left" in done.stdout
    left = board.run("find", "/etc", "/opt", "/var/lib", "/var/cache", "/run", "-xdev", "-name", "edge*").stdout
    assert left == ""
    assert board.run("getent", "passwd", "edge-emotion").returncode != 0
    assert board.run(f"{board.jetson}/remove.sh").returncode == 0


def test_a_bundle_of_ones_own(board, face_bundle):
    import shutil

    shutil.copytree(face_bundle, board.path("/mine"))
    install = INSTALLED.format(jetson=board.jetson).replace(
        'place_files "" ""', 'mkdir -p /opt/edge; place_files "" /mine'
    )
    install = install.replace('install_package /wheelhouse "$(python_tag "")"; ', "")
    assert board.run("bash", "-c", install).returncode == 0
    assert 'bundle = "/opt/edge/bundles/mine"\n' in board.path("/etc/edge/edge.toml").read_text()
    assert board.run("bash", "-c", install).returncode == 0
    assert board.path("/etc/edge/edge.toml").read_text().count("bundle = ") == 1
    board.path("/etc/edge/edge.toml").write_text('bundle = "face"\n')
    done = board.run("bash", "-c", install)
    assert done.returncode == 2
    assert 'expected in it: bundle = "/opt/edge/bundles/mine"' in done.stderr


def test_without_cudas_compiler_the_cpu_works(board):
    """And the reason is told; nothing fails."""
    script = (
        INSTALLED.format(jetson=board.jetson)
        + 'hash -r; PATH=/usr/bin:/bin; install_gpu /wheelhouse "$(python_tag "")"'
    )
    for place in ("/usr/local/cuda", "/usr/local/bin/nvcc", "/usr/bin/nvcc"):
        board.run("rm", "-rf", place)
    done = board.run("bash", "-c", script)
    assert done.returncode == 0, done.stderr
    assert "so the CPU does the work; for the GPU type: sudo apt install" in done.stderr


@needs_commands
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_whole_of_it_without_systemd(board):
    """Everything but starting, which needs a boot (make arm64); a configuration that is mended on the way."""
    config = board.path("/tmp/mine.toml")
    config.write_text('sauce = "0"\n')
    bad = board.provision("--config", "/tmp/mine.toml")
    assert bad.returncode == 2
    assert "did you mean source?" in bad.stderr
    assert not board.path("/etc/systemd/system/multi-user.target.wants/edge.service").is_symlink()
    config.write_text('source = "synthetic://"\nbackend = "onnxruntime"\n')
    done = board.provision("--config", "/tmp/mine.toml")
    assert done.returncode == 0, done.stderr
    assert "systemd does not run here: edge.service will start when this root boots" in done.stderr
    wants = board.path("/etc/systemd/system/multi-user.target.wants")
    assert {link.name for link in wants.glob("edge*")} == {"edge.service", "edge-engines.service", "edge-power.service"}
    assert board.path("/etc/edge/edge.toml").read_text() == config.read_text()


POWER = "/etc/edge/power.conf"


def power(board, text, verb="apply"):
    board.path("/etc/edge").mkdir(exist_ok=True)
    board.path("/var/lib/edge").mkdir(exist_ok=True)
    board.path(POWER).write_text(text)
    return board.run(f"{board.jetson}/board/power.sh", verb)


def test_power_and_clocks_come_back(board):
    calls = board.path("/var/lib/nvpmodel/calls")
    done = power(board, "MODE = 15W  # quiet\nCLOCKS = fixed\n")
    assert done.returncode == 0, done.stderr
    assert calls.read_text().splitlines() == [
        "nvpmodel -m 0",
        "jetson_clocks --store /var/lib/edge/clocks.before",
        "jetson_clocks ",
    ]
    # At the next boot: what was kept is still the board's own.
    assert power(board, "MODE = 0\nCLOCKS = fixed\n").returncode == 0
    assert board.path("/var/lib/edge/mode.before").read_text() == "1\n"
    calls.unlink()
    assert power(board, "", "restore").returncode == 0
    assert calls.read_text().splitlines() == [
        "jetson_clocks --restore /var/lib/edge/clocks.before",
        "nvpmodel -m 1",
    ]
    assert not list(board.path("/var/lib/edge").iterdir())
    assert power(board, "", "restore").returncode == 0


def test_power_that_is_wrong_or_wants_a_reboot(board):
    done = power(board, "MODE = MAXN\n")
    assert done.returncode == 2
    assert "MODE = MAXN is no mode of this board; expected one of: 15W 25W MAXN_SUPER" in done.stderr
    done = power(board, "CLOCKS = high\n")
    assert done.returncode == 2
    assert "expected fixed or board" in done.stderr
    done = power(board, "MODE = MAXN_SUPER\n")
    assert done.returncode == 0
    assert "needs a reboot; type: sudo nvpmodel -m 2" in done.stderr
    assert "rebooted" not in board.path("/var/lib/nvpmodel/calls").read_text()
    board.path("/usr/sbin/nvpmodel").unlink()
    done = power(board, "MODE = 15W\n")
    assert done.returncode == 2
    assert "nvpmodel is absent" in done.stderr
    assert power(board, "# the board's own\n").returncode == 0


def build_engines(board, toml):
    board.path("/etc/edge").mkdir(exist_ok=True)
    board.path("/etc/edge/edge.toml").write_text(toml)
    return board.run(f"{board.jetson}/board/build-engines.sh")


def test_engines_are_built_where_they_are_wanted_and_can_be(board):
    tools = board.path("/opt/edge/current/bin")
    tools.mkdir(parents=True)
    (tools / "python").symlink_to("/usr/bin/python3")
    done = build_engines(board, 'backend = "onnxruntime"\n')
    assert done.returncode == 0
    assert "asks for the CPU" in done.stdout
    done = build_engines(board, 'source = "0"\n')
    assert done.returncode == 0
    assert done.stdout.startswith("<4>PyCUDA is not installed, so the CPU does the work")
    done = build_engines(board, "source = \n")
    assert done.returncode == 2
    assert "/etc/edge/edge.toml: " in done.stderr
    # With PyCUDA it is the package's own builder that is called, with the configured bundle, and that answers.
    (board.path("/opt/edge/current") / ".gpu").touch()
    done = build_engines(board, 'bundle = "/no/such/bundle"\n')
    assert done.returncode != 0
    assert "to_tensorrt" in done.stderr or "/no/such/bundle" in done.stderr
