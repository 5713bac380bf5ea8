"""The device over the real PyCUDA and the tests' driver. Run by test_pycuda.py, in a process of its own."""

import gc
import threading
from pathlib import Path

import control
import numpy as np
import pytest

from edge.cuda import Device, DeviceLostError, DeviceMemoryError
from edge.errors import BackendError, ClosedError

SCALE = Path(__file__).with_name("scale.cu")
ILLEGAL_ADDRESS, LAUNCH_FAILED, UNKNOWN = 700, 719, 999


class Frame:
    """What a frame does: numbers to the GPU, a kernel there, the answer back."""

    def __init__(self, device, size=1000):
        self.device, self.size = device, size
        self.given, self.got = device.pinned((size,), np.float32), device.pinned((size,), np.float32)
        self.x, self.y, self.b = (device.buffer((n,), np.float32) for n in (size, size, 1))
        self.kernels = device.kernels([SCALE])
        self.run = self.kernels.launch("scale", ((size + 255) // 256,), (256,), [self.x, self.y, size, 2.0, self.b], 4)
        device.upload(self.b, np.array([0.5], np.float32))

    def work(self):
        self.device.upload(self.x, self.given)
        self.run()
        self.device.download(self.got, self.y)


def test_facts_and_close(device):
    assert device.name == "Orin of the tests"
    assert device.capability == (8, 7)
    assert device.driver_version == (13, 2)
    assert device.memory == device.free_memory() == 1 << 30
    assert device.stream
    device.close()
    device.close()
    for use in (device.synchronize, device.free_memory, lambda: device.buffer((1,), "uint8"), device.timer):
        with pytest.raises(ClosedError, match="was closed; open another Device"):
            use()


def test_copies_happen_in_the_order_of_the_stream_and_are_done_after_synchronize(device):
    given, got = (device.pinned((3, 5), np.float32) for _ in range(2))
    assert not given.any()
    one, two = device.buffer((3, 5), "float32"), device.buffer((3, 5), np.float32)
    assert (one.nbytes, one.shape, one.dtype) == (60, (3, 5), np.float32)
    given[:] = np.arange(15).reshape(3, 5)
    device.upload(one, given)
    device.copy(two, one)
    device.clear(two.part(5, (5,)))
    device.download(got, two)
    assert not got.any()
    device.synchronize()
    assert np.array_equal(got, [[0, 1, 2, 3, 4], [0] * 5, [10, 11, 12, 13, 14]])


def test_an_array_that_is_not_pinned_is_copied_at_once(device):
    on_gpu = device.buffer((4,), np.int64)
    device.upload(on_gpu, np.arange(4))
    got = np.zeros(4, np.int64)
    device.download(got, on_gpu)
    assert got.tolist() == [0, 1, 2, 3]


def test_sizes_that_differ_are_refused(device):
    on_gpu = device.buffer((4,), np.float32)
    for wrong in (np.zeros(5, np.float32), np.zeros(4), np.zeros((4, 2), np.float32)[:, 0]):
        with pytest.raises(ValueError, match="16 bytes from or to"):
            device.upload(on_gpu, wrong)
        with pytest.raises(ValueError, match="expected as many, C-contiguous"):
            device.download(wrong, on_gpu)
    with pytest.raises(ValueError, match="their sizes differ"):
        device.copy(on_gpu, on_gpu.part(0, (3,)))
    for start, shape in ((-1, (1,)), (1, (4,)), (0, (5,))):
        with pytest.raises(ValueError, match="does not lie within"):
            on_gpu.part(start, shape)


def test_a_kernel_runs_on_what_the_compiler_made(device):
    frame = Frame(device)
    frame.given[:] = np.arange(1000)
    frame.work()
    device.synchronize()
    assert np.array_equal(frame.got, 2 * np.arange(1000, dtype=np.float32) + 0.5)


def test_arguments_that_are_not_the_kernels_are_refused(device):
    frame = Frame(device)
    with pytest.raises(BackendError, match="has a kernel 'scael'; expected an extern"):
        frame.kernels.launch("scael", (1,), (1,), [])
    too_few = frame.kernels.launch("scale", (1,), (1,), [frame.x, frame.y, 1, 2.0], 4)
    with pytest.raises(BackendError, match="starting scale failed"):
        too_few()
    too_many_threads = frame.kernels.launch("scale", (1,), (2048,), [frame.x, frame.y, 1, 2.0, frame.b], 4)
    with pytest.raises(BackendError, match="invalid argument"):
        too_many_threads()
    frame.work()
    device.synchronize()


def test_what_a_kernel_writes_too_far_is_found(device):
    """The guards of the tests' driver can fail."""
    y = device.buffer((8,), np.float32)
    device.kernels([SCALE]).launch("overrun", (1,), (32,), [y, 8])()
    device.synchronize()
    assert control.count("overruns") == 1
    device.copy(y, device.buffer((8,), np.float32))
    control.forgive()


def test_a_graph_does_it_again_in_one_call_and_allocates_nothing(device):
    frame = Frame(device)
    graph = device.capture(frame.work)
    assert graph.refusal is None
    calls = (
        "cuMemAlloc_v2",
        "cuMemHostAlloc",
        "cuStreamCreate",
        "cuEventCreate",
        "cuLaunchKernel",
        "cuMemcpyHtoDAsync_v2",
    )
    before, launches = {name: control.count(name) for name in calls}, control.count("cuGraphLaunch")
    for number in range(20):
        frame.given[:] = number
        graph()
        device.synchronize()
        assert (frame.got == 2 * number + 0.5).all()
    assert {name: control.count(name) for name in calls} == before
    assert control.count("cuGraphLaunch") == launches + 20
    assert control.count("run:scale") >= 21


@pytest.mark.parametrize("spoiler", ["allocates", "waits", "raises"])
def test_what_cannot_be_captured_is_done_anew_each_time(device, spoiler):
    frame, times = Frame(device), []

    def work():
        frame.work()
        times.append(1)
        if spoiler == "allocates":
            device.buffer((4,), np.uint8)
        elif spoiler == "waits":
            device.synchronize()
        elif len(times) == 2:
            raise RuntimeError("enqueueing failed")

    graph = device.capture(work)
    assert graph.refusal
    assert ("enqueueing failed" if spoiler == "raises" else "capturing") in graph.refusal
    for number in (3, 4):
        frame.given[:] = number
        graph()
        device.synchronize()
        assert (frame.got == 2 * number + 0.5).all()
    assert len(times) == 4
    assert device.lost is None


def test_a_driver_that_makes_no_graphs(device):
    frame = Frame(device)
    for routine in ("cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags", "cuGraphUpload"):
        control.fail(routine, 801)
        graph = device.capture(frame.work)
        assert "not supported" in graph.refusal
        frame.given[:] = 1
        graph()
        device.synchronize()
        assert frame.got[0] == 2.5


def test_time(device):
    frame, timer = Frame(device), device.timer()
    timer.start()
    frame.work()
    timer.stop()
    assert 0 < timer.ms < 1000


def test_full_memory_is_said_and_survived(device):
    frame = Frame(device)
    with pytest.raises(DeviceMemoryError) as caught:
        device.buffer((1 << 30,), np.float32)
    says = str(caught.value)
    assert says.startswith("Orin of the tests: out of GPU memory while allocating 4096.0 MiB (1024.0 MiB of 1024.0 MiB")
    assert "--backend onnxruntime" in says
    assert "\n" not in says
    control.fail("cuMemHostAlloc", 2)
    with pytest.raises(DeviceMemoryError, match=r"while page-locking 0\.0 MiB"):
        device.pinned((4,), np.float32)
    assert isinstance(caught.value, BackendError)
    frame.given[:] = 7
    frame.work()
    device.synchronize()
    assert frame.got[0] == 14.5


@pytest.mark.parametrize("code", [ILLEGAL_ADDRESS, LAUNCH_FAILED, UNKNOWN])
def test_a_lost_device_is_said_and_everything_given_back(device, code):
    frame = Frame(device)
    control.fail("run:scale", code)
    frame.work()
    with pytest.raises(DeviceLostError) as caught:
        device.synchronize()
    says = str(caught.value)
    assert says.startswith("Orin of the tests was lost while waiting for it (cuStreamSynchronize failed: ")
    assert "--backend onnxruntime" in says
    assert "\n" not in says
    assert device.lost == says
    asked = control.count("cuMemAlloc_v2")
    uses = [frame.work, frame.run, device.synchronize, lambda: device.buffer((1,), "uint8"), device.timer]
    for use in uses:
        with pytest.raises(DeviceLostError):
            use()
    with pytest.raises(DeviceLostError):
        device.capture(frame.work)
    assert control.count("cuMemAlloc_v2") == asked, "a lost device is left in peace"
    device.close()


def test_after_a_lost_device_the_process_goes_on_with_onnx_runtime(device):
    from edge.bundle import ANSWER, WINDOW, Bundle
    from edge.engine import open_engine

    frame = Frame(device)
    control.fail("run:scale", ILLEGAL_ADDRESS)
    frame.work()
    with pytest.raises(DeviceLostError):
        device.synchronize()
    device.close()
    bundle = Bundle.open()
    engine = open_engine(bundle, "onnxruntime")
    inputs = {one.name: np.zeros(one.shape, one.dtype) for one in bundle.manifest.graphs[WINDOW].inputs}
    assert np.isfinite(engine.run(inputs)[ANSWER]).all()
    engine.close()


@pytest.mark.parametrize("code", [1, LAUNCH_FAILED])
@pytest.mark.parametrize(
    "routine",
    [
        "cuDevicePrimaryCtxRetain",
        "cuCtxPushCurrent_v2",
        "cuCtxPopCurrent_v2",
        "cuStreamCreate",
        "cuMemAlloc_v2",
        "cuMemHostAlloc",
        "cuModuleLoadData",
        "cuModuleGetFunction",
        "cuMemcpyHtoDAsync_v2",
        "cuLaunchKernel",
        "cuMemcpyDtoHAsync_v2",
        "cuStreamSynchronize",
        "cuEventCreate",
        "cuEventRecord",
        "cuEventSynchronize",
        "copy",
        "run:scale",
    ],
)
def test_whatever_fails_is_told_in_one_line_and_everything_is_given_back(routine, code):
    device = None
    control.fail(routine, code)
    try:
        with pytest.raises(BackendError) as caught:
            device = Device()
            frame = Frame(device)
            timer = device.timer()
            timer.start()
            frame.work()
            timer.stop()
            _ = timer.ms
            device.synchronize()
        assert "\n" not in str(caught.value)
        assert "--backend onnxruntime" in str(caught.value)
        if routine != "cuCtxPopCurrent_v2":
            assert isinstance(caught.value, DeviceLostError) == (code == LAUNCH_FAILED)
    finally:
        control.fail(routine, 0)
        frame = timer = caught = None
        gc.collect()
        if device is not None:
            device.close()


def test_any_thread_may_use_it_and_end(device):
    """PyCUDA ends the process when a thread ends with a context on its stack."""
    frame, got = Frame(device), []

    def use():
        frame.given[:] = 5
        frame.work()
        device.synchronize()
        got.append(frame.got[0])
        with device.active(), device.active():
            device.clear(frame.y)
        got.append(control.count("current"))

    for _ in range(3):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert got == [10.5, 0] * 3


def test_a_thread_whose_context_cannot_be_taken_off_ends_quietly(device):
    seen = []

    def use():
        control.fail("cuCtxPopCurrent_v2", LAUNCH_FAILED)
        with pytest.raises(BackendError):
            device.free_memory()
            device.free_memory()
        seen.append(device.lost)
        control._library.cuCtxPopCurrent_v2(None)  # what the driver would not do

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen


def test_another_thread_may_close_it():
    device = Device()
    frame = Frame(device)
    frame.work()
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    del frame
    assert control.left() == {}


def test_closed_in_the_middle_of_work(device):
    frame = Frame(device)
    with device.active():
        frame.work()
        del frame
        device.close()


def test_a_device_that_nobody_closes_is_closed_when_it_is_dropped():
    device = Device()
    Frame(device).work()
    assert control.count("holders")
    del device
    gc.collect()
    assert control.left() == {}


def test_a_pinned_array_stays_valid_for_as_long_as_it_is_kept():
    device = Device()
    row = device.pinned((2, 2), np.float32)[1]
    row[:] = 3
    device.close()
    assert row.tolist() == [3, 3]
    assert control.left() == {"pinned": 1, "holders": 1}
    del row
    gc.collect()
    assert control.left() == {}


def test_a_pinned_array_survives_a_lost_device(device):
    frame = Frame(device)
    frame.given[:] = 3
    control.fail("run:scale", ILLEGAL_ADDRESS)
    frame.work()
    with pytest.raises(DeviceLostError):
        device.synchronize()
    device.close()
    assert (frame.given == 3).all()


def test_errors_of_others_pass_through(device):
    with pytest.raises(KeyError), device.active():
        raise KeyError("mine")
    with (
        pytest.raises(BackendError, match=r"working failed \(cuMemcpyDtoH failed: invalid argument\)"),
        device.active(),
    ):
        device.drv.memcpy_dtoh(np.zeros(4), 12345)
    device.synchronize()
