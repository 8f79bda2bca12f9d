"""The non-uniform FFT of our own: against finufft, as an adjoint pair, and its GPU kernels against the CPU's loops."""

import shutil
import subprocess
import sys

import cupy_on_cpu
import finufft
import numpy as np
import pytest
from cupy_on_cpu import PlainGridding

from mesotomo_utils import backend
from mesotomo_utils.tomography import gridding_gpu
from mesotomo_utils.tomography.gridding import pack
from mesotomo_utils.tomography.gridding_cpu import CpuGridding
from mesotomo_utils.tomography.gridding_gpu import GpuGridding

needs_compiler = pytest.mark.skipif(cupy_on_cpu.COMPILER is None, reason="no C compiler (cc) is installed")


@pytest.fixture
def gpu(monkeypatch):
    """CuPy on the CPU in place of CuPy."""
    for name, module in cupy_on_cpu.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["cupy"]


def polar(n_tilts: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Lines through the origin, as of a tilt series: points that crowd in the middle and meet both edges."""
    angles = np.deg2rad(np.arange(n_tilts) * 180 / n_tilts)[:, None]
    frequency = 2 * np.pi * np.fft.fftfreq(length)
    return (frequency * np.sin(angles)).ravel(), (frequency * np.cos(angles)).ravel()


def some_slices(count: int, size: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, size, size)).astype(np.dtype(dtype).char.lower())


def some_values(count: int, points: int, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(2)
    return (rng.normal(size=(count, points)) + 1j * rng.normal(size=(count, points))).astype(dtype)


def to_slices(transform, values, count: int | None = None) -> np.ndarray:
    out = np.empty((count or 2 * len(values), transform.size, transform.size), transform.real)
    transform.to_slices(values, out)
    return out


def error(found, expected) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("size", [40, 41, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [("complex64", 5e-5), ("complex128", 1e-9)])
def test_agrees_with_finufft(size, dtype, tolerance):
    points = polar(30, 61)
    transform = CpuGridding(points, size, tolerance=tolerance, dtype=dtype)
    slices, values = some_slices(6, size, dtype), some_values(3, points[0].size, dtype)
    exact = finufft.nufft2d2(*points, pack(slices, "complex128"), eps=1e-13, isign=-1)
    found = transform.to_points(slices)
    assert found.dtype == dtype
    assert error(found, exact) < tolerance
    exact = finufft.nufft2d1(*points, values.astype(complex), (size, size), eps=1e-13, isign=1)
    assert error(pack(to_slices(transform, values), "complex128"), exact) < tolerance


@pytest.mark.parametrize(("dtype", "bound"), [("complex64", 1e-6), ("complex128", 1e-14)])
def test_is_an_adjoint_pair(dtype, bound):
    points = polar(30, 61)
    transform = CpuGridding(points, 40, tolerance=5e-5, dtype=dtype)
    slices, values = some_slices(6, 40, dtype), some_values(3, points[0].size, dtype)
    there, back = transform.to_points(slices), pack(to_slices(transform, values), "complex128")
    difference = np.vdot(there.astype(complex), values) - np.vdot(pack(slices, "complex128"), back)
    assert abs(difference) < bound * np.linalg.norm(there) * np.linalg.norm(values)


def test_a_slice_is_the_same_whichever_it_travels_with():
    """An odd one out has nothing for its imaginary part."""
    points = polar(30, 61)
    transform = CpuGridding(points, 40, tolerance=5e-5, dtype="complex64")
    slices, values = some_slices(9, 40, "complex64"), some_values(5, points[0].size, "complex64")
    together = transform.to_points(slices)
    assert np.array_equal(together[:2], transform.to_points(slices[:4]))
    assert np.array_equal(together[4:], transform.to_points(slices[8:]))
    whole = to_slices(transform, values, 9)
    assert np.array_equal(whole[2:4], to_slices(transform, values[1:2]))
    assert np.array_equal(whole[8:], to_slices(transform, values[4:], 1))


def test_the_window_grows_with_the_accuracy_asked_for():
    points, slices = polar(20, 51), some_slices(2, 32, "complex128")
    exact = finufft.nufft2d2(*points, pack(slices, "complex128"), eps=1e-14, isign=-1)
    widths = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-11):
        transform = CpuGridding(points, 32, tolerance=tolerance, dtype="complex128")
        assert error(transform.to_points(slices), exact) < tolerance
        widths.append(transform.width)
    assert widths == sorted(set(widths))


def test_single_precision_is_no_worse_for_an_accuracy_beyond_it():
    points, slices = polar(20, 51), some_slices(2, 32, "complex64")
    exact = finufft.nufft2d2(*points, pack(slices, "complex128"), eps=1e-14, isign=-1)
    assert error(CpuGridding(points, 32, tolerance=1e-8, dtype="complex64").to_points(slices), exact) < 2e-5


def test_what_is_not_finite_stays_so():
    points, slices = polar(20, 51), some_slices(4, 32, "complex64")
    slices[1, 3, 3] = np.nan
    values = CpuGridding(points, 32, tolerance=5e-5, dtype="complex64").to_points(slices)
    assert np.isnan(values[0].imag).any()
    assert np.isfinite(values[1]).all()


@needs_compiler
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize(("size", "tolerance", "count"), [(40, 5e-5, 16), (41, 1e-3, 2), (4, 5e-5, 5)])
def test_the_kernels_do_what_the_loops_do(gpu, dtype, size, tolerance, count):
    points = polar(30, 61)
    plain, kernels = (kind(points, size, tolerance=tolerance, dtype=dtype) for kind in (PlainGridding, GpuGridding))
    slices, values = some_slices(count, size, dtype), some_values((count + 1) // 2, points[0].size, dtype)
    bound = 3e-6 if dtype == "complex64" else 1e-14
    found = kernels.to_points(gpu.asarray(slices))
    assert backend.get_array_module(found) is gpu
    assert error(found.get(), plain.to_points(slices)) < bound
    found = gpu.empty((count, size, size), kernels.real)
    kernels.to_slices(gpu.asarray(values), found)
    assert error(found.get(), to_slices(plain, values, count)) < bound


@needs_compiler
def test_windows_across_the_edge(gpu):
    """Points at ±π, whose windows lie on both sides of the grid, in every corner."""
    y, x = (axis.ravel() for axis in np.meshgrid([-np.pi, -3.1, 0.0, 3.1, np.pi], [-np.pi, 0.3, np.pi]))
    plain, kernels = (kind((y, x), 16, tolerance=1e-6, dtype="complex128") for kind in (PlainGridding, GpuGridding))
    values = some_values(2, y.size, "complex128")
    slices = to_slices(plain, values)
    exact = finufft.nufft2d1(y, x, values, (16, 16), eps=1e-13, isign=1)
    assert error(pack(slices, "complex128"), exact) < 1e-6
    found = gpu.empty(slices.shape)
    kernels.to_slices(gpu.asarray(values), found)
    assert error(found.get(), slices) < 1e-14
    there = plain.to_points(slices)
    assert error(there, finufft.nufft2d2(y, x, pack(slices, "complex128"), eps=1e-13, isign=-1)) < 1e-6
    assert error(kernels.to_points(gpu.asarray(slices)).get(), there) < 1e-14


@needs_compiler
def test_kernels_repeat_themselves_to_the_last_bit_however_slices_are_batched(gpu):
    points = polar(30, 61)
    kernels = GpuGridding(points, 40, tolerance=5e-5, dtype="complex64")
    values = gpu.asarray(some_values(8, points[0].size, "complex64"))
    whole, again, some = (gpu.empty((count, 40, 40), np.float32) for count in (16, 16, 4))
    kernels.to_slices(values, whole)
    kernels.to_slices(values, again)
    kernels.to_slices(values[3:5], some)
    assert np.array_equal(whole.get(), again.get())
    assert np.array_equal(whole[6:10].get(), some.get())


@pytest.mark.parametrize("real", ["float", "double"])
def test_the_kernels_are_cuda(real, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no CUDA compiler (nvcc) is installed")
    source = tmp_path / "kernels.cu"
    source.write_text(gridding_gpu.KERNELS)
    command = [nvcc, "-DWIDTH=7", f"-DREAL={real}", "-ptx", "-o", str(tmp_path / "kernels.ptx"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("interpolate", "spread"):
        assert f".visible .entry {name}(" in (tmp_path / "kernels.ptx").read_text()


@pytest.mark.parametrize(("value", "axis"), [(3.3, 0), (np.nan, 1)])
def test_refuses_points_beyond_the_band(value, axis):
    points = [np.zeros(3), np.zeros(3)]
    points[axis][1] = value
    with pytest.raises(ValueError, match=rf"points\[{axis}\]\[1\] must lie within ±π; it is {value}"):
        CpuGridding((points[0], points[1]), 8, tolerance=1e-4, dtype="complex64")


def test_a_gpu_without_a_compiler_is_an_error_with_its_mend(gpu, monkeypatch):
    class Broken:
        def __init__(self, *_):
            pass

        def compile(self):
            raise OSError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr(gpu, "RawKernel", Broken)
    with pytest.raises(RuntimeError, match=r"libnvrtc.*cupy-cuda13x\[ctk\].*cufinufft.*device='cpu'"):
        GpuGridding((np.zeros(1), np.zeros(1)), 8, tolerance=1e-4, dtype="complex64")
