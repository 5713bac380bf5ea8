"""One NVIDIA GPU: memory, a stream, kernels and graphs, over PyCUDA; imported only where one is asked for.

    with Device() as device:
        image, on_gpu = device.pinned((1, 3, 48, 48), "float32"), device.buffer((1, 3, 48, 48), "float32")
        device.upload(on_gpu, image)          # queued; the stream does one thing after another
        device.synchronize()                  # now it is done

Everything is allocated once, when an engine is opened; a frame only copies, launches and waits.
"""

from edge.cuda.device import Buffer, Device, Graph, Timer
from edge.cuda.errors import DeviceLostError, DeviceMemoryError
from edge.cuda.kernels import Kernels, Launch

__all__ = ["Buffer", "Device", "DeviceLostError", "DeviceMemoryError", "Graph", "Kernels", "Launch", "Timer"]
