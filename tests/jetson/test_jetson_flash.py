"""Flashing: the real scripts over a tree like NVIDIA's, whose two tools are stand-ins."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from boards import JETSON, shell

SMALL = {"EDGE_FLASH_ROOM_MIB": "1"}


@pytest.fixture
def tree(tmp_path):
    """Linux_for_Tegra of JetPack 6.2, with an almost empty root file system."""
    l4t = tmp_path / "Linux_for_Tegra"
    release(l4t, 36, "4.4")
    (l4t / "rootfs" / "usr" / "bin").mkdir(parents=True)
    (l4t / "rootfs" / "usr" / "bin" / "python3").symlink_to(f"python3.{sys.version_info.minor}")
    (l4t / "rootfs" / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/bash\n")
    return l4t


def release(l4t, major, revision):
    done = shell(f"standin_tree {l4t}; standin_release {l4t}/rootfs {major} {revision}")
    assert done.returncode == 0, done.stderr


def flash(*words, **environment):
    return subprocess.run(
        [str(JETSON / "flash.sh"), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, **SMALL, **environment},
        timeout=60,
        check=False,
    )


def usb(tmp_path, *products):
    """A sysfs with these boards in recovery mode."""
    for number, product in enumerate(products):
        device = tmp_path / "usb" / f"1-{number}"
        device.mkdir(parents=True)
        (device / "idVendor").write_text("0955\n")
        (device / "idProduct").write_text(f"{product}\n")
    return str(tmp_path / "usb")


def as_root():
    if os.geteuid() != 0:
        pytest.skip("flashing needs root")


@pytest.mark.parametrize(
    ("board", "release_", "called"),
    [
        ("orin-nano", (36, "4.4"), "[--external-device] [nvme0n1p1]"),
        ("orin-nx", (39, "2.0"), "[-p] [-c bootloader/generic/cfg/flash_t234_qspi.xml]"),
        ("agx-orin", (36, "4.4"), "[--showlogs] [--network] [usb0] [jetson-agx-orin-devkit] [internal]"),
        ("agx-thor", (38, "4.0"), "[--showlogs] [--network] [usb0] [jetson-agx-thor-devkit] [internal]"),
    ],
)
def test_a_board_is_prepared_and_flashed(tree, wheelhouse, tmp_path, board, release_, called):
    as_root()
    release(tree, *release_)
    product = {"orin-nano": "7523", "orin-nx": "7323", "agx-orin": "7023", "agx-thor": "7026"}[board]
    done = flash(board, "--l4t", tree, "--wheelhouse", wheelhouse, EDGE_USB_DEVICES=usb(tmp_path, product))
    assert done.returncode == 0, done.stderr
    user, tool = (tree / "calls").read_text().splitlines()
    password = re.search(r"the password of robot is (\S{12,})", done.stdout).group(1)
    assert user == f"l4t_create_default_user.sh -u robot -p {password} -n edge --accept-license"
    assert called in tool
    assert tool.endswith("[internal]")
    payload = tree / "rootfs/opt/edge/provisioning"
    assert (payload / "name-prefix").read_text() == "edge\n"
    assert (payload / "wheelhouse/SHA256SUMS").read_bytes() == (wheelhouse / "SHA256SUMS").read_bytes()
    for script in ("jetson/provision.sh", "jetson/board/first-boot.sh"):
        assert os.access(payload / script, os.X_OK)
    wants = tree / "rootfs/etc/systemd/system/multi-user.target.wants/edge-first-boot.service"
    assert os.readlink(wants) == "/etc/systemd/system/edge-first-boot.service"
    assert (tree / "rootfs/etc/systemd/system/edge-first-boot.service").exists()
    # Again: the user stays as it is, the payload is laid anew.
    (payload / "wheelhouse/SHA256SUMS").unlink()
    again = flash(board, "--l4t", tree, "--wheelhouse", wheelhouse, "--prepare-only")
    assert again.returncode == 0, again.stderr
    assert "the user robot is there already" in again.stdout
    assert (payload / "wheelhouse/SHA256SUMS").exists()


def test_many_boards_get_one_image(tree, wheelhouse, tmp_path):
    as_root()
    words = ("orin-nano", "--l4t", tree, "--wheelhouse", wheelhouse, "--boards", "3", "--name", "cell-7", "--no-user")
    sysfs = usb(tmp_path, "7523", "7523")
    few = flash(*words, EDGE_USB_DEVICES=sysfs)
    assert few.returncode == 2
    assert "2 of 3 boards (orin-nano) wait in recovery mode" in few.stderr
    usb(tmp_path / "more", "7523")
    (tmp_path / "more/usb/1-0").rename(tmp_path / "usb/1-9")
    done = flash(*words, EDGE_USB_DEVICES=sysfs)
    assert done.returncode == 0, done.stderr
    first, second = (tree / "calls").read_text().splitlines()
    assert first.startswith("l4t_initrd_flash.sh [--no-flash] [--massflash] [3] [--external-device]")
    assert second == "l4t_initrd_flash.sh [--flash-only] [--massflash] [3] [--showlogs] [--network] [usb0]"
    assert (tree / "rootfs/opt/edge/provisioning/name-prefix").read_text() == "cell-7\n"


def test_a_dry_run_tells_all_and_does_nothing(tree, wheelhouse):
    before = sorted(tree.rglob("*"))
    done = flash("orin-nano-super", "--l4t", tree, "--wheelhouse", wheelhouse, "--dry-run", "--boards", "2")
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^flash.sh: would ", done.stdout, re.MULTILINE)) == 5
    assert "jetson-orin-nano-devkit-super internal" in done.stdout
    assert sorted(tree.rglob("*")) == before


@pytest.mark.parametrize(
    ("spoil", "words", "message"),
    [
        ("", ["jetson-nano"], "unknown board jetson-nano; expected one of: orin-nano"),
        ("", [], "which board?"),
        ("", ["orin-nano", "--name", "Robot_1"], "expected a host name's beginning"),
        ("", ["orin-nano", "--boards", "many"], "expected 1 to 99"),
        ("", ["orin-nano", "--user", "edge-emotion"], "is the service's own"),
        ("", ["orin-nano", "--bundle", "/tmp"], "no bundle's folder"),
        ("", ["agx-thor"], "is for Orin alone; expected 38 or 39"),
        ("rm tools/kernel_flash/l4t_initrd_flash.sh", ["orin-nano"], "is no Linux_for_Tegra"),
        ("rm -r rootfs", ["orin-nano"], "rootfs is empty; unpack NVIDIA's"),
        ("rm rootfs/etc/nv_tegra_release", ["orin-nano"], "sudo ./apply_binaries.sh"),
        ("rm jetson-agx-orin-devkit.conf", ["agx-orin"], "has no jetson-agx-orin-devkit.conf"),
        ("ln -sfn python3.8 rootfs/usr/bin/python3", ["orin-nano"], "was not filled for cp38"),
        ("sed -i 's/R36/R35/' rootfs/etc/nv_tegra_release", ["orin-nano"], "is JetPack 5"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(tree, wheelhouse, spoil, words, message):
    subprocess.run(["bash", "-c", spoil], cwd=tree, check=True)
    done = flash(*words, "--l4t", tree, "--wheelhouse", wheelhouse)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tree / "calls").exists()
    assert not (tree / "rootfs/opt/edge").exists()


def test_no_room_and_a_board_that_goes_away(tree, wheelhouse, tmp_path):
    as_root()
    words = ("agx-orin", "--l4t", tree, "--wheelhouse", wheelhouse, "--no-user")
    full = flash(*words, EDGE_FLASH_ROOM_MIB="999999999")
    assert full.returncode == 2
    assert "make room" in full.stderr
    (tree / "flash-fails").touch()
    sysfs = usb(tmp_path, "7023")
    gone = flash(*words, EDGE_USB_DEVICES=sysfs)
    assert gone.returncode == 2
    assert "put the board into recovery mode, try another cable" in gone.stderr
    (tree / "flash-fails").unlink()
    assert flash(*words, EDGE_USB_DEVICES=sysfs).returncode == 0


def test_the_first_boot_names_the_board(board, wheelhouse):
    """Its name comes from the device tree's serial number; a second run does not name it twice."""
    script = f"""
        source {board.jetson}/lib/say.sh; source {board.jetson}/lib/facts.sh
        give_name() {{ :; }}
        eval "$(sed -n '/^give_name/,/^}}/p' {board.jetson}/board/first-boot.sh)"
        hostname() {{ :; }}
        give_name cell; give_name cell
    """
    done = board.run("bash", "-euc", script, EDGE_DEVICE_TREE="/opt/device-tree")
    assert done.returncode == 0, done.stderr
    assert board.path("/etc/hostname").read_text() == "cell-1421122334455\n"
    assert board.path("/etc/hosts").read_text().count("cell-1421122334455") == 1
    assert "no serial number" in board.run("bash", "-euc", script, EDGE_DEVICE_TREE="/nowhere").stderr


def test_the_payload_is_whole_or_absent(tree, wheelhouse):
    """Killed while it copies, it leaves nothing that the first boot would take for a payload."""
    as_root()
    os.mkfifo(wheelhouse.parent / "never")  # a bundle's file that never ends
    bundle = Path(wheelhouse.parent / "stuck")
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    (wheelhouse.parent / "never").rename(bundle / "never")
    words = [
        str(JETSON / "flash.sh"),
        "agx-orin",
        "--l4t",
        str(tree),
        "--wheelhouse",
        str(wheelhouse),
        "--prepare-only",
    ]
    copying = subprocess.run(
        ["timeout", "-s", "KILL", "4", *words, "--bundle", str(bundle)],
        env={**os.environ, **SMALL},
        capture_output=True,
        check=False,
    )
    # cp copies a FIFO as one, so the run may also have ended well: then the payload is whole.
    payload = tree / "rootfs/opt/edge/provisioning"
    assert payload.exists() == (copying.returncode == 0)
