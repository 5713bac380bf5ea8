"""``edge doctor``: what this machine is, which backends run, and what to type for those that don't."""

from __future__ import annotations

from edge.device import REMEDIES, Machine, describe
from edge.errors import EdgeError


def screen(machine: Machine | None = None) -> tuple[str, bool]:
    """The report, and whether the default bundle runs here."""
    machine = machine or describe()
    memory = "" if machine.memory_gib is None else f", {machine.memory_gib:.1f} GiB"
    lines = [
        f"machine   {machine.board or machine.processor}, {machine.cores} cores{memory}",
        f"system    {machine.system}, Python {machine.python}",
        f"jetson    {f'L4T {machine.l4t}' if machine.l4t else 'no'}",
        f"cuda      {'driver found' if machine.cuda_driver else 'no driver'}",
        f"cameras   {', '.join(machine.cameras) or 'none'}",
        "",
    ]
    for name, version in machine.packages.items():
        if version is not None:
            lines.append(f"  ok  {name} {version}")
        elif name in REMEDIES:
            lines.append(f"  NO  {name}: type {REMEDIES[name]}")
    missing = [name for name in REMEDIES if machine.packages.get(name) is None]
    if {"numpy", "opencv"} & set(missing):
        # Nothing further can be looked at without these two.
        return "\n".join(lines), False
    from edge.bundle import Bundle, packaged
    from edge.engine import open_engine
    from edge.faces.landmarks import MODELS, model_path

    marked = False
    for model in MODELS:
        try:
            model_path(model)
            lines.append(f"  ok  landmarks {model}")
            marked = True
        except EdgeError as error:
            lines.append(f"  NO  landmarks {model}: {error}")
    lines.append("")
    runs = False
    for backend in ("onnxruntime", "tensorrt"):
        try:
            engine = open_engine(Bundle.open(), backend)
            engine.close()
            lines.append(f"  ok  backend {backend} ({engine.precision})")
            runs = True
        except EdgeError as error:
            lines.append(f"  NO  backend {backend}: {error}")
    lines += _verdicts()
    lines.append(f"  --  bundles in the package: {', '.join(packaged()) or 'none'}")
    return "\n".join(lines), runs and marked and not missing


def _verdicts() -> list[str]:
    """What TensorRT was found to be worth here, a line for each engine: the newest verdict on each bundle."""
    from edge.engine.admission import every

    newest = {}
    for verdict in sorted(every(), key=lambda one: one.when):
        newest[verdict.bundle] = verdict
    lines = []
    for verdict in newest.values():
        lines.append(f"  --  {verdict}")
        lines += [f"      {'ok' if row.admitted else 'NO'}  {row}" for row in verdict.rows]
    return lines
