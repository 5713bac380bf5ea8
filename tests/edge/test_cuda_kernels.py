"""Kernels are compiled where they run, once, and only trusted if nobody else can have written them."""

import os
import subprocess

import numpy as np
import pytest

from edge.cuda.kernels import compiled, packed_arguments
from edge.errors import BackendError

SOURCE = """#include "twice.cuh"
extern "C" __global__ void twice(float *x) { x[threadIdx.x] *= FACTOR; }
"""
DRIVER = (12, 6)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "sources" / "twice.cu"
    path.parent.mkdir()
    path.write_text(SOURCE)
    path.with_suffix(".cuh").write_text("#define FACTOR 2.0f\n")
    return path


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """In nvcc's place, a program that notes that it was called, and copies what it is given."""
    path, notes = tmp_path / "nvcc", tmp_path / "notes"
    path.write_text(
        f"""#!/bin/sh
echo "$@" >> {notes}
while [ "$1" != "-o" ]; do shift; done
cp "$3" "$2"
"""
    )
    path.chmod(0o755)
    notes.touch()
    monkeypatch.setenv("EDGE_NVCC", str(path))
    return lambda: len(notes.read_text().splitlines())


def test_once_for_each_source_header_arch_and_driver(source, compiler, tmp_path):
    cache = tmp_path / "cache"
    for again in range(3):
        assert compiled(source, "sm_87", cache, DRIVER) == SOURCE.encode()
        assert compiler() == 1, again
    assert compiled(source, "sm_110", cache, DRIVER)
    assert compiled(source, "sm_87", cache, (13, 2))
    assert compiled(source, "sm_87", cache, DRIVER, options=("-O1",))
    source.with_suffix(".cuh").write_text("#define FACTOR 3.0f\n")
    assert compiled(source, "sm_87", cache, DRIVER)
    source.write_text(SOURCE + " ")
    assert compiled(source, "sm_87", cache, DRIVER)
    assert compiler() == 6


@pytest.mark.parametrize("how", ["damaged", "short", "group", "others"])
def test_what_was_kept_and_cannot_be_trusted_is_compiled_anew(source, compiler, tmp_path, how):
    cache = tmp_path / "cache"
    compiled(source, "sm_87", cache, DRIVER)
    kept = next((cache / "kernels").iterdir())
    assert kept.stat().st_mode & 0o077 == 0
    whole = kept.read_bytes()
    if how == "damaged":
        kept.write_bytes(whole[:-1] + b"?")
    elif how == "short":
        kept.write_bytes(whole[:7])
    else:
        kept.chmod(0o620 if how == "group" else 0o602)
    assert compiled(source, "sm_87", cache, DRIVER) == SOURCE.encode()
    assert compiler() == 2
    assert kept.read_bytes() == whole


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_somebody_else_wrote_is_not_trusted(source, compiler, tmp_path):
    cache = tmp_path / "cache"
    compiled(source, "sm_87", cache, DRIVER)
    os.chown(next((cache / "kernels").iterdir()), 12345, 12345)
    compiled(source, "sm_87", cache, DRIVER)
    assert compiler() == 2


def test_a_cache_that_cannot_be_written_costs_only_time(source, compiler, tmp_path):
    cache = tmp_path / "a file"
    cache.touch()
    for _ in range(2):
        assert compiled(source, "sm_87", cache, DRIVER) == SOURCE.encode()
    assert compiler() == 2


def test_no_compiler_and_one_that_cannot_run_are_told(source, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_NVCC", str(tmp_path / "absent"))
    with pytest.raises(BackendError, match=r"absent can't be run: No such file.*set EDGE_NVCC.*--backend onnxruntime"):
        compiled(source, "sm_87", tmp_path, DRIVER)
    monkeypatch.delenv("EDGE_NVCC")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("edge.cuda.kernels.COMPILER_PLACES", ())
    with pytest.raises(
        BackendError, match=r"twice\.cu must be compiled once for this GPU \(sm_87\).*apt install cuda-nvcc"
    ):
        compiled(source, "sm_87", tmp_path, DRIVER)


def real_compiler():
    from shutil import which

    return which("nvcc") or next(filter(os.path.exists, ("/usr/local/cuda/bin/nvcc",)), None)


@pytest.mark.skipif(real_compiler() is None, reason="no nvcc on this machine")
def test_the_real_compiler(source, tmp_path):
    code = compiled(source, "sm_87", tmp_path, DRIVER)
    assert code.startswith(b"\x7fELF")
    assert b"twice" in code
    source.write_text('extern "C" __global__ void twice(float *x) { x[0] = nonsense; }')
    with pytest.raises(BackendError, match=r"can't compile twice\.cu for sm_87: .*nonsense.* is undefined") as caught:
        compiled(source, "sm_87", tmp_path, DRIVER)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        BackendError, match=r"can't compile twice\.cu for sm_20: .*expected a CUDA toolkit that knows sm_20"
    ):
        compiled(source, "sm_20", tmp_path, DRIVER)


def test_arguments_are_packed_as_c_does():
    class Buffer:
        pointer = 0x1122334455667788

    packed = packed_arguments([7, Buffer(), 1.5, np.uint8(3), np.float32(2.0), np.int64(-1), np.float16(1.0)])
    fields = np.zeros(
        1,
        np.dtype(
            [("a", "i4"), ("b", "u8"), ("c", "f4"), ("d", "u1"), ("e", "f4"), ("f", "i8"), ("g", "f2")], align=True
        ),
    )
    fields[0] = (7, Buffer.pointer, 1.5, 3, 2.0, -1, 1.0)
    assert packed == fields.tobytes()[: len(packed)]
    assert len(packed) == fields.dtype.fields["g"][1] + 2
    with pytest.raises(TypeError, match="bool"):
        packed_arguments([True])


def test_nothing_of_the_compiler_is_left(source, compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    compiled(source, "sm_87", tmp_path / "cache", DRIVER)
    assert not list((tmp_path / "temporary").iterdir())
    assert subprocess.run(
        ["ls", str(tmp_path / "cache" / "kernels")], capture_output=True, text=True, check=True
    ).stdout
