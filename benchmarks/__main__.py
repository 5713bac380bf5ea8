"""``python -m benchmarks [BUNDLE ...]`` measures; ``compare OLD NEW``, ``report FILE`` and ``table FILE ...`` read.

Exit status 0; 1 where ``compare`` finds a regression; 2 for what can't be used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import document
from benchmarks.errors import BenchError
from edge.arguments import BAD_INPUT, Parser
from edge.bundle import Bundle, packaged
from edge.errors import EdgeError
from edge.faces.landmarks import DEFAULT_MODEL, MODELS

OUT = Path("out/bench")
DATA = Path("../shared/data/fer2013")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = {"compare": _compare, "report": _report, "table": _table}.get(given[0] if given else "")
    try:
        return _measure(given) if command is None else command(given[1:])
    except EdgeError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return BAD_INPUT


def _measure(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks",
        description="Measure bundles on this machine. Also: compare OLD NEW, report FILE, table FILE ...",
    )
    parser.add_argument("bundles", nargs="*", metavar="BUNDLE", help="names or paths (default: all that ship)")
    parser.add_argument("--quick", action="store_true", help="less of everything: under two minutes")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often everything is measured (5; quick 3)")
    parser.add_argument("--video", metavar="FILE", help="measure the loop on this video instead of a made one")
    parser.add_argument("--landmarks", choices=MODELS, default=DEFAULT_MODEL)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help=f"labelled crops, or none ({DATA} if it is there)")
    parser.add_argument("--corpus", default="fer2013", help="which corpus that is (fer2013)")
    parser.add_argument(
        "--families", nargs="?", const="all", metavar="NAME,...", help="also all five, or these (minutes)"
    )
    parser.add_argument("--no-curves", action="store_true", help="leave out how cost grows")
    parser.add_argument(
        "--peers", type=Path, metavar="FILE", help="put what benchmarks.peers --json wrote into the report"
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help=f"where everything goes ({OUT})")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is 1 or more")
    from benchmarks import report, suite

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    plan = suite.QUICK if options.quick else suite.Plan()
    if options.rounds is not None:
        plan = replace(plan, rounds=options.rounds, scale_rounds=min(plan.scale_rounds, options.rounds))
    bundles = options.bundles or list(packaged())
    for one in bundles:
        Bundle.open(one)  # before anything that takes long
    made, lengths = options.out / "bundles", {}
    if options.families is not None:
        from benchmarks import families
        from export.table import CONFIGS

        wanted = list(CONFIGS) if options.families == "all" else options.families.split(",")
        bundles += families.build(wanted, made, tell)
    if not options.quick and not options.no_curves:
        try:
            from benchmarks.families import lengths as make

            lengths = make(made, tell)
        except BenchError as error:
            tell(f"no curve of window lengths: {error}")
    data = options.data or (DATA if DATA.is_dir() else None)
    if data is None:
        tell(f"no accuracy: {DATA} is absent; give labelled crops with --data FOLDER")
    found = suite.run(
        bundles,
        plan,
        command=["python -m benchmarks", *arguments],
        video=options.video,
        landmarks=options.landmarks,
        data=data,
        corpus=options.corpus,
        lengths=lengths,
        curves=not options.no_curves,
        keep=options.out / "micro",
        tell=tell,
    )
    if options.peers is not None:
        found["peers"] = _read_peers(options.peers)
    document.save(found, options.out / "bench.json")
    page, text = report.write(found, options.out)
    tell(f"{options.out / 'bench.json'}, {page} and {text}: {found['made']['seconds']:.0f} s")
    return 0


def _read_peers(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {key: found.get(key) for key in ("rows", "ratios", "failed", "machine", "crops", "load_average")} | {
            "rows": dict(found["rows"])
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BenchError(f"{path}: expected what python -m benchmarks.peers --json FILE wrote") from None


def _compare(arguments: list[str]) -> int:
    from benchmarks import compare

    parser = Parser(prog="python -m benchmarks compare", description="What changed between two runs, beyond the noise?")
    parser.add_argument("old", type=Path, metavar="OLD", help="bench.json of before")
    parser.add_argument("new", type=Path, metavar="NEW", help="bench.json of after")
    parser.add_argument("--percent", type=float, default=compare.PERCENT, help=f"how much worse ({compare.PERCENT:g})")
    options = parser.parse_args(arguments)
    if not options.percent >= 0:
        parser.error("--percent is 0 or more")
    found = compare.compare(document.load(options.old), document.load(options.new), options.percent)
    print(compare.report(found, options.percent))
    return 1 if found.regressions else 0


def _report(arguments: list[str]) -> int:
    from benchmarks import report

    parser = Parser(prog="python -m benchmarks report", description="Write the pages of a run again.")
    parser.add_argument("file", type=Path, metavar="FILE", help="a bench.json")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where they go (beside FILE)")
    options = parser.parse_args(arguments)
    for path in report.write(document.load(options.file), options.out or options.file.parent):
        print(path)
    return 0


def _table(arguments: list[str]) -> int:
    from benchmarks import report

    parser = Parser(prog="python -m benchmarks table", description="Runs of several machines as one table.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="bench.json of each")
    options = parser.parse_args(arguments)
    print(report.gathered({str(path): document.load(path) for path in options.files}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
