"""What goes wrong on a GPU and nowhere else."""

from __future__ import annotations

from edge.errors import BackendError


class DeviceMemoryError(BackendError):
    """The GPU's memory is full. What was there before stays usable."""


class DeviceLostError(BackendError):
    """The GPU gave up: nothing on it can be used again by this process; ONNX Runtime on the CPU can."""
