"""Optical flow behind one contract: two grey pictures in, the motion of every pixel out."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.errors import FrameError, OptionError
from edge.flow import cpu
from edge.flow.contract import CLG, DIS, METHODS, SMALLEST, Field, Grey, Method

FLOWS = tuple(METHODS)

__all__ = ["CLG", "DIS", "FLOWS", "SMALLEST", "Field", "Method", "flow", "flow_image", "named"]


def named(name: str, **parameters: Any) -> Method:
    """A method by its name, parameters that are not given at their defaults; undoes ``asdict``.

    Args:
        name: one of ``FLOWS``.
        parameters: see :class:`DIS` and :class:`CLG`.

    Raises:
        OptionError: unknown name or parameter.
    """
    if name not in METHODS:
        raise OptionError(f"flow {name!r} is unknown; expected one of {', '.join(FLOWS)}")
    known = [one.name for one in fields(METHODS[name]) if one.init]
    if unknown := sorted(set(parameters) - set(known)):
        raise OptionError(f"flow {name!r} has no parameter {unknown[0]!r}; expected some of {', '.join(known)}")
    return METHODS[name](**parameters)


def flow(before: Grey, after: Grey, method: Method | str = "dis") -> Field:
    """The motion between two pictures.

    Args:
        before: uint8 (H, W), each side 16 pixels or more.
        after: uint8 (H, W), the next picture.
        method: ``dis``, ``clg``, or one of them with its parameters. ``dis`` is the faster, ``clg`` the one that Pan et
            al. 2019 use.

    Returns:
        float32 (H, W, 2), x then y, pixels: what is at p in ``before`` is at p + flow[p] in ``after``.

    Raises:
        FrameError: not two such pictures.
        OptionError: unknown method.
    """
    chosen = named(method) if isinstance(method, str) else method
    for name, picture in (("before", before), ("after", after)):
        _check(name, picture)
    if before.shape != after.shape:
        raise FrameError(
            f"flow: before is {before.shape} and after {after.shape}; expected one size; resize one of them"
        )
    before, after = np.ascontiguousarray(before), np.ascontiguousarray(after)
    return cpu.dis(before, after, chosen) if isinstance(chosen, DIS) else cpu.clg(before, after, chosen)


def flow_image(field: Field) -> npt.NDArray[np.uint8]:
    """A motion field as a picture that a network for pictures can read (Zhang et al. 2019, section III-A).

    Args:
        field: float32 (H, W, 2), pixels.

    Returns:
        uint8 (H, W, 3): x, y and magnitude, each 16 * d + 128, rounded and clamped to 0..255; 128 where nothing moves.

    Raises:
        FrameError: not a motion field.
    """
    if not isinstance(field, np.ndarray) or field.ndim != 3 or field.shape[2] != 2 or field.dtype.kind != "f":
        raise FrameError(f"flow image of {_described(field)}; expected float32 (H, W, 2); give what flow() returned")
    magnitude = np.hypot(field[..., 0], field[..., 1])
    channels = np.rint(16 * np.dstack([field, magnitude]) + 128)
    return np.asarray(np.clip(channels, 0, 255), np.uint8)


def _check(name: str, picture: object) -> None:
    if not isinstance(picture, np.ndarray) or picture.ndim != 2 or picture.dtype != np.uint8:
        raise FrameError(
            f"flow: {name} is {_described(picture)}; expected a grey picture, uint8 (H, W): "
            "cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)"
        )
    if min(picture.shape) < SMALLEST:
        raise FrameError(
            f"flow: {name} is {picture.shape[1]}x{picture.shape[0]} pixels; "
            f"expected {SMALLEST}x{SMALLEST} or larger; enlarge it"
        )


def _described(thing: object) -> str:
    return f"{thing.dtype} {thing.shape}" if isinstance(thing, np.ndarray) else f"a {type(thing).__name__}"
