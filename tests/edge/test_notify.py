"""The service's side: systemd is told by the loop itself, the journal how grave a line is; a camera has one watcher."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import edge
from edge import claim, service
from edge.__main__ import main
from edge.outputs.notifier import Notifier
from edge.types import Frame, Result

ROOT = Path(__file__).resolve().parent.parent.parent


class Manager:
    """systemd's end of the socket."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(10)

    def next(self):
        return self.socket.recv(4096).decode().splitlines()

    def until_stopping(self):
        told = [self.next()]
        while told[-1][0] != "STOPPING=1":
            told.append(self.next())
        return told

    def waiting(self, seconds=0.0):
        """What came, and comes within a time: systemd reads at once, and a socket holds ten datagrams alone."""
        told, until = [], time.monotonic() + seconds
        while True:
            self.socket.settimeout(max(0.0, until - time.monotonic()))
            try:
                told.append(self.socket.recv(4096).decode().splitlines())
            except (BlockingIOError, TimeoutError):
                return told


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = f"edge-test-{os.getpid()}-{time.monotonic_ns()}"
    told = Manager(str(tmp_path / "notify") if request.param == "path" else f"\0{name}")
    told.name = str(tmp_path / "notify") if request.param == "path" else f"@{name}"
    yield told
    told.socket.close()


def test_a_run_tells_its_life(manager, monkeypatch, capfd):
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    told = []
    listener = threading.Thread(target=lambda: told.extend(manager.until_stopping()))
    listener.start()
    assert main(["run", "synthetic://?frames=150"]) == 0
    listener.join(10)
    assert told[0] == ["STATUS=opened; the first result is awaited"]
    assert told[1][:2] == ["READY=1", "WATCHDOG=1"]
    assert told[1][2].startswith("STATUS=")
    assert told[1][2].endswith("dropped 0")
    assert told[-1] == ["STOPPING=1", "STATUS=ended"]
    assert sum("READY=1" in each for each in told) == 1
    assert sum("WATCHDOG=1" in each for each in told) >= 3


def test_a_loop_that_is_stuck_says_nothing(manager, monkeypatch, tmp_path):
    """An output that hangs in the middle: no sign of life comes any more, and systemd would start it again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    environment = {**os.environ, "NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "200000", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "edge", "run", "synthetic://?frames=100000"]
    process = subprocess.Popen([*command, "--jsonl", str(pipe)], env=environment, stdout=subprocess.DEVNULL)
    try:
        reader = os.open(pipe, os.O_RDONLY)
        assert manager.next() == ["STATUS=opened; the first result is awaited"]
        lines = manager.next()
        assert lines[:2] == ["READY=1", "WATCHDOG=1"]
        while any("WATCHDOG=1" in each for each in manager.waiting(1.0)):
            pass  # until the pipe, which nobody reads, is full
        assert process.poll() is None, "alive, and stuck"
        os.read(reader, 1 << 20)
        assert any("WATCHDOG=1" in each for each in manager.waiting(1.0)), "it goes on once somebody reads"
        os.close(reader)
    finally:
        process.kill()
        process.wait()


def test_what_systemd_could_not_take_is_sent_again(manager):
    """A socket holds ten datagrams: a READY=1 that is lost would be waited for until the start's time limit."""
    environment = {"NOTIFY_SOCKET": manager.name}
    while service.notify("X=1", environment):
        pass
    notifier = Notifier(environment=environment)
    frame, result = Frame(0, 0, None), Result(0, 0, (), {})
    notifier.write(frame, result)
    assert "READY=1" not in str(manager.waiting())
    notifier.write(frame, result)
    notifier.write(frame, result)
    assert str(manager.waiting()).count("READY=1") == 1


def test_why_it_failed_is_its_status(manager, monkeypatch, capfd):
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    assert main(["run", "nowhere.mp4"]) == 2
    (told,) = manager.waiting()
    assert told[0].startswith("STATUS=nowhere.mp4: no such file or folder")


def test_nobody_listens(tmp_path, monkeypatch, capfd):
    assert not service.notify("READY=1", {})
    assert not service.notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert not service.notify("READY=1", {"NOTIFY_SOCKET": "vsock:2:1"})
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "none"))
    assert main(["run", "synthetic://?frames=2"]) == 0


def test_a_refusal_needs_nothing_installed():
    """Also that numpy is missing must be said in one line."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from edge.__main__ import main; sys.exit(main(['run', 'nowhere.mp4']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "edge: numpy is not installed; type: pip install numpy\n"


def test_the_watchdog_is_for_this_process_alone():
    assert service.watchdog_s({"WATCHDOG_USEC": "30000000"}) == 30
    assert service.watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 30
    assert service.watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) == 0
    assert service.watchdog_s({"WATCHDOG_USEC": "soon"}) == 0
    assert service.watchdog_s({}) == 0


def test_lines_in_the_journal_have_a_gravity(tmp_path):
    """Standard error is a file whose device and inode JOURNAL_STREAM names, as systemd does with its socket."""
    with (tmp_path / "journal").open("w+") as journal:
        facts = os.fstat(journal.fileno())
        environment = {**os.environ, "JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "edge", "run"]
        options = {"env": environment, "stderr": journal, "stdout": subprocess.DEVNULL, "timeout": 60}
        assert subprocess.run([*command, "synthetic://?frames=3"], **options).returncode == 0
        assert subprocess.run([*command, "nowhere.mp4"], **options).returncode == 2
        journal.seek(0)
        lines = journal.read().splitlines()
    assert lines[0].startswith("<6>running source=synthetic://")
    assert "backend=onnxruntime precision=" in lines[0]
    assert lines[1].startswith("<3>edge: nowhere.mp4: no such file")
    assert service.graded("a\nb", 30, None) == "a\nb", "elsewhere lines are as they are"


@pytest.fixture
def device():
    """A device file that anybody may open: a terminal's."""
    first, second = os.openpty()
    yield os.ttyname(second)
    os.close(first)
    os.close(second)


@pytest.mark.parametrize("kind", ["v4l2", "csi"])
def test_a_camera_has_one_watcher(device, kind, capfd):
    source = f"v4l2://{device}?fps=30" if kind == "v4l2" else "csi://7?width=640"
    code = (
        "import sys, time; from edge.claim import claimed\n"
        "with claimed(sys.argv[1]):\n    print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen([sys.executable, "-c", code, source], stdout=subprocess.PIPE, env=environment)
    try:
        assert first.stdout.readline() == b"held\n"
        assert main(["run", source]) == 2
        err = capfd.readouterr().err
        assert "the camera is busy: another edge watches it" in err
        assert f"(pid {first.pid}, user {os.getuid()})" in err
        assert err.count("\n") == 1
        first.send_signal(signal.SIGKILL)
        first.wait()
        with claim.claimed(source):
            pass  # the kernel let go of it
    finally:
        first.kill()
        first.wait()
        first.stdout.close()


def test_who_has_it_open_is_said(device, capfd):
    """A camera that can't be opened while another program has it."""
    with open(device) as opened:
        code = "import sys, time; print('open', flush=True); time.sleep(60)"
        other = subprocess.Popen([sys.executable, "-c", code], stdin=opened, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"open\n"
        assert main(["run", f"v4l2://{device}"]) == 2
        assert f"(pid {other.pid}): stop that first" in capfd.readouterr().err
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_a_camera_is_one_by_all_its_names(device, tmp_path):
    (tmp_path / "by-id").symlink_to(device)
    with claim.claimed(device), pytest.raises(edge.SourceError, match=f"{device}: the camera is busy"):
        with claim.claimed(f"v4l2://{tmp_path}/by-id?fps=30"):
            pass


def test_what_is_no_camera_is_not_claimed(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.touch()
    for source in (str(clip), "rtsp://host/a", "synthetic://"):
        with claim.claimed(source), claim.claimed(source):
            pass
    assert claim.device_of("0") == Path("/dev/video0")
    assert claim.device_of("v4l2:///dev/v4l/by-id/a%20b?fps=3") == Path("/dev/v4l/by-id/a b")
    with claim.claimed("csi://3"), pytest.raises(edge.SourceError, match="busy"), claim.claimed("csi://3"):
        pass
