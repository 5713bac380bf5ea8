"""A card's page and pictures, from what was measured and what the manifest says: no figure is written by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge.bundle import Manifest
from export import robust, scenes
from export.charts import Line, Panel, curves, matrix
from export.corpora import FORBIDDEN, INTENDED, about
from export.measure import COVERAGE, confusion_table, interval, table

SELDOM, OFTEN = 0.5, 1.25
"""A label that is given less often than this share of the times that it is true, or more often, is told of."""


def page(document: Mapping[str, Any], manifest: Manifest) -> str:
    """The card as Markdown.

    Args:
        document: what :func:`export.card.measure` measured.
        manifest: of that bundle.
    """
    chosen = document["precisions"][document["chosen"]]
    corpus = about(document["corpus"])
    sections = {
        "": _head(document, manifest),
        "What it is for": _list(INTENDED),
        "What it must not be used for": _list(FORBIDDEN),
        "Data": "\n\n".join([corpus.source, corpus.labels, _classes(document)]),
        "Licence and its limits": f"{manifest.licence}\n\n{corpus.rights}",
        "How it was measured": _protocol(document, manifest),
        "Accuracy": _accuracy(document),
        "Where it goes wrong": _wrong(document, chosen),
        "Confidence, and `uncertain`": _confidence(document, manifest, chosen),
        "Pictures made worse": _robust(document),
        "From whole pictures": _whole(document),
        "Known biases and limits": _list(corpus.biases),
    }
    return "\n\n".join((f"## {title}\n\n" if title else "") + text for title, text in sections.items() if text) + "\n"


def pictures(document: Mapping[str, Any]) -> dict[str, str]:
    """The card's pictures: SVG by file name.

    Raises:
        ExportError: matplotlib isn't installed.
    """
    chosen = document["precisions"][document["chosen"]]
    rows = [[count / max(1, sum(row)) for count in row] for row in chosen["confusion"]]
    threshold = chosen["threshold"]
    bins, points = chosen["reliability"], chosen["curve"]
    marks = {}
    if threshold["accuracy"] is not None:
        marks["threshold"] = (threshold["coverage"], threshold["accuracy"])
    found = {
        "card-confusion.svg": matrix(rows, list(chosen["recall"]), "is", "said"),
        "card-calibration.svg": curves(
            [
                Panel(
                    "confidence, and what came true",
                    {"faces": Line([one["confidence"] for one in bins], [one["accuracy"] for one in bins])},
                    "mean confidence",
                    "accuracy",
                    percent=True,
                    diagonal=True,
                ),
                Panel(
                    "answering only where it is surest",
                    {"faces": Line([one["coverage"] for one in points], [one["accuracy"] for one in points])},
                    "share of the faces that get an answer",
                    "accuracy",
                    percent=True,
                    level=chosen["accuracy"],
                    marks=marks,
                ),
            ]
        ),
    }
    if document.get("robust"):
        one = document["robust"]
        found["card-robust.svg"] = robust.chart({f"{document['bundle']}, {one['precision']}": one["rows"]})
    if document.get("scenes"):
        found["card-scenes.svg"] = scenes.chart(document["scenes"]["rows"])
    return found


def _list(lines: tuple[str, ...] | list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _head(document: Mapping[str, Any], manifest: Manifest) -> str:
    spec = manifest.inputs[0]
    chosen = document["precisions"][document["chosen"]]
    parameters = manifest.data.get("parameters")
    variant = manifest.data.get("config", {}).get("variant")
    made = f"{manifest.family}{f', variant {variant}' if variant and variant != manifest.family else ''}"
    if parameters:
        made += f", {parameters:,} parameters"
    return "\n\n".join(
        [
            f"# Card of the bundle `{manifest.name}`",
            f"Reads the expression of one face at a time: {', '.join(manifest.labels)}. {made}; it sees a "
            f"{spec.colour} crop of {spec.height}x{spec.width} pixels, aligned by the eyes.",
            f"**{interval(chosen)} right** on {chosen['count']:,} pictures of {about(document['corpus']).title}'s test "
            f"part (95 % interval in brackets), in {document['chosen']}, which a CPU runs by default. On the "
            f"{COVERAGE:.0%} of them of which it is surest, {chosen['covered']:.1%}.",
            "Every figure here was measured by `python -m export.card`, through the preprocessing and the engine that "
            f"run on a robot, on the bundle whose manifest has the digest `{document['digest'][:16]}`; `card.json` "
            "holds them all. They are those that `python -m benchmarks.accuracy` gives.",
        ]
    )


def _classes(document: Mapping[str, Any]) -> str:
    test = document["classes"]["test"]
    training = document["classes"]["training"]
    lines = ["| label | test part |", "| --- | --- |"]
    if training is not None:
        lines = ["| label | training part | share | test part |", "| --- | --- | --- | --- |"]
    for name, count in test.items():
        if training is None:
            lines.append(f"| {name} | {count:,} |")
        else:
            share = training[name] / max(1, sum(training.values()))
            lines.append(f"| {name} | {training[name]:,} | {share:.1%} | {count:,} |")
    return "\n".join(lines)


def _protocol(document: Mapping[str, Any], manifest: Manifest) -> str:
    corpus = about(document["corpus"])
    told = []
    trained = manifest.data.get("corpus", "unknown data")
    held = manifest.data.get("recipe", {}).get("held_out")
    part = f", of which {held:.0%} were held out of training" if held else ""
    told.append(
        f"Trained on {about(trained).title}'s training part{part}; temperature ({manifest.temperature:g}) and "
        f"threshold ({manifest.abstain_below:g}) were fitted without the test part."
    )
    twins = next(iter(document["precisions"].values())).get("twins")
    told.append(
        f"Tested on {document['pictures']:,} pictures of the test part"
        + (" (PublicTest; PrivateTest was not read)" if document["corpus"] == "fer2013" else "")
        + "."
    )
    if twins is not None:
        told.append(
            f"{twins} of them have a near twin in the training part (equal perceptual hash, grey levels that differ by "
            "less than 4 on average); the figures without them are given too."
        )
    if corpus.human is not None:
        told.append(
            f"People agree with the labels on {corpus.human[0]:.0%} of the pictures, give or take "
            f"{100 * corpus.human[1]:.0f} points."
        )
    told.append("Intervals are percentile bootstraps over the pictures; nobody knows which show the same person.")
    machine = document["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    told.append(f"On {machine['processor']}, with {packages}.")
    return _list(told)


def _accuracy(document: Mapping[str, Any]) -> str:
    return table(dict(document["precisions"]))


def _wrong(document: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    names = list(chosen["recall"])
    told = []
    for name, row in zip(names, chosen["confusion"], strict=True):
        true, said = sum(row), chosen["said"][name]
        if true and said < SELDOM * true:
            told.append(f"`{name}` is said {said:,} times where it is true {true:,} times: its absence says little.")
        elif said > OFTEN * true:
            told.append(f"`{name}` is said {said:,} times where it is true {true:,} times: it is said too readily.")
    shares = sorted(
        (
            (count / sum(row), names[is_], names[said])
            for is_, row in enumerate(chosen["confusion"])
            for said, count in enumerate(row)
            if is_ != said and sum(row)
        ),
        reverse=True,
    )
    for share, is_, said in shares[:3]:
        told.append(f"{share:.0%} of the faces labelled `{is_}` are read as `{said}`.")
    return "\n\n".join(
        [
            _list(told),
            f"In {document['chosen']}; a row is a true label, a cell its share of the row:",
            confusion_table(dict(chosen)),
            "![confusion](card-confusion.svg)",
        ]
    )


def _confidence(document: Mapping[str, Any], manifest: Manifest, chosen: Mapping[str, Any]) -> str:
    threshold = chosen["threshold"]
    right = "-" if threshold["accuracy"] is None else f"{threshold['accuracy']:.1%}"
    return "\n\n".join(
        [
            f"The expected calibration error is {chosen['ece']:.3f} (15 bins): so far is confidence from accuracy, on "
            f"average. A face whose confidence is under {manifest.abstain_below:g} gets the state `uncertain`: that "
            f"leaves an answer for {threshold['coverage']:.1%} of these pictures, of which {right} are right; of the "
            f"{COVERAGE:.0%} of which it is surest, {chosen['covered']:.1%} are.",
            _coverage(chosen),
            "![calibration](card-calibration.svg)",
        ]
    )


def _coverage(chosen: Mapping[str, Any]) -> str:
    lines = ["| answers for | right | confidence from |", "| --- | --- | --- |"]
    points = [one for number, one in enumerate(chosen["curve"], 1) if number % 4 == 0]
    for one in sorted([*points, chosen["threshold"]], key=lambda one: one["coverage"]):
        right = "-" if one["accuracy"] is None else f"{one['accuracy']:.1%}"
        mark = " (the threshold)" if one is chosen["threshold"] else ""
        lines.append(f"| {one['coverage']:.1%}{mark} | {right} | {one['confidence']:.3f} |")
    return "\n".join(lines)


def _robust(document: Mapping[str, Any]) -> str:
    if not document.get("robust"):
        return ""
    one = document["robust"]
    return "\n\n".join(
        [
            f"In {one['precision']}, on {one['rows'][0]['count']:,} pictures, the same change to the same picture each "
            "time. *said* is the share at or above the threshold.",
            robust.explained(),
            robust.table(one["rows"]),
            "![robustness](card-robust.svg)",
        ]
    )


def _whole(document: Mapping[str, Any]) -> str:
    if not document.get("scenes"):
        return ""
    one = document["scenes"]
    first = one["rows"][0]
    lost = ", ".join(f"{name} {share:.0%}" for name, share in first["found_by_label"].items())
    return "\n\n".join(
        [
            "The figures above are of the corpus' own crops. A robot finds, marks and cuts faces itself: here each "
            f"crop, enlarged, stands in the middle of a grey picture {scenes.WIDER} times as wide, and detector, "
            f"landmarks, alignment and network run as for any single picture ({one['precision']}, faces from "
            f"{scenes.MIN_FACE} pixels). *same eyes* is cut from the whole picture where the corpus has the eyes: what "
            "resampling alone does. All shares but *found* are of the faces found, on the same pictures; differences "
            "are in points, with their 95 % interval.",
            scenes.table(one["rows"]),
            f"The detector sees frontal faces. A crop of this corpus often ends above the brows or at the chin, and "
            f"many heads are turned, so it misses more of these than of faces at large. Found at {first['side']} "
            f"pixels, by label: {lost}.",
            "![from whole pictures](card-scenes.svg)",
        ]
    )
