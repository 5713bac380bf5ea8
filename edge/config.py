"""``edge.toml``: all that ``edge run`` can be told, in a file.

Its keys are the long options of ``edge run``, and ``source``; what the command line says wins. There are no sections:

    source = "v4l2:///dev/video0?width=1280&height=720"
    precision = "int8"
    preview = true
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge.errors import MissingPackageError, OptionError
from edge.sources.uri import shown

SYSTEM = Path("/etc/edge/edge.toml")
"""Where a service's file is."""

NOT_IN_FILES = ("help", "config", "without")

EXAMPLES: Mapping[str, object] = {
    "source": "v4l2:///dev/video0?width=1280&height=720",
    "bundle": "face",
    "min-face": 60,
    "jsonl": "/var/lib/edge/faces.jsonl",
    "video": "/var/lib/edge/faces.mp4",
    "preview": "127.0.0.1:8765",
    "budget-ms": 33.0,
    "record": "/var/lib/edge/run",
    "max-frames": 1000,
    "mqtt": "mqtt://localhost:1883/edge",
    "ros": "zenoh://localhost:7447",
}
"""What a key may look like where it has no default."""

NEEDS: Mapping[str, tuple[str, ...]] = {
    "preview": ("starlette", "uvicorn", "websockets", "prometheus_client"),
    "ros": ("rosbags",),
    "mqtt": ("paho",),
}
"""The modules of the extras of the same names."""


def keys(run: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """What a file may say, in the command line's order: each option's long name and the option.

    Args:
        run: the parser of ``edge run``.
    """
    # argparse has no public list of what was added to it.
    named = {_name(action): action for action in run._actions}
    return {name: action for name, action in named.items() if name not in NOT_IN_FILES}


def load(path: Path, run: argparse.ArgumentParser) -> dict[str, object]:
    """A file's values, checked, by key; a key that is ``false`` says nothing.

    Raises:
        OptionError: no such file, not TOML, an unknown key, or a value that the option does not take.
        MissingPackageError: Python 3.10 without tomli.
    """
    known = keys(run)
    values = {}
    for name, value in _read(path).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.6)
            expected = f"did you mean {near[0]}?" if near else f"expected of {', '.join(known)}"
            raise OptionError(f"{path}: unknown key {name!a}; {expected}")
        if isinstance(value, dict):
            raise OptionError(
                f"{path}: {name} is a section, and there are none; write  {name} = ... above the first [...]"
            )
        try:
            values[name] = _checked(known[name], value)
        except ValueError as error:
            raise OptionError(f"{path}: {name} = {_toml(value)} is not {error}") from None
    return {name: value for name, value in values.items() if value is not False}


def defaults(run: argparse.ArgumentParser, values: Mapping[str, object]) -> dict[str, object]:
    """Values by key as argparse's defaults: by the names that options have in Python."""
    known = keys(run)
    return {known[name].dest: value for name, value in values.items()}


def without(values: Mapping[str, object], names: Iterable[str], run: argparse.ArgumentParser) -> dict[str, object]:
    """Values less those that the command line does not want.

    Raises:
        OptionError: a name that is no key.
    """
    left = dict(values)
    for name in (name.strip() for several in names for name in several.split(",")):
        if name not in keys(run):
            raise OptionError(f"--without {name!a}: no such key; expected of {', '.join(keys(run))}")
        left.pop(name, None)
    return left


def table(options: argparse.Namespace, run: argparse.ArgumentParser, said: Iterable[str]) -> str:
    """What would run, a line a key; what is not among ``said`` is a default. No password is shown."""
    said, lines = set(said), []
    for name, action in keys(run).items():
        value = getattr(options, action.dest)
        text = "-" if value in (None, False) else "yes" if value is True else shown(str(value))
        lines.append(f"  {name:<15} {text}{'' if name in said else '  (default)'}")
    return "\n".join(lines)


def commented(run: argparse.ArgumentParser) -> str:
    """Every key as commented TOML, with its meaning, and its default or an example."""
    lines = [
        "# edge.toml: what edge run does. Each key is an option of edge run; the command line wins.",
        "# A line that begins with '#' is not in force. Check: edge config check FILE",
    ]
    for name, action in keys(run).items():
        meaning = " ".join((action.help or "").replace("%%", "%").split())
        if action.choices is not None:
            meaning = f"{meaning + ': ' if meaning else ''}{', '.join(map(str, action.choices))}"
        default = action.default not in (None, False)
        value = action.default if default else False if _is_flag(action) else EXAMPLES.get(name, "...")
        lines += ["", f"# {meaning}" if meaning else f"# {name}"]
        lines.append(f"#{name} = {_toml(value)}" + ("" if default or _is_flag(action) else "  # (an example)"))
    return "\n".join(lines)


def require_packages(path: Path, options: argparse.Namespace) -> None:
    """Whether what the outputs need is installed, without importing it.

    Raises:
        MissingPackageError: it is not.
    """
    carrier = "cyclonedds" if str(options.ros).startswith("dds") else "zenoh"
    for name, modules in {**NEEDS, "ros": (*NEEDS["ros"], carrier)}.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if getattr(options, name) is not None and missing:
            raise MissingPackageError(
                f"{path}: {name} needs {', '.join(missing)}; type: pip install 'edge-emotion[{name}]'"
            )


def _read(path: Path) -> dict[str, object]:
    # Python's own since 3.11. By its name, since a type checker sees one Python's modules alone.
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        toml = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"a configuration file needs {name}; type: pip install {name}") from error
    try:
        values: dict[str, object] = toml.loads(path.read_text(encoding="utf-8"))
        return values
    except OSError as error:
        raise OptionError(f"{path}: can't be read ({error.strerror}); to begin one, type: edge config show") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are both
        raise OptionError(f'{path}: not TOML ({error}); expected lines such as  source = "0"') from error


def _name(action: argparse.Action) -> str:
    longs = [option for option in action.option_strings if option.startswith("--")]
    return longs[0].removeprefix("--") if longs else action.dest


def _is_flag(action: argparse.Action) -> bool:
    return action.nargs == 0


def _checked(action: argparse.Action, value: object) -> object:
    """A value as the option would have it; ValueError says what it should have been."""
    optional = action.nargs == "?" and bool(action.option_strings)  # an option whose value may be left out
    if isinstance(value, bool):
        if _is_flag(action):
            return value
        if optional:
            return action.const if value else False
    if _is_flag(action):
        raise ValueError("true or false")
    if action.type in (int, float):
        kind = "a whole number" if action.type is int else "a number"
        if isinstance(value, bool) or not isinstance(value, int | (int if action.type is int else float)):
            raise ValueError(kind)
        return action.type(value)
    # A camera's number, and a choice such as 68, may do without quotation marks.
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError("text in quotation marks" + (", true or false" if optional else ""))
    if action.choices is not None and str(value) not in action.choices:
        raise ValueError(f"one of {', '.join(map(_toml, action.choices))}")
    return str(value)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # What JSON and TOML escape alike.
        return '"' + shown(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    return str(value)
