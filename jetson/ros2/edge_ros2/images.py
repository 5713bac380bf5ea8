"""sensor_msgs/Image as the picture that edge takes, without cv_bridge, which needs the OpenCV that ROS has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

CHANNELS = {"bgr8": 3, "8UC3": 3, "rgb8": 3, "bgra8": 4, "rgba8": 4, "mono8": 1, "8UC1": 1}
"""The encodings that are understood, and their channels."""


def to_bgr(message: Any) -> npt.NDArray[np.uint8]:
    """A picture, BGR uint8 (H, W, 3).

    Args:
        message: a sensor_msgs/Image.

    Raises:
        ValueError: an encoding that is not understood, or less data than its size says.
    """
    if message.encoding not in CHANNELS:
        raise ValueError(f"encoding {message.encoding!r} is not understood; expected one of {', '.join(CHANNELS)}")
    channels = CHANNELS[message.encoding]
    height, width, step = message.height, message.width, message.step
    data = np.frombuffer(message.data, np.uint8)
    if step < width * channels or data.size < height * step:
        raise ValueError(
            f"{width}x{height} {message.encoding} with rows of {step} bytes is more than {data.size} bytes"
        )
    # Rows may be padded.
    picture = data[: height * step].reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if channels == 1:
        return np.repeat(picture, 3, axis=2)
    blue_first = picture[:, :, :3] if message.encoding.startswith(("bgr", "8UC")) else picture[:, :, 2::-1]
    return np.ascontiguousarray(blue_first)
