"""A document as a page: one HTML that opens without internet, and the same in Markdown with its charts beside it."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import charts, limit
from benchmarks.document import Measure, find, measures
from benchmarks.errors import BenchError


@dataclass(frozen=True, slots=True)
class Heading:
    """Of a section."""

    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head; the first column is what they are of."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: bool = False
    """Whether the cells are words: these are set to the left, and broken into lines."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture."""

    name: str
    svg: str
    says: str


Block = Heading | Text | Items | Table | Chart

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1c1c1c; background: #fff; margin: 2rem auto;
  max-width: 68rem; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.02rem; margin-bottom: .3rem; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .86rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .28rem .6rem; border-bottom: 1px solid #e6e6e6; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.words th, .words td { text-align: left; white-space: normal; } .words td:first-child { white-space: nowrap; }
th { background: #f4f6f8; border-bottom: 2px solid #c9d1d8; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; font-family: inherit; }
figcaption { color: #555; font-size: .86rem; } code { background: #f2f2f2; padding: 0 .25em; }
.note { background: #fff6e0; border-left: 4px solid #e2a400; padding: .4rem .9rem; }
"""


def blocks(document: Mapping[str, Any]) -> list[Block]:
    """A document's page, part by part.

    Raises:
        BenchError: matplotlib isn't installed.
    """
    every = measures(document)
    found: list[Block] = [Heading("edge, measured", 1), *_head(document, every)]
    found += _summary(document, every)
    found += _accuracy(document, every)
    found += _stages(document, every)
    found += _percentiles(every)
    found += _limits(document, every)
    found += _scaling(every)
    found += _peers(document)
    found += _method(document)
    return found


def write(document: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write ``report.html``, ``report.md`` and the Markdown's ``charts/``.

    Returns:
        Paths of the two pages.

    Raises:
        BenchError: matplotlib isn't installed, or the folder can't be written.
    """
    parts = blocks(document)
    try:
        (folder / "charts").mkdir(parents=True, exist_ok=True)
        for part in parts:
            if isinstance(part, Chart):
                (folder / "charts" / f"{part.name}.svg").write_text(part.svg, encoding="utf-8")
        (folder / "report.md").write_text(markdown(parts), encoding="utf-8")
        (folder / "report.html").write_text(page(parts), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{folder}: can't be written ({error.strerror}); give another folder with --out") from None
    return folder / "report.html", folder / "report.md"


def markdown(parts: Sequence[Block]) -> str:
    """The page as Markdown; charts are files in ``charts/``."""
    lines = []
    for part in parts:
        if isinstance(part, Heading):
            lines.append(f"{'#' * part.level} {part.text}")
        elif isinstance(part, Text):
            lines.append(part.text)
        elif isinstance(part, Items):
            lines.append("\n".join(f"- {item}" for item in part.items))
        elif isinstance(part, Table):
            cells = [part.head, ["---"] * len(part.head), *part.rows]
            lines.append("\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells))
        else:
            lines.append(f"![{part.says}](charts/{part.name}.svg)\n\n{part.says}")
    return "\n\n".join(lines) + "\n"


def page(parts: Sequence[Block]) -> str:
    """The page as HTML; nothing in it is fetched from elsewhere."""
    body = []
    for number, part in enumerate(parts):
        if isinstance(part, Heading):
            body.append(f"<h{part.level}>{html.escape(part.text)}</h{part.level}>")
        elif isinstance(part, Text):
            marked = ' class="note"' if part.text.startswith("**") else ""
            body.append(f"<p{marked}>{_inline(part.text)}</p>")
        elif isinstance(part, Items):
            body.append("<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in part.items) + "</ul>")
        elif isinstance(part, Table):
            head = "".join(f"<th>{_inline(cell)}</th>" for cell in part.head)
            rows = "".join("<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>" for row in part.rows)
            kind = ' class="words"' if part.words else ""
            body.append(
                f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
            )
        else:
            # Ids are a chart's own: two charts in one page must not share any.
            own = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>c{number}-", part.svg)
            body.append(f"<figure>{own}<figcaption>{_inline(part.says)}</figcaption></figure>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>edge, measured</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _inline(text: str) -> str:
    safe = html.escape(text, quote=False)
    safe = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", safe)


# -- the sections -----------------------------------------------------------------------------------------------------


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _spread(one: Measure | None) -> str:
    """The median round, and from which to which."""
    if one is None:
        return "-"
    if len(one.rounds) == 1:
        return _number(one.value)
    return f"{_number(one.value)} ({_number(one.low)} to {_number(one.high)})"


def _percent(one: Measure | None, *shares: int) -> list[str]:
    return ["-" if one is None or not one.quantiles else _number(one.quantiles[str(share)]) for share in shares]


def _subjects(every: Sequence[Measure]) -> list[tuple[str, str, str]]:
    """What was compared, in order: bundle, precision, backend."""
    return list(dict.fromkeys((one.bundle, one.precision, one.backend) for one in every if one.name == "engine"))


def _facts(subject: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("bundle", "precision", "backend"), subject, strict=True))


def _called(subject: tuple[str, str, str], every: Sequence[Measure]) -> str:
    """A subject's name, without the backend where there is one only."""
    backends = {backend for _, _, backend in _subjects(every)}
    return f"{subject[0]} {subject[1]}" + (f" {subject[2]}" if len(backends) > 1 else "")


def _head(document: Mapping[str, Any], every: Sequence[Measure]) -> list[Block]:
    made, one = document["made"], document["machine"]
    memory = "" if one.get("memory_gib") is None else f", {one['memory_gib']:.1f} GiB"
    others = find(every, "machine/others")
    said = {
        "processor": f"{one.get('board') or one['processor']}, {one['cores']} cores{memory}",
        "system": f"{one['system']}" + (f", Jetson Linux {one['l4t']}" if one.get("l4t") else ""),
        "governor": ", ".join(one.get("governors") or []) or "not told",
        "clocks": ", ".join(f"{key} {value:,.0f} MHz" for key, value in (one.get("clocks_mhz") or {}).items())
        or "not told",
        "power mode": (one.get("power_mode") or "not told").replace("\n", " "),
        "GPU": one.get("gpu") or "none",
        "versions": f"Python {one['python']}, "
        + ", ".join(f"{name} {number}" for name, number in one["packages"].items() if number),
        "copying": f"{_spread(find(every, 'machine/copy'))} GB/s, one core",
        "multiplying": f"{_spread(find(every, 'machine/multiply fp32'))} Gop/s in fp32, "
        f"{_spread(find(every, 'machine/multiply int8'))} in int8, one core",
        "other programs": f"{_spread(others)} cores kept busy meanwhile",
        "commit": f"{made.get('commit') or 'not told'}" + (", with changes" if made.get("changed") else ""),
        "command": f"`{' '.join(made['command'])}`",
        "at": f"{made['at']}, {made['seconds']:.0f} s, {made['rounds']} rounds" + (", quick" if made["quick"] else ""),
    }
    parts: list[Block] = [Table(("machine", ""), list(said.items()), words=True)]
    if document["notes"]:
        parts += [Text(f"**Note.** {note}") for note in document["notes"]]
    return parts


def _summary(document: Mapping[str, Any], every: Sequence[Measure]) -> list[Block]:
    speed, cost = [], []
    for subject in _subjects(every):
        facts, called = _facts(subject), _called(subject, every)
        energy = next((one for one in every if one.name.startswith("energy") and _same(one, facts)), None)
        accuracy = find(every, "accuracy", **facts)
        speed.append(
            [
                called,
                _spread(find(every, "engine", **facts)),
                *_percent(_single(every, facts), 50, 95, 99),
                _spread(find(every, "loop/fps", **facts)),
                *_percent(find(every, "loop/age", **facts), 50, 95, 99),
                "-" if accuracy is None else f"{accuracy.value:.1%}",
            ]
        )
        cost.append(
            [
                called,
                _spread(find(every, "loop/core", **facts)),
                _spread(find(every, "cold start", **facts)),
                _spread(find(every, "memory/host", **facts)),
                _spread(find(every, "memory/device", **facts)),
                _spread(energy),
                _spread(find(every, "size", **facts)),
                _spread(find(every, "steady/changes", **facts)),
            ]
        )
    quick = ("", "engine ms", "p50", "p95", "p99", "frames/s", "age ms p50", "p95", "p99", "accuracy")
    dear = (
        *("", "core ms a frame", "cold start s", "host MB", "device MB", "mJ a frame", "size MB"),
        "label changes in 100",
    )
    return [
        Heading("At a glance"),
        Text(
            "The median of the rounds, and from the least to the greatest round. Engine: a new frame of one face at "
            "batch 1, encoders and head together (p95 and p99 of single runs where it is one graph). Frames/s: the "
            "loop that ships, every frame of a file. Age: a result's, at the video's own pace, as of a camera."
        ),
        Table(quick, speed),
        Table(dear, cost),
    ]


def _same(one: Measure, facts: Mapping[str, str]) -> bool:
    return all(getattr(one, key) == value for key, value in facts.items())


def _single(every: Sequence[Measure], facts: Mapping[str, str]) -> Measure | None:
    """The engine's measure of single runs, where one graph is all that runs."""
    graphs = [one for one in every if one.name.startswith("engine/") and _same(one, facts)]
    return graphs[0] if len(graphs) == 1 else None


def _accuracy(document: Mapping[str, Any], every: Sequence[Measure]) -> list[Block]:
    found = document["accuracy"]
    if not found:
        return []
    points, rows = [], []
    for name, one in found["bundles"].items():
        for which, figures in one["precisions"].items():
            precision, backend = which.split("/")
            engine = find(every, "engine", bundle=name, precision=precision, backend=backend)
            called = _called((name, precision, backend), every)
            low, high = figures["interval"] or (figures["accuracy"],) * 2
            if engine is not None:
                points.append(
                    charts.Point(called, engine.value, figures["accuracy"], (engine.low, engine.high), (low, high))
                )
            rest = figures.get("without_twins")
            rows.append(
                [
                    called,
                    f"{figures['accuracy']:.2%} ({low:.1%} to {high:.1%})",
                    "-" if rest is None else f"{rest['accuracy']:.2%}",
                    f"{figures['covered']:.2%}",
                    f"{figures['macro_f1']:.3f}",
                    f"{figures['ece']:.3f}",
                    f"{figures['agreement']:.2%}",
                ]
            )
    if not rows:
        return []
    # Bundles with labels of their own each have a table of their own.
    recalls: dict[tuple[str, ...], list[list[str]]] = {}
    for name, one in found["bundles"].items():
        for which, figures in one["precisions"].items():
            called = _called((name, *which.split("/")), every)
            shares = [f"{value:.0%}" for value in figures["recall"].values()]
            recalls.setdefault(tuple(figures["recall"]), []).append([called, *shares])
    head = [
        "",
        "accuracy (95 %)",
        "without twins",
        "surest 80 %",
        "macro F1",
        "calibration error",
        "same label",
    ]
    parts: list[Block] = [
        Heading("Accuracy over latency"),
        Text(
            f"{found['pictures']:,} labelled crops of {found['corpus']}'s test part, through the robot's own "
            "preprocessing and engine. Twins: pictures with a near-identical one among those that were trained on. "
            "Same label: as the first precision. Recall by class is in the second table."
        ),
    ]
    if points:
        drawn = charts.scatter("accuracy over engine latency", points, "ms, a new frame of one face", "accuracy")
        says = "Bars are 95 % intervals of accuracy and the range of the rounds; dashed: the Pareto front."
        parts.append(Chart("pareto", drawn, says))
    return [
        *parts,
        Table(head, rows),
        *(Table(["recall of", *names], each) for names, each in recalls.items()),
    ]


def _stages(document: Mapping[str, Any], every: Sequence[Measure]) -> list[Block]:
    rows, falls = [], {}
    for subject in _subjects(every):
        facts = _facts(subject)
        stages = [one for one in every if one.name.startswith("stage/") and _same(one, facts)]
        called = _called(subject, every)
        falls[called] = {one.name[6:]: one.value for one in stages if one.name != "stage/total"}
        for one in stages:
            rows.append([f"{called}: {one.name[6:]}", _spread(one), *_percent(one, 50, 95, 99)])
    cores, own = [], {}
    for subject in _subjects(every):
        facts, called = _facts(subject), _called(subject, every)
        stages = [one for one in every if one.name.startswith("core/") and _same(one, facts)]
        own[called] = {one.name[5:]: one.value for one in stages if one.name != "core/total"}
        for one in stages:
            cores.append([f"{called}: {one.name[5:]}", _spread(one), *_percent(one, 50, 95, 99)])
    if not rows:
        return []
    return [
        Heading("Where the time goes"),
        Chart(
            "waterfall",
            charts.waterfall(falls, "ms of a frame, mean (wall clock; stages of neighbouring frames overlap)"),
            "Stages of the loop that ships, as `Result.timings_ms` has them.",
        ),
        Table(("stage", "mean ms, by round", "p50", "p95", "p99"), rows),
        Heading("The same in milliseconds of a core", 3),
        Chart(
            "waterfall-core",
            charts.waterfall(own, "ms of a core a frame, mean"),
            "In line, by the thread's own clock, which other programs hardly change; the search beside is not in it.",
        ),
        Table(("stage", "mean ms of a core, by round", "p50", "p95", "p99"), cores),
    ]


def _percentiles(every: Sequence[Measure]) -> list[Block]:
    def lines(choose: Sequence[tuple[str, Measure]]) -> dict[str, charts.Line]:
        return {
            name: charts.Line([float(share) for share in one.quantiles], list(one.quantiles.values()))
            for name, one in choose
            if one.quantiles
        }

    engines = [
        (f"{_called((one.bundle, one.precision, one.backend), every)} {one.name[7:]}", one)
        for one in every
        if one.name.startswith("engine/")
    ]
    ages = [(_called((one.bundle, one.precision, one.backend), every), one) for one in every if one.name == "loop/age"]
    panels = [
        charts.Panel(title, drawn, "per cent of the runs", "ms")
        for title, drawn in (("engine", lines(engines)), ("age of a result", lines(ages)))
        if drawn
    ]
    if not panels:
        return []
    rows = [[name, *_percent(one, 1, 50, 95, 99), _spread(one)] for name, one in engines]
    return [
        Heading("Percentiles"),
        Chart("percentiles", charts.curves(panels), "Single runs and results, all rounds together."),
        Table(("graph", "p1 ms", "p50", "p95", "p99", "median by round"), rows),
    ]


def _limits(document: Mapping[str, Any], every: Sequence[Measure]) -> list[Block]:
    if not document["graphs"]:
        return []
    rows = []
    for graph in document["graphs"]:
        for precision, floor in graph["floor"].items():
            facts = {"bundle": graph["bundle"], "precision": precision, "backend": "onnxruntime"}
            measured = find(every, f"engine/{graph['graph']}", **facts)
            bound = "compute" if floor["compute_ms"] >= floor["memory_ms"] else "memory"
            rows.append(
                [
                    f"{graph['bundle']} {graph['graph']} {precision}",
                    f"{graph['parameters']:,}",
                    f"{graph['macs'] / 1e6:,.1f}",
                    _number(floor["compute_ms"]),
                    _number(floor["memory_ms"]),
                    bound,
                    "-" if measured is None else _number(measured.value),
                    "-" if measured is None else f"{measured.value / floor['ms']:.2f}",
                ]
            )
    predicted: dict[str, dict[str, str]] = {}
    boards = list(dict.fromkeys(one["board"] for one in document["predictions"]))
    for one in document["predictions"]:
        predicted.setdefault(f"{one['bundle']} {one['precision']}", {})[one["board"]] = (
            f"{_number(one['predicted_ms'])} ({_number(one['floor_ms'])})"
        )
    return [
        Heading("Against the limit"),
        Text(
            "Compute: two operations a multiply-add at this machine's own rate of a large product of matrices, on one "
            "core, through the same runtime. Memory: weights, inputs and outputs once, at the rate at which as many "
            "bytes are copied. A run can't be faster than the greater. A CPU computes FP16 in FP32."
        ),
        Table(
            ("graph", "parameters", "M multiply-adds", "compute ms", "memory ms", "bound", "measured ms", "over floor"),
            rows,
        ),
        Heading("Predicted, not measured: NVIDIA's boards", 3),
        Text(f"**A prediction, nobody measured it.** {limit.ASSUMPTIONS[0].upper()}{limit.ASSUMPTIONS[1:]}"),
        Table(
            ("engine ms, predicted (floor)", *boards),
            [[name, *(by.get(board, "-") for board in boards)] for name, by in predicted.items()],
        ),
    ]


_CURVES = {
    "scale/faces": ("faces", "ms a frame", "Faces in a frame of 1280x720"),
    "scale/size": ("megapixels", "ms a frame", "Size of a frame; the face grows with it"),
    "scale/threads": ("threads", "ms", "Threads of the engine"),
    "scale/window": ("frames of a window", "ms", "Length of a window"),
}


def _scaling(every: Sequence[Measure]) -> list[Block]:
    panels = []
    for name, (across, up, title) in _CURVES.items():
        lines = {}
        for which in dict.fromkeys((one.name, one.bundle, one.precision) for one in every if one.name.startswith(name)):
            if which[0] not in (name, f"{name} core", f"{name} at once"):
                continue
            chosen = sorted(
                (one for one in every if (one.name, one.bundle, one.precision) == which), key=lambda one: one.at or 0.0
            )
            label = f"{which[1]} {which[2]}" + which[0][len(name) :]
            lines[label] = charts.Line(
                [one.at or 0.0 for one in chosen],
                [one.value for one in chosen],
                [one.low for one in chosen],
                [one.high for one in chosen],
            )
        if lines:
            panels.append(charts.Panel(title, lines, across, up, log_x=name == "scale/window"))
    if not panels:
        return []
    parts: list[Block] = [
        Heading("How cost grows"),
        Chart(
            "scaling",
            charts.curves(panels),
            "Frames one by one through `process`; bands are from the least to the greatest round; `core` is "
            "milliseconds of a core, all threads together; `at once` is the whole window instead of its newest frame.",
        ),
    ]
    faces = [one for one in every if one.name == "scale/faces core"]
    stages = ("detect", "landmarks", "align", "flow", "infer", "smooth")
    if faces:
        rows = []
        for one in faces:
            facts = {"bundle": one.bundle, "precision": one.precision, "backend": one.backend, "at": one.at}
            by = [find(every, f"scale/faces {stage}", **facts) for stage in stages]
            rows.append(
                [
                    f"{one.bundle} {one.precision}, {one.at:g} faces",
                    _spread(find(every, "scale/faces seen", **facts)),
                    _spread(find(every, "scale/faces", **facts)),
                    _spread(one),
                    _number(one.value / (one.at or 1)),
                    *("-" if each is None else _number(each.value) for each in by),
                ]
            )
        head = ("", "seen", "ms a frame", "core ms a frame", "core ms a face", *stages)
        parts += [Heading("Cost per face", 3), Table(head, rows)]
    sizes = [one for one in every if one.name == "scale/size core"]
    if sizes:
        rows = []
        for one in sizes:
            facts = {"bundle": one.bundle, "precision": one.precision, "backend": one.backend, "at": one.at}
            by = [find(every, f"scale/size {stage}", **facts) for stage in stages]
            rows.append(
                [
                    f"{one.bundle} {one.precision}, {one.at:.2f} megapixels",
                    _spread(find(every, "scale/size", **facts)),
                    _spread(one),
                    _number(one.value / (one.at or 1)),
                    *("-" if each is None else _number(each.value) for each in by),
                ]
            )
        pixels = ("", "ms a frame", "core ms a frame", "core ms a megapixel", *stages)
        parts += [Heading("Cost per pixel", 3), Table(pixels, rows)]
    tables: dict[str, tuple[str, ...]] = {
        "scale/threads": ("threads of the engine", "ms"),
        "scale/window": ("length of a window", "ms a new frame", "ms the whole window"),
    }
    for name, titles in tables.items():
        chosen = [one for one in every if one.name == name]
        rows = []
        for one in chosen:
            row = [f"{one.bundle} {one.precision}, {one.at:g}", _spread(one)]
            if name == "scale/window":
                facts = {"bundle": one.bundle, "precision": one.precision, "backend": one.backend, "at": one.at}
                row.append(_spread(find(every, "scale/window at once", **facts)))
            rows.append(row)
        if rows:
            parts.append(Table(titles, rows))
    return parts


def _peers(document: Mapping[str, Any]) -> list[Block]:
    peers = document["peers"]
    if not peers:
        return []
    rows = []
    for name, one in peers["rows"].items():
        low, high = one["fps_from_to"]
        crops = (peers.get("crops") or {}).get(name)
        rows.append(
            [
                name,
                f"{_number(one['fps'])} ({_number(low)} to {_number(high)})",
                *(_number(one["took_ms"][key]) for key in ("p50", "p95", "p99")),
                f"{one['with_face']:.1%}",
                _number(one["label_changes_per_100"]),
                _number(one["resident_mb"]),
                _number(one["cold_start_s"]),
                "-" if crops is None else f"{crops['accuracy']:.1%} ({crops['found']:.1%} found)",
            ]
        )
    head = (
        "",
        "frames/s",
        "p50 ms",
        "p95",
        "p99",
        "face in",
        "changes a 100",
        "MB",
        "cold start s",
        "accuracy on crops",
    )
    return [
        Heading("Beside others"),
        Text("One run of `python -m benchmarks.peers`: every package in an environment and a process of its own."),
        Table(head, rows),
    ]


def _method(document: Mapping[str, Any]) -> list[Block]:
    return [
        Heading("How it was measured"),
        Items(
            (
                "Rounds take turns: each measures everything once, every other round in the opposite order. A figure "
                "is the median of the rounds; the range is from the least to the greatest.",
                "Engine: `pytest-benchmark`, at least two runs to warm up that don't count, a process a round; its own "
                "JSON is kept in `micro/`.",
                "Loop and stages: `edge.Recognizer` and its `Result.timings_ms`, in a process of its own; the first "
                "frame is not in the stages. Cold start: from the start of the process to the first result.",
                f"Video: {document['made']['video']}, {document['made']['frames']} frames at most.",
                "`python -m benchmarks compare OLD NEW` tells what changed beyond the noise.",
            )
        ),
        Table(
            ("bundle", "family", "parameters", "graphs", "window", "auto takes", "digest"),
            [
                [
                    name,
                    one["family"],
                    "-" if one["parameters"] is None else f"{one['parameters']:,}",
                    ", ".join(one["graphs"]),
                    "-" if one["window"] is None else str(one["window"]),
                    one["preferred"],
                    f"`{one['digest'][:12]}`",
                ]
                for name, one in document["bundles"].items()
            ],
        ),
    ]


def gathered(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """Several machines' documents as one Markdown table, a row a subject.

    Args:
        documents: by what they are called.
    """
    head = (
        "| machine | bundle | precision | backend | engine ms (range) | p99 | frames/s | age p95 ms | core ms a frame "
        "| host MB | mJ a frame | accuracy | commit |"
    )
    lines = [head, "| --- " * 13 + "|"]
    for document in documents.values():
        every, one = measures(document), document["machine"]
        for subject in _subjects(every):
            facts = _facts(subject)
            energy = next((each for each in every if each.name.startswith("energy") and _same(each, facts)), None)
            accuracy = find(every, "accuracy", **facts)
            cells = [
                f"{one.get('board') or one['processor']}",
                *subject,
                _spread(find(every, "engine", **facts)),
                *_percent(_single(every, facts), 99),
                _spread(find(every, "loop/fps", **facts)),
                *_percent(find(every, "loop/age", **facts), 95),
                _spread(find(every, "loop/core", **facts)),
                _spread(find(every, "memory/host", **facts)),
                _spread(energy),
                "-" if accuracy is None else f"{accuracy.value:.1%}",
                str(document["made"].get("commit") or "-")[:9],
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
