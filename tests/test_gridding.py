"""The non-uniform FFT of our own: against finufft, as an adjoint pair, and its GPU kernels against the plain sums."""

import shutil
import subprocess
import sys

import cupy_on_cpu
import finufft
import numpy as np
import pytest

from mesotomo_utils import backend
from mesotomo_utils.tomography import gridding
from mesotomo_utils.tomography.gridding import Gridding

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


def data(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(len(shape))
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype)


def error(found, expected) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("size", [40, 41, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [("complex64", 5e-5), ("complex128", 1e-9)])
def test_agrees_with_finufft(size, dtype, tolerance):
    points = polar(30, 61)
    transform = Gridding(points, size, tolerance=tolerance, dtype=dtype, device="cpu")
    images, values = data((3, size, size), dtype), data((3, points[0].size), dtype)
    exact = finufft.nufft2d2(*points, images.astype(complex), eps=1e-13, isign=-1)
    found = transform.to_points(images)
    assert found.dtype == dtype
    assert error(found, exact) < tolerance
    exact = finufft.nufft2d1(*points, values.astype(complex), (size, size), eps=1e-13, isign=1)
    found = transform.to_images(values)
    assert found.dtype == dtype
    assert error(found, exact) < tolerance


@pytest.mark.parametrize(("dtype", "bound"), [("complex64", 1e-6), ("complex128", 1e-14)])
def test_is_an_adjoint_pair(dtype, bound):
    points = polar(30, 61)
    transform = Gridding(points, 40, tolerance=5e-5, dtype=dtype, device="cpu")
    images, values = data((3, 40, 40), dtype), data((3, points[0].size), dtype)
    there, back = transform.to_points(images), transform.to_images(values)
    difference = np.vdot(there.astype(complex), values) - np.vdot(images, back.astype(complex))
    assert abs(difference) < bound * np.linalg.norm(there) * np.linalg.norm(values)


def test_the_window_grows_with_the_accuracy_asked_for():
    points, images = polar(20, 51), data((1, 32, 32), "complex128")
    exact = finufft.nufft2d2(*points, images, eps=1e-14, isign=-1)
    widths = []
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-11):
        transform = Gridding(points, 32, tolerance=tolerance, dtype="complex128", device="cpu")
        assert error(transform.to_points(images), exact) < tolerance
        widths.append(transform.width)
    assert widths == sorted(set(widths))


@needs_compiler
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize(("size", "tolerance", "pairs"), [(40, 5e-5, 8), (41, 1e-3, 1), (4, 5e-5, 3)])
def test_the_kernels_do_what_the_matrix_does(gpu, dtype, size, tolerance, pairs):
    points = polar(30, 61)
    plain = Gridding(points, size, tolerance=tolerance, dtype=dtype, device="cpu")
    kernels = Gridding(points, size, tolerance=tolerance, dtype=dtype, device="cuda")
    images, values = data((pairs, size, size), dtype), data((pairs, points[0].size), dtype)
    bound = 3e-6 if dtype == "complex64" else 1e-14
    found = kernels.to_points(gpu.asarray(images))
    assert backend.get_array_module(found) is gpu
    assert error(found.get(), plain.to_points(images)) < bound
    found = kernels.to_images(gpu.asarray(values))
    assert backend.get_array_module(found) is gpu
    assert error(found.get(), plain.to_images(values)) < bound


@needs_compiler
def test_the_kernels_find_windows_across_the_edge(gpu):
    """Points at ±π, whose windows lie on both sides of the grid, in every corner."""
    y, x = (axis.ravel() for axis in np.meshgrid([-np.pi, -3.1, 0.0, 3.1, np.pi], [-np.pi, 0.3, np.pi]))
    plain, kernels = (
        Gridding((y, x), 16, tolerance=1e-6, dtype="complex128", device=device) for device in ("cpu", "cuda")
    )
    values = data((2, y.size), "complex128")
    images = plain.to_images(values)
    assert error(images, finufft.nufft2d1(y, x, values, (16, 16), eps=1e-13, isign=1)) < 1e-6
    assert error(kernels.to_images(gpu.asarray(values)).get(), images) < 1e-14
    there = plain.to_points(images)
    assert error(kernels.to_points(gpu.asarray(images)).get(), there) < 1e-14


@needs_compiler
def test_kernels_repeat_themselves_to_the_last_bit_however_slices_are_batched(gpu):
    points = polar(30, 61)
    kernels = Gridding(points, 40, tolerance=5e-5, dtype="complex64", device="cuda")
    values = gpu.asarray(data((8, points[0].size), "complex64"))
    whole = kernels.to_images(values).get()
    assert np.array_equal(whole, kernels.to_images(values).get())
    assert np.array_equal(whole[3:5], kernels.to_images(values[3:5]).get())


@pytest.mark.parametrize("real", ["float", "double"])
def test_the_kernels_are_cuda(real, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no CUDA compiler (nvcc) is installed")
    source = tmp_path / "kernels.cu"
    source.write_text(gridding.KERNELS)
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
        Gridding((points[0], points[1]), 8, tolerance=1e-4, dtype="complex64", device="cpu")


def test_a_gpu_without_a_compiler_is_an_error_with_its_mend(gpu, monkeypatch):
    class Broken:
        def __init__(self, *_):
            pass

        def compile(self):
            raise OSError("libnvrtc.so.13: cannot open shared object file")

    monkeypatch.setattr(gpu, "RawKernel", Broken)
    with pytest.raises(RuntimeError, match=r"libnvrtc.*cupy-cuda13x\[ctk\].*cufinufft.*device='cpu'"):
        Gridding((np.zeros(1), np.zeros(1)), 8, tolerance=1e-4, dtype="complex64", device="cuda")
