"""Which optical flows there are, with every number that fixes their result: a bundle records ``asdict`` of one."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge.errors import OptionError

Grey = npt.NDArray[np.uint8]
"""A grey picture: uint8 (H, W)."""

Field = npt.NDArray[np.float32]
"""A motion field: float32 (H, W, 2), x then y, in pixels a frame. What is at p in the first picture is at p + field[p]
in the second."""

SMALLEST = 16
"""A picture with a shorter side, in pixels, is refused: there is nothing to follow in it."""

WIDEST = 2.5
"""The largest standard deviation of a smoothing window, in pixels: windows end at three of them, and the GPU's kernels
hold eight pixels on each side."""


@dataclass(frozen=True, slots=True)
class DIS:
    """Dense inverse search (Kroeger et al. 2016), as OpenCV has it, with the settings it calls ``fast``.

    Raises:
        OptionError: a number that can't be.
    """

    name: str = field(default="dis", init=False)
    finest_scale: int = 2
    """Patches are followed down to a picture 2**finest_scale times smaller than the whole one."""
    patch_size: int = 8
    """Pixels at each scale."""
    patch_stride: int = 4
    """Pixels at each scale."""
    descent_iterations: int = 16
    """Gradient steps a patch."""
    refinement_iterations: int = 5
    """Steps of the variational refinement after each scale."""

    def __post_init__(self) -> None:
        for name, least in (
            ("finest_scale", 0),
            ("patch_size", 4),
            ("patch_stride", 1),
            ("descent_iterations", 1),
            ("refinement_iterations", 0),
        ):
            _at_least(self.name, name, getattr(self, name), least)


@dataclass(frozen=True, slots=True)
class CLG:
    """Horn and Schunck in the combined local-global form of Bruhn, Weickert and Schnoerr (IJCV 2005, section 3).

    The quadratic form for two frames, in a pyramid with warping. Pictures are read as grey levels 0..255; the weights
    below are in that unit.

    Raises:
        OptionError: a number that can't be.
    """

    name: str = field(default="clg", init=False)
    alpha: float = 15.0
    """Weight of global smoothness (Horn and Schunck's alpha), in squared grey levels a squared pixel."""
    rho: float = 2.0
    """Standard deviation, in pixels, of the Gaussian that smooths the motion tensor (Lucas and Kanade's window), up to
    2.5; 0 is plain Horn and Schunck."""
    sigma: float = 0.6
    """Standard deviation, in pixels, of the Gaussian that smooths the pictures first, up to 2.5."""
    coarsest: int = 12
    """Each level of the pyramid has half the sides of the finer one, rounded up; the last is the one before a side
    would have fewer pixels than this."""
    warps: int = 2
    """How often, at each level, the second picture is warped back and the equations are linearised anew."""
    iterations: int = 16
    """Relaxation steps after each warp."""
    spectral_radius: float = 0.99
    """Assumed of the relaxation, 0 to under 1. Where the picture is flat, information only diffuses, and the true value
    is just below 1; a lower one trusts the coarser level more there, and never prevents convergence."""

    def __post_init__(self) -> None:
        for name, least in (
            ("alpha", 1e-3),
            ("rho", 0),
            ("sigma", 0),
            ("coarsest", 4),
            ("warps", 1),
            ("iterations", 1),
        ):
            _at_least(self.name, name, getattr(self, name), least)
        for name, value, most in (
            ("rho", self.rho, WIDEST),
            ("sigma", self.sigma, WIDEST),
            ("spectral_radius", self.spectral_radius, 0.9999),
        ):
            if not 0 <= value <= most:
                raise OptionError(
                    f"flow {self.name!r}: {name} is {value}; expected 0 to {most:g}; leave it out for the default"
                )


def _at_least(flow: str, name: str, value: float, least: float) -> None:
    if not value >= least:
        raise OptionError(f"flow {flow!r}: {name} is {value}; expected {least:g} or more; leave it out for the default")


Method = DIS | CLG
METHODS: dict[str, type[DIS] | type[CLG]] = {"dis": DIS, "clg": CLG}
