"""Made-up motion where no video is at hand: still faces grow out of a neutral shape, as posed sequences do.

The 68 landmarks of a face go from where it would have them, were it neutral, to where they are, and the picture is bent
along. Faces differ more from each other than an expression changes one, so the start is not the mean neutral shape, but
the nearest that neutral faces take on: their mean and first principal components (Cootes et al. 1995). The label of the
face at hand is not looked at.

That is a geometric stand-in for the onset of an expression: no wrinkle appears, no tooth, and no head turns.
What is learned from it is a start or a check of the machinery, never evidence about real motion, and everything made
here says so: ``Examples.synthetic`` is set, and the corpus' name ends in ``(synthetic onsets)``.

    d(x)      where the neutral face has what the still shows at x, less x: a thin-plate spline through the landmarks
              (Bookstein 1989), zero at the border
    F_t(x)    = x + (1 - s_t) d(x): where frame t shows it;  s_t eases from 0 to 1, so the last frame is the still
    frame t   = the still at the inverse of F_t
    flow t    = F_(t+1) (inverse of F_t (p)) - p = -(s_(t+1) - s_t) d(inverse of F_t (p)): exact, not estimated
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from edge.errors import OptionError
from edge.faces.landmarks import Landmarks
from edge.types import Box, Points
from train.datasets.errors import CorpusError
from train.examples import Examples

Grey = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]

SUFFIX = " (synthetic onsets)"

FACE_BOX = (0.068, 0.159, 0.810, 0.807)
"""Left, top, width and height, as shares of the side, of dlib's detection in a crop with the eyes where C-SPP has them:
the median over 116 FER2013 training pictures in which it finds one face. Half of them have this very box."""

MARKED = 192
"""Side, in pixels, to which a crop is enlarged before landmarks are sought."""

STABLE = (*range(5), *range(12, 17), *range(27, 36), 36, 39, 42, 45)
"""Landmarks that an expression hardly moves: the jaw beside the cheeks, the nose, the corners of the eyes."""

STEEPEST = 0.7
"""Largest stretch (spectral norm of d's gradient) that is let through. Below 1, F_t has an inverse, which a fixed-point
iteration finds. An open mouth would need 1 to close: such faces start from a shape part of the way."""

AGREEMENT = 0.03
"""Landmarks from two boxes must agree to this, on average, as a share of the side; else they are not trusted. With
``plausible``, two FER2013 faces of three pass."""

_GRID = 32
_STIFFNESS = 1e-3


MODES = 5
"""Principal components of neutral faces that a start may use. In FER2013 five take the median motion of a neutral face
to two thirds of a happy one's, from nine tenths with none; ten take the happy face's motion away as well."""

LIMIT = 2.5
"""How far a start may go along one component, in standard deviations among neutral faces."""


@dataclass(frozen=True)
class Neutral:
    """The shapes of neutral faces, in units of the eyes' distance; stable landmarks do not vary."""

    mean: Points
    """float32 (68, 2), eyes at (0, 0) and (1, 0)."""
    modes: npt.NDArray[np.float32]
    """(K, 68, 2), orthonormal; K is ``MODES``, or less where there are few faces."""
    deviations: npt.NDArray[np.float32]
    """(K,), standard deviations along the modes."""


@dataclass(frozen=True)
class Onsets:
    """Clips made of still faces."""

    examples: Examples
    """Input ``clip``, uint8 (N, frames, height, width), grey."""
    skipped: int
    """Faces whose landmarks are implausible."""


def onsets(
    faces: Examples,
    frames: int = 8,
    size: tuple[int, int] = (64, 64),
    seed: int = 0,
    *,
    neutral: Neutral | None = None,
    progress: bool = True,
) -> Onsets:
    """One clip for each still face that can be marked.

    Args:
        faces: upright crops with the eyes where C-SPP has them, as FER2013's.
        frames: of a clip, 2 or more.
        size: height and width of a clip, pixels.
        seed: of the clips' pace, which differs from one to the next.
        neutral: see :func:`neutral_shapes`; None takes it from those faces that are labelled ``neutral``. For a test
            part give the training part's.
        progress: show a bar, on a terminal.

    Raises:
        OptionError: fewer than two frames, or a size under 16.
        CorpusError: no neutral face to start from, or no face that can be marked.
    """
    if frames < 2 or min(size) < 16:
        raise OptionError(
            f"onsets of {frames} frames of {size[0]}x{size[1]} can't be; expected 2 frames or more of 16x16 or more"
        )
    marked = _marks(faces, size, progress)
    if neutral is None:
        neutral = _neutral(faces, marked, size)
    kept = np.array(sorted(marked), np.int64)
    if not len(kept):
        raise CorpusError(f"{faces.corpus}: no face could be marked; expected upright crops of faces; align them first")
    clips = np.empty((len(kept), frames, *size), np.uint8)
    pictures = faces.thumbnails
    for place, i in enumerate(tqdm(kept, desc="onsets", leave=False, disable=None if progress else True)):
        pace = ease(frames, float(np.random.default_rng([seed, i]).uniform(-0.3, 0.3)))
        clips[place] = onset(_sized(pictures[i], size), marked[i], start_shape(marked[i], neutral), pace)[0]
    chosen = replace(faces, arrays={}).subset(kept)  # the still pixels, perhaps gigabytes, are not copied
    examples = replace(chosen, corpus=faces.corpus + SUFFIX, arrays={"clip": clips}, synthetic=True)
    return Onsets(examples, len(faces) - len(kept))


def neutral_shapes(faces: Examples, *, progress: bool = False) -> Neutral:
    """What shapes the neutral faces among some have.

    Args:
        faces: see :func:`onsets`; those labelled ``neutral`` are used.
        progress: show a bar, on a terminal.

    Raises:
        CorpusError: no neutral face that can be marked.
    """
    if "neutral" in faces.names:
        faces = faces.subset(np.flatnonzero(faces.labels == faces.names.index("neutral")))
    size = MARKED, MARKED
    return _neutral(faces, _marks(faces, size, progress), size)


def ease(frames: int, skew: float = 0.0) -> npt.NDArray[np.float64]:
    """s_t: from 0 to 1 over (frames,), with zero speed at both ends; a positive skew starts later."""
    time = np.linspace(0, 1, frames) ** np.exp(skew)
    return time * time * (3 - 2 * time)


def start_shape(points: Points, neutral: Neutral) -> Points:
    """Where a face would have its landmarks, were it neutral.

    The best affine map of its stable landmarks onto the mean neutral face's takes out pose and proportions. There, the
    nearest shape that neutral faces take on is found. The stable landmarks themselves stay where they are.

    Args:
        points: float32 (68, 2), pixels.
        neutral: of :func:`neutral_shapes`.

    Returns:
        float32 (68, 2), pixels.
    """
    excess, linear = _excess(points.astype(float), neutral.mean)
    modes = neutral.modes.reshape(len(neutral.modes), -1).astype(float)
    limits = LIMIT * neutral.deviations
    along = np.clip(modes @ excess.ravel(), -limits, limits)
    expression = excess - (along @ modes).reshape(excess.shape)
    return (points - np.linalg.solve(linear.T, expression.T).T).astype(np.float32)


def _excess(
    points: npt.NDArray[np.float64], mean: npt.NDArray[np.generic]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A shape less the mean, (68, 2) in the mean's frame, 0 at stable landmarks; and the (2, 2) that leads there."""
    stable = list(STABLE)
    homogeneous = np.hstack([points, np.ones((len(points), 1))])
    affine = np.linalg.lstsq(homogeneous[stable], mean[stable].astype(float), rcond=None)[0]
    excess = homogeneous @ affine - mean
    excess[stable] = 0
    return excess, affine[:2]


def onset(still: Grey, points: Points, start: Points, pace: npt.NDArray[np.float64]) -> tuple[Grey, Field]:
    """A clip from a start shape to a still, and its motion.

    Args:
        still: uint8 (H, W).
        points: float32 (68, 2), the still's landmarks, pixels.
        start: float32 (68, 2), where the first frame shall have them.
        pace: (T,), s_t: 0 to 1.

    Returns:
        uint8 (T, H, W), the last of which is the still where pace ends at 1; float32 (T - 1, H, W, 2), x then y, in
        pixels: what is at p in frame t is at p + field[t][p] in frame t + 1.
    """
    height, width = still.shape
    there = _displacement(points, start, height, width)
    grid = np.dstack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)))
    clip = np.empty((len(pace), height, width), np.uint8)
    fields = np.empty((len(pace) - 1, height, width, 2), np.float32)
    x = grid
    for t, s in enumerate(pace):
        if s == 1:
            clip[t], x = still, grid
        else:
            x = _inverse(there, np.float32(1 - s), grid, x)
            clip[t] = cv2.remap(still, x[..., 0], x[..., 1], cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        if t < len(fields):
            fields[t] = -np.float32(pace[t + 1] - s) * _at(there, x)
    return clip, fields


def _inverse(there: Field, share: np.float32, grid: Field, x: Field) -> Field:
    """The x with x + share * d(x) = grid, from a first guess; d is a contraction (see ``STEEPEST``)."""
    for _ in range(40):
        better = grid - share * _at(there, x)
        done = float(np.abs(better - x).max()) < 0.01
        x = better
        if done:
            break
    return x


def _at(there: Field, x: Field) -> Field:
    return np.asarray(
        cv2.remap(there, x[..., 0], x[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def _displacement(points: Points, start: Points, height: int, width: int) -> Field:
    """The field d of the module's text on every pixel: float32 (H, W, 2)."""
    # In units of the picture's sides, so that the spline is equally stiff at any size.
    scale = np.array([width, height], float)
    across, down = (np.linspace(0, 1, 5) for _ in range(2))
    border = [(a, b) for a in across for b in down if a in (0, 1) or b in (0, 1)]
    knots = np.vstack([(points + 0.5) / scale, border])
    values = np.vstack([(start - points).astype(float), np.zeros((len(border), 2))])
    count = len(knots)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = _kernel(knots, knots) + _STIFFNESS * np.eye(count)
    system[:count, count:] = np.hstack([np.ones((count, 1)), knots])
    system[count:, :count] = system[:count, count:].T
    weights = np.linalg.solve(system, np.vstack([values, np.zeros((3, 2))]))
    # The spline is smooth: every few pixels will do, and what lies between is part of d's definition.
    rows, columns = min(_GRID, height), min(_GRID, width)
    u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    nodes = np.stack([u.ravel(), v.ravel()], axis=1)
    coarse = np.hstack([_kernel(nodes, knots), np.ones((len(nodes), 1)), nodes]) @ weights
    field = cv2.resize(coarse.reshape(rows, columns, 2), (width, height), interpolation=cv2.INTER_CUBIC)
    gradients = [np.gradient(field[..., i], axis=axis) for i in range(2) for axis in (1, 0)]
    jacobian = np.stack(gradients, axis=-1).reshape(height, width, 2, 2)
    steepest = float(np.linalg.norm(jacobian, ord=2, axis=(2, 3)).max())
    return np.asarray(field * min(1.0, STEEPEST / max(steepest, 1e-9)), np.float32)


def _kernel(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """r^2 log r between two sets of points; 0 where they coincide."""
    squared = ((one[:, None] - other[None]) ** 2).sum(axis=-1)
    return 0.5 * squared * np.log(np.maximum(squared, 1e-20))


# -- landmarks --------------------------------------------------------------------------------------------------------


def _marks(faces: Examples, size: tuple[int, int], progress: bool) -> dict[int, Points]:
    """Plausible landmarks by example, in pixels of a crop of that size (height, width)."""
    landmarks = Landmarks("68")
    found = {}
    bar = tqdm(faces.thumbnails, desc="landmarks", leave=False, disable=None if progress else True)
    for i, picture in enumerate(bar):
        large = _sized(picture, (MARKED, MARKED))
        x, y, width, height = (share * MARKED for share in FACE_BOX)
        points = landmarks.points(large, Box(x, y, width, height))
        # A predictor that found the face ends in the same place from a slightly different start.
        other = landmarks.points(large, Box(x + 0.04 * width, y - 0.04 * height, width, height))
        apart = float(np.hypot(*(points - other).T).mean()) / MARKED
        if apart < AGREEMENT and plausible(points / np.float32(MARKED)):
            found[i] = ((points + 0.5) * (size[1] / MARKED, size[0] / MARKED) - 0.5).astype(np.float32)
    return found


def plausible(points: Points) -> bool:
    """Whether landmarks can be an upright frontal face that fills a crop.

    Args:
        points: (68, 2), as shares of the crop's side.
    """
    left, right, mouth = points[36:42].mean(axis=0), points[42:48].mean(axis=0), points[48:68].mean(axis=0)
    across, down = right - left
    middle = (left + right) / 2
    return bool(
        0.24 < across < 0.5
        and abs(down) < 0.35 * across  # some 20 degrees of roll
        and 0.6 * across < mouth[1] - middle[1] < 1.7 * across
        and abs(mouth[0] - middle[0]) < 0.45 * across
        and left[0] < points[30, 0] < right[0]
        and points.min() > -0.15
        and points.max() < 1.15
    )


def _neutral(faces: Examples, marked: dict[int, Points], size: tuple[int, int]) -> Neutral:
    if "neutral" not in faces.names:
        raise CorpusError(
            f"{faces.corpus}: no label is neutral, so there is no shape to start from; "
            "expected neutral faces among them; give neutral=neutral_shapes(faces that have some)"
        )
    label = faces.names.index("neutral")
    shapes = [_normalised(points, size) for i, points in marked.items() if faces.labels[i] == label]
    if not shapes:
        raise CorpusError(
            f"{faces.corpus}: no neutral face could be marked; expected some among the faces; "
            "give neutral=neutral_shapes(faces that have some)"
        )
    mean = np.mean(shapes, axis=0)
    excess = np.stack([_excess(shape, mean)[0].ravel() for shape in shapes])
    centre = excess.mean(axis=0)
    modes = np.linalg.svd(excess - centre, full_matrices=False)[2][: min(MODES, len(shapes) - 1)]
    deviations = ((excess - centre) @ modes.T).std(axis=0)
    return Neutral(
        (mean + centre.reshape(mean.shape)).astype(np.float32),
        modes.reshape(len(modes), *mean.shape).astype(np.float32),
        deviations.astype(np.float32),
    )


def _normalised(points: Points, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """With the eyes at (0, 0) and (1, 0)."""
    # Undo a change of proportions, if the size made one.
    square = (points.astype(float) + 0.5) / (size[1], size[0])
    numbers = square[:, 0] + 1j * square[:, 1]
    left, right = numbers[36:42].mean(), numbers[42:48].mean()
    numbers = (numbers - left) / (right - left)
    return np.stack([numbers.real, numbers.imag], axis=1)


def _sized(picture: Grey, size: tuple[int, int]) -> Grey:
    if picture.shape == size:
        return picture
    smoothing = cv2.INTER_CUBIC if size[0] >= picture.shape[0] else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, (size[1], size[0]), interpolation=smoothing), np.uint8)
