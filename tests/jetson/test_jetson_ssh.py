"""Provisioning from the desk: a real ssh, whose other end is the board (a copy of this machine's root)."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from boards import JETSON, needs


@pytest.fixture
def reachable(board, tmp_path):
    """The board with sshd on a free port; gives ssh's options and the server."""
    sshd = needs("sshd")
    keygen = needs("ssh-keygen")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    folder = board.path("/etc/board-ssh")
    folder.mkdir()
    folder.chmod(0o700)
    (folder / "host").write_bytes((tmp_path / "host").read_bytes())
    (folder / "host").chmod(0o600)
    (folder / "keys").write_bytes((tmp_path / "user.pub").read_bytes())
    board.path("/run/sshd").mkdir(exist_ok=True)
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey /etc/board-ssh/host\nAuthorizedKeysFile /etc/board-ssh/keys\n"
        "PermitRootLogin prohibit-password\nUsePAM no\nStrictModes no\n"
    )
    server = board.start(sshd, "-D", "-e", "-f", "/etc/board-ssh/config")
    unknown = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    options = f"-p {port} -i {tmp_path / 'user'} {unknown}"
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield options, server
    gone(server, board)


def gone(server, board):
    """The board is without power: nothing answers any more, and what ran there is dead."""
    for process in Path("/proc").glob("[0-9]*"):
        # Processes end while they are looked at.
        with contextlib.suppress(OSError):
            if os.readlink(process / "root") == str(board.root):
                os.kill(int(process.name), signal.SIGKILL)
    server.wait()
    server.stdout.close()


def desk(options, *words, timeout=100):
    return subprocess.run(
        [str(JETSON / words[0]), *map(str, words[1:])],
        env={**os.environ, "EDGE_SSH_OPTIONS": options},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        check=False,
    )


PARCEL = "/root/.cache/edge-provision"


def test_a_board_that_is_not_there(wheelhouse):
    needs("ssh")
    done = desk("-p 1", "provision.sh", "--host", "root@127.0.0.1", "--wheelhouse", wheelhouse)
    assert done.returncode == 2
    assert "root@127.0.0.1 can't be reached (to ask what it is)" in done.stderr
    dry = desk("-p 1", "provision.sh", "--host", "root@127.0.0.1", "--wheelhouse", wheelhouse, "--dry-run")
    assert dry.returncode == 0
    assert "would run there: sudo .cache/edge-provision/jetson/provision.sh" in dry.stdout


def test_a_wrong_board_is_sent_nothing(reachable, board, wheelhouse):
    options, _ = reachable
    release = board.path("/etc/nv_tegra_release")
    release.write_text(release.read_text().replace("R36", "R35"))
    done = desk(options, "provision.sh", "--host", "root@127.0.0.1", "--wheelhouse", wheelhouse)
    assert done.returncode == 2
    assert "is JetPack 5" in done.stderr
    assert not board.path(PARCEL).exists()


def test_it_goes_away_half_way_and_comes_back(reachable, board, wheelhouse, tmp_path):
    """The copy is cut off: what is there is not taken for whole, and the same command completes it."""
    options, server = reachable
    ready = board.path(f"{PARCEL}/wheelhouse.partial")
    # A large file, so that there is a middle.
    big = tmp_path / "wheelhouse"
    subprocess.run(["cp", "-r", str(wheelhouse), str(big)], check=True)
    with (big / "wheels" / "zz_big-1-py3-none-any.whl").open("wb") as file:
        file.truncate(150 << 20)
    copying = subprocess.Popen(
        [str(JETSON / "provision.sh"), "--host", "root@127.0.0.1", "--wheelhouse", str(big)],
        env={**os.environ, "EDGE_SSH_OPTIONS": options},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    end = time.monotonic() + 30
    while not list(ready.rglob("*.whl")) and time.monotonic() < end:
        time.sleep(0.01)
    assert list(ready.rglob("*.whl"))
    gone(server, board)
    _, words = copying.communicate(timeout=60)
    assert copying.returncode == 2
    assert "root@127.0.0.1 can't be reached (to copy wheelhouse)" in words
    assert not board.path(f"{PARCEL}/wheelhouse").exists()

    again = board.start("/usr/sbin/sshd", "-D", "-e", "-f", "/etc/board-ssh/config")
    try:
        time.sleep(1)
        # Its own steps are other tests' work: here, a full disk ends them at once, with the board's own words.
        board.path("/opt/edge").mkdir(exist_ok=True)
        board.run("mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", "/opt/edge")
        for first in (True, False):
            done = desk(options, "provision.sh", "--host", "root@127.0.0.1", "--wheelhouse", wheelhouse)
            assert done.returncode == 2, done.stderr
            assert "/opt/edge has 5 MiB free" in done.stderr
            assert ("copying the wheelhouse" in done.stdout) == first
        assert board.path(f"{PARCEL}/wheelhouse/SHA256SUMS").exists()
        board.run("umount", "-l", "/opt/edge")
        removed = desk(options, "remove.sh", "--host", "root@127.0.0.1")
        assert removed.returncode == 0, removed.stderr
        assert "nothing is left" in removed.stdout
        assert not board.path(PARCEL).exists()
    finally:
        gone(again, board)
