"""Draws a result onto its frame, for people to look at."""

from __future__ import annotations

import cv2
import numpy as np

from edge.types import Box, Face, FaceState, Image, Result

_FONT = cv2.FONT_HERSHEY_DUPLEX
_WHITE = (255, 255, 255)
_COLOURS = {
    FaceState.OK: (96, 200, 80),
    FaceState.WARMING_UP: (210, 170, 60),
    FaceState.UNCERTAIN: (150, 150, 150),
    FaceState.LOW_QUALITY: (70, 130, 210),
    FaceState.LOST: (90, 90, 90),
}


def draw(image: Image, result: Result) -> Image:
    """A copy of the frame with boxes, labels, timings, and probability bars where there is room for them.

    Args:
        image: BGR uint8 (H, W, 3).
        result: of this frame.

    Returns:
        BGR uint8 (H, W, 3).
    """
    canvas = np.array(image)
    scale = max(0.4, min(canvas.shape[:2]) / 720)
    taken = [_frame_of(face, scale) for face in result.faces]
    for face in result.faces:
        _draw_face(canvas, face, scale)
    for face in result.faces:
        _draw_bars(canvas, face, taken, scale)
    total = result.timings_ms.get("total", 0.0)
    count = sum(face.visible for face in result.faces)
    faces = f"{count} face{'' if count == 1 else 's'}" if count else "no face"
    _text(
        canvas, f"frame {result.frame}   {faces}   {total:.1f} ms", (round(8 * scale), round(26 * scale)), scale * 0.8
    )
    return canvas


def _frame_of(face: Face, scale: float) -> Box:
    """The box with its caption."""
    caption = 34 * scale
    return Box(face.box.x, face.box.y - caption, max(face.box.width, 230 * scale), face.box.height + caption)


def _draw_face(canvas: Image, face: Face, scale: float) -> None:
    colour = _COLOURS[face.state]
    left, top = round(face.box.x), round(face.box.y)
    right, bottom = round(face.box.x + face.box.width), round(face.box.y + face.box.height)
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, max(1, round(2 * scale)), cv2.LINE_AA)
    caption = f"{face.id} {face.label} {face.confidence:.0%}"
    if face.state is not FaceState.OK:
        guess = "" if face.label is None else f" {face.label}?"
        caption = f"{face.id}{guess} {face.state.value.replace('_', ' ')}"
    size, depth = cv2.getTextSize(caption, _FONT, scale * 0.8, 1)
    height = size[1] + depth + round(6 * scale)
    above = top - height if top >= height else bottom
    cv2.rectangle(canvas, (left, above), (left + size[0] + round(8 * scale), above + height), colour, cv2.FILLED)
    _text(canvas, caption, (left + round(4 * scale), above + height - depth - round(2 * scale)), scale * 0.8)


def _draw_bars(canvas: Image, face: Face, taken: list[Box], scale: float) -> None:
    """Every label's probability, right or left of the box, or nowhere when other faces are there."""
    row, wide, gap = max(10, round(18 * scale)), round(150 * scale), round(6 * scale)
    tall = row * len(face.probabilities)
    y = max(0, min(round(face.box.y), canvas.shape[0] - tall))
    for x in (round(face.box.x + face.box.width) + gap, round(face.box.x) - wide - gap):
        place = Box(x, y, wide, tall)
        others = [box for box in taken if box.x != face.box.x or box.y + 34 * scale != face.box.y]
        if x >= 0 and x + wide <= canvas.shape[1] and not any(place.iou(box) > 0 for box in others):
            break
    else:
        return
    taken.append(place)
    panel = canvas[y : y + tall, x : x + wide]
    panel[:] = (panel * 0.45).astype(np.uint8)
    for number, (label, probability) in enumerate(face.probabilities.items()):
        top = y + number * row
        shade = _COLOURS[face.state] if label == face.label else (120, 120, 120)
        cv2.rectangle(canvas, (x, top + 1), (x + max(1, round(wide * probability)), top + row - 2), shade, cv2.FILLED)
        _text(canvas, label, (x + gap, top + row - max(3, round(5 * scale))), scale * 0.6)


def _text(canvas: Image, words: str, place: tuple[int, int], size: float) -> None:
    """White letters over their own shadow, readable on anything."""
    x, y = place
    cv2.putText(canvas, words, (x + 1, y + 1), _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(canvas, words, place, _FONT, size, _WHITE, 1, cv2.LINE_AA)
