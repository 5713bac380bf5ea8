"""``edge run | replay | check | doctor | config``: the command line."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edge.arguments import BAD_INPUT, Parser
from edge.errors import BackendError, BundleError, EdgeError, OptionError, SourceError

if TYPE_CHECKING:
    from edge.bundle import Bundle
    from edge.outputs.contract import Output
    from edge.recognizer import Recognizer

EXIT_DIFFERS = 1
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 1 for a replay that is not what was recorded; 2 for bad input; 130 when interrupted.
    """
    # FFmpeg and OpenCV print their own view of a bad file; ours is one line and says what to do.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        if options.command is _run:
            options = _with_file(parser, options, arguments)
        status = command(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except EdgeError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        from edge.device import REMEDIES

        name = {"cv2": "opencv"}.get(str(error.name), str(error.name))
        return _refuse(f"{name} is not installed; type: {REMEDIES.get(name, f'pip install {name}')}")
    except BrokenPipeError:
        # The reader of our output has seen enough (`| head`). Python would complain once more while it exits.
        _abandon_output()
        return 0
    except OSError as error:
        _abandon_output()
        return _refuse(f"output can't be written ({error.strerror}); make room, or write somewhere else")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _refuse(message: str) -> int:
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
    from edge.service import graded, notify

    print(graded(f"edge: {line}", logging.ERROR, sys.stderr), file=sys.stderr)
    notify(f"STATUS={line}")  # systemctl status shows it
    return BAD_INPUT


def _abandon_output() -> None:
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="edge", description="Read facial expressions in real time.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="recognise the faces in a source", description="Recognise faces.")
    run.set_defaults(command=_run, parser=run)
    run.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="video, picture, folder, camera number, or file:// dir:// v4l2:// csi:// rtsp:// http:// synthetic://",
    )
    run.add_argument("--bundle", help="name of a packaged bundle, or path of a folder or zip (default: face)")
    run.add_argument(
        "--backend", choices=("auto", "onnxruntime", "tensorrt"), default="auto", help="what the network runs in"
    )
    run.add_argument(
        "--precision", choices=("auto", "fp32", "fp16", "int8"), default="auto", help="which of the bundle's graphs"
    )
    run.add_argument("--landmarks", choices=("5", "68"), default="5", help="landmark model (default: 5)")
    run.add_argument("--min-face", type=int, metavar="PIXELS", help="smallest face to find (default: 60; pictures 40)")
    run.add_argument("--jsonl", metavar="FILE|-", help="write one JSON line a frame")
    run.add_argument("--video", metavar="OUT.mp4", help="write the annotated video")
    run.add_argument(
        "--preview",
        nargs="?",
        const=True,
        metavar="HOST:PORT",
        help="serve a page with the live picture, results and metrics (default: 127.0.0.1:8765; name SOURCE first)",
    )
    run.add_argument(
        "--ros",
        nargs="?",
        const=True,
        metavar="URI",
        help="tell ROS 2 of faces (REP-155): zenoh://HOST:PORT (default: localhost:7447) or dds://; name SOURCE first",
    )
    run.add_argument(
        "--mqtt", metavar="URI", help="tell an MQTT broker: mqtt://HOST:1883/PREFIX or mqtts:// (docs/mqtt.md)"
    )
    run.add_argument(
        "--budget-ms", type=float, metavar="MS", help="what a frame may cost; above it, less is done, and said"
    )
    run.add_argument("--spare", metavar="BUNDLE", help="a smaller bundle that reads where the budget is not kept else")
    run.add_argument("--record", metavar="DIR", help="keep the run, lossless, for edge replay DIR; DIR must be empty")
    run.add_argument(
        "--record-private", action="store_true", help="record no picture, only boxes and what the network is given"
    )
    run.add_argument("--privacy", action="store_true", help="write, record and serve no picture at all")
    run.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    run.add_argument(
        "--config", metavar="FILE", help="take from edge.toml what is not said here (docs/configuration.md)"
    )
    run.add_argument(
        "--without", action="append", default=[], metavar="KEY", help="leave out what the file says of KEY"
    )

    replay = commands.add_parser("replay", help="a recorded run once more", description="Run a recording again.")
    replay.set_defaults(command=_replay)
    replay.add_argument("recording", metavar="DIR", help="what edge run --record wrote")
    replay.add_argument("--bundle", help="where the bundle lies now (default: where it was)")
    replay.add_argument("--jsonl", metavar="FILE|-", help="write one JSON line a result")
    replay.add_argument("--check", action="store_true", help="compare with what was recorded; status 1 if it differs")

    check = commands.add_parser("check", help="verify a bundle", description="Replay a bundle's golden vectors here.")
    check.set_defaults(command=_check)
    check.add_argument("bundle", nargs="?", metavar="BUNDLE", help="name or path (default: face)")
    check.add_argument("--backend", choices=("auto", "onnxruntime", "tensorrt"), default="auto")
    check.add_argument("--device", action="store_true", help="prove and time everything on this machine's GPU as well")
    check.add_argument("--report", metavar="FILE", help="of --device, to attach to a bug (edge-device-report.json)")

    doctor = commands.add_parser("doctor", help="what this machine is and what runs on it")
    doctor.set_defaults(command=_doctor)

    config = commands.add_parser("config", help="look at edge.toml", description="Look at edge.toml.")
    looks = config.add_subparsers(required=True, metavar="check|show")
    config_check = looks.add_parser("check", help="is the file good, and what would run?")
    config_check.set_defaults(command=_config_check, run=run)
    config_check.add_argument("file", nargs="?", metavar="FILE", help="default: /etc/edge/edge.toml")
    show = looks.add_parser("show", help="every key with its meaning, as TOML to begin with")
    show.set_defaults(command=_config_show, run=run)
    return parser


def _with_file(
    parser: argparse.ArgumentParser, options: argparse.Namespace, arguments: Sequence[str] | None
) -> argparse.Namespace:
    """What the command line says, and where it says nothing, the file."""
    from edge import config

    if options.config is not None:
        said = config.load(Path(options.config), options.parser)
        said = config.without(said, options.without, options.parser)
        options.parser.set_defaults(**config.defaults(options.parser, said))
        options = parser.parse_args(arguments)
    elif options.without:
        raise OptionError("--without is for what --config says; leave the option itself out instead")
    if options.source is None:
        options.parser.error("the following arguments are required: SOURCE (or --config FILE that names a source)")
    return options


def _run(options: argparse.Namespace) -> int:
    from edge import claim, service
    from edge.outputs import rosaddress
    from edge.outputs.contract import refuse_collisions
    from edge.outputs.jsonl import JsonLines
    from edge.outputs.mqtt import Mqtt
    from edge.outputs.notifier import Notifier
    from edge.outputs.ros4hri import open_ros
    from edge.outputs.summary import Summary
    from edge.outputs.video import AnnotatedVideo

    _refuse_contradictions(options)
    signal.signal(signal.SIGTERM, _interrupt)
    service.log_to(sys.stderr)
    messages = sys.stderr if options.jsonl == "-" else sys.stdout
    with claim.claimed(options.source), _recognizer(options) as recognizer:
        outputs: list[Output] = []
        if options.jsonl is not None:
            outputs.append(JsonLines(options.jsonl))
        if options.video is not None:
            outputs.append(AnnotatedVideo(options.video, recognizer.fps))
        files = [output.file for output in outputs if isinstance(output, JsonLines | AnnotatedVideo)]
        refuse_collisions(options.source, [file for file in files if file is not None])
        outputs.append(Summary())
        whole = False
        try:
            if options.preview is not None:
                outputs.append(_preview(options, recognizer, messages))
            if options.ros is not None:
                outputs.append(open_ros(rosaddress.DEFAULT if options.ros is True else options.ros))
            if options.mqtt is not None:
                outputs.append(Mqtt(options.mqtt))
            if service.asked_for():
                # The last: an output that is stuck is no sign of life.
                outputs.append(Notifier(lambda: recognizer.dropped))
            _log_start(options, recognizer)
            with contextlib.closing(_Progress(sys.stderr)) as progress:
                try:
                    for count, (frame, result) in enumerate(recognizer.with_frames(), 1):
                        for output in outputs:
                            output.write(frame, result)
                        progress.show(count)
                        if count == options.max_frames:
                            break
                    whole = True
                except KeyboardInterrupt:
                    # Stopping is how one ends watching a camera; a file that was not read to its end is not whole.
                    whole = recognizer.live
                    if not whole:
                        raise
        finally:
            _finish(outputs, whole, messages)
    if options.record is not None:
        print(f"{options.record} recorded; type: edge replay {options.record}", file=messages)
    return 0


def _refuse_contradictions(options: argparse.Namespace) -> None:
    """What can be told before anything is opened."""
    from edge.outputs import address, mqttaddress, rosaddress

    if options.max_frames is not None and options.max_frames < 1:
        raise OptionError(f"--max-frames {options.max_frames}: expected 1 or more")
    if options.privacy and options.video is not None:
        raise OptionError("--privacy writes no picture; leave --video out")
    if options.preview is not None:
        address.parse(address.DEFAULT if options.preview is True else options.preview)
    if options.ros is not None:
        rosaddress.parse(rosaddress.DEFAULT if options.ros is True else options.ros)
    if options.mqtt is not None:
        mqttaddress.parse(options.mqtt)


def _recognizer(options: argparse.Namespace) -> Recognizer:
    from edge import claim
    from edge.recognizer import Recognizer

    try:
        return Recognizer(
            options.source,
            bundle=options.bundle,
            backend=options.backend,
            precision=options.precision,
            landmarks=options.landmarks,
            min_face=options.min_face,
            record=options.record,
            budget_ms=options.budget_ms,
            spare=options.spare,
            record_private=options.record_private or (options.privacy and options.record is not None),
        )
    except SourceError as error:
        raise claim.busy(options.source, error) from error


def _log_start(options: argparse.Namespace, recognizer: Recognizer) -> None:
    from edge.sources.uri import shown

    logging.getLogger("edge").info(
        "running source=%s bundle=%s backend=%s precision=%s",
        *(shown(options.source), recognizer.bundle.where, recognizer.engine.backend, recognizer.engine.precision),
    )


def _replay(options: argparse.Namespace) -> int:
    from edge.outputs.jsonl import JsonLines
    from edge.outputs.summary import Summary
    from edge.replay import Replay, differs

    signal.signal(signal.SIGTERM, _interrupt)
    messages = sys.stderr if options.jsonl == "-" else sys.stdout
    with Replay(options.recording, bundle=options.bundle) as replay:
        if options.check:
            replay.require_same()
        for one in replay.differences:
            print(f"not as recorded: {one}", file=sys.stderr)
        if replay.elsewhere is not None:
            print(f"recorded on another processor: {replay.elsewhere}", file=sys.stderr)
        if not replay.recording.whole:
            print(f"{options.recording} was cut off; it is replayed as far as it goes", file=sys.stderr)
        outputs: list[Output] = [] if options.jsonl is None else [JsonLines(options.jsonl)]
        outputs += [] if options.check else [Summary()]
        recorded, found, count, whole = replay.recording.results(), None, 0, False
        try:
            with contextlib.closing(_Progress(sys.stderr)) as progress:
                for count, (frame, result) in enumerate(replay.with_frames(), 1):
                    for output in outputs:
                        output.write(frame, result)
                    found = found or differs(result, next(recorded))
                    if found is not None and options.check:
                        break
                    progress.show(count)
            left = next(recorded, None) if found is None else None
            if left is not None:
                found = f"frame {left.get('frame')}: not replayed, recorded was a result"
            whole = found is None or not options.check
        finally:
            _finish(outputs, whole, messages)
    if not options.check:
        return 0
    if found is not None:
        print(f"edge: {options.recording}: {found}", file=sys.stderr)
        return EXIT_DIFFERS
    print(f"{count} results, each as it was recorded", file=messages)
    return 0


def _preview(options: argparse.Namespace, recognizer: Recognizer, messages: TextIO) -> Output:
    from edge.outputs.address import DEFAULT
    from edge.outputs.preview import Preview

    def counters() -> dict[str, int]:
        told = {"dropped": recognizer.dropped}
        if (health := recognizer.health) is not None:
            told |= {"corrupt": health.corrupt, "reconnects": health.reconnects, "frozen": health.frozen}
        return told

    preview = Preview(
        DEFAULT if options.preview is True else options.preview,
        private=options.privacy,
        counters=counters,
        trouble=lambda: None if recognizer.health is None else recognizer.health.trouble,
    )
    print(f"preview at {preview.url}", file=messages, flush=True)
    return preview


def _finish(outputs: Sequence[Output], whole: bool, messages: TextIO) -> None:
    """Close every output, also when one of them can't be kept; then say which."""
    failure: EdgeError | None = None
    for output in outputs:
        try:
            if message := output.finish(whole):
                with contextlib.suppress(BrokenPipeError):
                    print(message, file=messages)
        except EdgeError as error:
            failure = failure or error
    # What went wrong before comes first: this is told only where nothing else is on its way out.
    if failure is not None and sys.exc_info()[0] is None:
        raise failure


def _check(options: argparse.Namespace) -> int:
    from edge import check
    from edge.bundle import Bundle
    from edge.engine import open_engine
    from edge.engine.admission import wanted
    from edge.faces.detect import FaceDetector

    if options.report is not None and not options.device:
        raise OptionError("--report is what --device writes; give both")
    bundle = Bundle.open(options.bundle)
    bundle.verify()
    manifest = bundle.manifest
    print(f"{bundle.where}: {manifest.name} ({manifest.family}), {', '.join(manifest.labels)}")
    for file, sha256 in manifest.files.items():
        print(f"  ok    {file}: sha256 {sha256[:16]}...")
    findings = check.check_preprocessing(bundle)
    # Plans are built of what is worth it alone.
    for precision in wanted(bundle) if options.backend == "tensorrt" else manifest.precisions:
        engine = open_engine(bundle, options.backend, precision)
        findings += check.check_engine(bundle, engine) + check.check_window(bundle, engine)
        engine.close()
    findings += check.check_detector(bundle, FaceDetector())
    for finding in findings:
        print(f"  {'ok  ' if finding.passed else 'FAIL'}  {finding.what}: {finding.detail}")
    failed = sum(not finding.passed for finding in findings)
    if failed:
        raise BundleError(
            f"{bundle.where}: {failed} of {len(findings)} checks failed; export or install the bundle again"
        )
    return _check_device(bundle, options.report) if options.device else 0


def _check_device(bundle: Bundle, report: str | None) -> int:
    from edge import ondevice

    target = Path(ondevice.REPORT if report is None else report)
    text, document = ondevice.run(bundle, target, tell=lambda line: print(f"... {line}", file=sys.stderr))
    print(text)
    if document["verdict"] != "ok":
        first = next(one for one in document["findings"] if not one["passed"])
        raise BackendError(f"the device path fails here: {first['what']}: {first['detail']}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from edge.doctor import screen

    report, usable = screen()
    print(report)
    return 0 if usable else BAD_INPUT


def _config_check(options: argparse.Namespace) -> int:
    from edge import config
    from edge.bundle import Bundle

    file = Path(options.file or config.SYSTEM)
    said = config.load(file, options.run)
    options.run.set_defaults(**config.defaults(options.run, said))
    would = options.run.parse_args([])
    if would.source is None:
        raise OptionError(f'{file}: names no source; expected a line such as  source = "0"')
    _refuse_contradictions(would)
    config.require_packages(file, would)
    bundle = Bundle.open(would.bundle)
    print(f"{file}: good; edge run --config {file} would run")
    print(config.table(would, options.run, said))
    print(f"with {bundle.where}: {', '.join(bundle.manifest.labels)}")
    return 0


def _config_show(options: argparse.Namespace) -> int:
    from edge import config

    print(config.commented(options.run))
    return 0


def _interrupt(number: int, stack: object) -> None:
    raise KeyboardInterrupt


class _Progress:
    """A line that counts frames, where somebody is looking."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun, self._shown = stream, time.monotonic(), 0.0
        self._watched = stream.isatty()

    def show(self, count: int) -> None:
        now = time.monotonic()
        if self._watched and now - self._shown > 0.2:
            self._shown = now
            self._stream.write(f"\r{count} frames, {count / max(1e-9, now - self._begun):.1f} a second ")
            self._stream.flush()

    def close(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")


if __name__ == "__main__":
    sys.exit(main())
