"""The host's stand-in for a GPU catches what a GPU would punish, so that a kernel's test can fail."""

import numpy as np
import pytest
from test_kernels import built

from edge.flow.plan import Buffer, Launch, Number, Plan, Pointer

SOURCE = """
extern "C" __global__ void __launch_bounds__(64) turn(const float *in, float *out, int barrier) {
    extern __shared__ float pool[];
    pool[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    if (barrier) __syncthreads();
    out[blockIdx.x * blockDim.x + threadIdx.x] = pool[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void unwritten(float *out) {
    extern __shared__ float pool[];
    out[threadIdx.x] = pool[threadIdx.x];
}
extern "C" __global__ void beyond() {
    extern __shared__ float pool[];
    pool[blockDim.x + threadIdx.x] = 1.f;
}
extern "C" __global__ void apart(float *out) {
    if (threadIdx.x < 3) __syncthreads();
    out[threadIdx.x] = 1.f;
}
extern "C" __global__ void wide(float *out, int count) { out[threadIdx.x + count] = 1.f; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("host")
    source = folder / "tried.cu"
    source.write_text(SOURCE, encoding="utf-8")
    return built(folder, sources=[source])


def one(kernel, *arguments, blocks=3, threads=64, shared=256):
    buffers = (Buffer("in", "float32", (192,), "input"), Buffer("out", "float32", (192,), "output"))
    return Plan(buffers, (Launch("tried.cu", kernel, (blocks, 1, 1), (threads, 1, 1), shared, arguments),))


IN = {"in": np.arange(192, dtype=np.float32)}


def test_blocks_threads_shared_memory_and_barriers(library):
    made = library.run(one("turn", Pointer("in"), Pointer("out"), Number(1, "int32")), IN)
    assert np.array_equal(made["out"], IN["in"].reshape(3, 64)[:, ::-1].ravel())


def test_a_missing_barrier_shows(library):
    without = one("turn", Pointer("in"), Pointer("out"), Number(0, "int32"))
    assert not np.array_equal(library.run(without, IN)["out"], IN["in"].reshape(3, 64)[:, ::-1].ravel())


def test_shared_memory_starts_as_rubbish(library):
    assert np.isnan(library.run(one("unwritten", Pointer("out"), blocks=1), IN)["out"][:64]).all()


def test_what_is_against_the_rules_is_refused(library):
    with pytest.raises(RuntimeError, match="beyond: .*behind the end of its shared memory"):
        library.run(one("beyond"), IN)
    with pytest.raises(RuntimeError, match="apart: .*ended while others waited"):
        library.run(one("apart", Pointer("out")), IN)
    with pytest.raises(RuntimeError, match="1 to 1024 threads"):
        library.run(one("unwritten", Pointer("out"), threads=1025), IN)
    with pytest.raises(RuntimeError, match="48 KiB"):
        library.run(one("unwritten", Pointer("out"), shared=49153), IN)
    with pytest.raises(RuntimeError, match="empty grid"):
        library.run(one("unwritten", Pointer("out"), blocks=0), IN)
    with pytest.raises(AssertionError, match="behind the end of out"):
        library.run(one("wide", Pointer("out"), Number(150, "int32")), IN)
    with pytest.raises(AssertionError, match="in was changed"):
        library.run(one("wide", Pointer("in"), Number(0, "int32")), IN)
    # And after all that it still runs.
    test_blocks_threads_shared_memory_and_barriers(library)


def test_a_kernel_that_does_not_compile_says_why(tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong(float *out) { out[0] = nonsense; }\n', encoding="utf-8")
    with pytest.raises(RuntimeError, match="nonsense"):
        built(tmp_path, sources=[source])
