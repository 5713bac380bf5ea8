"""nvcc compiles the kernels for Orin and Thor: no spills, and enough blocks at a time; skipped where nvcc is absent."""

import pytest

from benchmarks.kernels import ARCHITECTURES, BOARDS, Compiled, bytes_moved, compile_all, main, nvcc, occupancy, plans
from edge.errors import BackendError
from edge.flow.plan import KERNELS, Launch


@pytest.fixture(scope="module", autouse=True)
def compiler():
    try:
        return nvcc()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("source", sorted(KERNELS.glob("*.cu")), ids=lambda path: path.name)
def test_kernels_compile_without_spills(source, arch):
    launches = {one.kernel: one for work in plans(227) for one in work.launches}
    found = compile_all(source, arch)
    assert {one.kernel for one in found} == {one.kernel for one in launches.values() if one.source == source.name}
    for one in found:
        blocks, share = occupancy(one, launches[one.kernel])
        print(f"{one.kernel} {arch}: {one.registers} registers, {one.static} static, {one.spills} spilt, {share:.0%}")
        assert one.spills == one.stack == 0
        assert one.static == 0
        assert blocks >= 2
        assert share >= 0.5


def test_a_kernel_that_nvcc_refuses_says_why(tmp_path):
    source = tmp_path / "wrong.cu"
    source.write_text('extern "C" __global__ void wrong(float *out) { out[0] = nonsense; }\n', encoding="utf-8")
    with pytest.raises(BackendError, match=r"wrong.cu does not compile for sm_87: .*nonsense"):
        compile_all(source, "sm_87")


def test_spills_are_seen(tmp_path):
    """A kernel that must spill does so in the report too."""
    source = tmp_path / "greedy.cu"
    sums = "\n".join(f"    float a{i} = in[{i} * n]; " for i in range(120))
    uses = " + ".join(f"a{i} * in[{i} + (int)a{119 - i}]" for i in range(120))
    source.write_text(
        f'extern "C" __global__ void __launch_bounds__(1024) greedy(const float *in, int n, float *out) {{\n{sums}\n'
        f"    __syncthreads();\n    out[threadIdx.x] = {uses};\n}}\n",
        encoding="utf-8",
    )
    assert compile_all(source, "sm_87")[0].spills > 0


def test_occupancy_by_each_limit():
    """Against NVIDIA's occupancy calculator for compute capability 8.7."""

    def of(registers, threads, shared):
        launch = Launch("x.cu", "x", (1, 1, 1), (threads, 1, 1), shared, ())
        return occupancy(Compiled("x", "sm_87", registers, 0, 0, 0), launch)

    assert of(32, 256, 0) == (6, 1.0)  # threads
    assert of(32, 32, 0) == (16, 16 / 48)  # blocks
    assert of(128, 256, 0) == (2, 16 / 48)  # registers
    assert of(32, 256, 48 << 10) == (3, 0.5)  # shared memory


def test_the_table(capsys):
    assert main(["--side", "64", "--arch", "sm_87"]) == 0
    said = capsys.readouterr().out
    for name in ("relax", "linearise", "cut", *(board.name for board in BOARDS)):
        assert name in said
    motion, _ = plans(64)
    assert sum(map(bytes_moved, motion.launches)) > 64 * 64 * 4 * 50
