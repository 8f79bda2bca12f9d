"""The projector and the reconstructions on a GPU: agreement with the CPU, and little memory.

Without a GPU the same code runs on CuPy-on-the-CPU (:mod:`cupy_on_cpu`), which refuses what CuPy would refuse. The
tests marked ``gpu`` need a real one.
"""

import numpy as np
import pytest
from cupy_on_cpu import PlainGridding

from mesotomo_utils import backend
from mesotomo_utils.tomography import alignment_fine
from mesotomo_utils.tomography.engines import _COPIES, NufftEngine
from mesotomo_utils.tomography.gridding_gpu import GpuGridding
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.tomogram import open_tomogram

ANGLES = np.arange(-90, 90, 4.0)
AGREEMENT = 1e-4


def phantom(n_z: int, n: int) -> np.ndarray:
    """Blobs, another arrangement in each slice."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    slices = np.zeros((n_z, n, n), np.float32)
    for z in range(n_z):
        for x0, y0, width in rng.uniform([-n / 4, -n / 4, n / 30], [n / 4, n / 4, n / 8], (3, 3)):
            slices[z] += np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * width**2))
    return slices


def series_of(slices: np.ndarray, angles=ANGLES) -> TiltSeries:
    images = Projector(angles, slices.shape[1]).forward(slices)
    noise = np.random.default_rng(4).normal(0, 0.02 * images.max(), images.shape)
    return TiltSeries(images=(images + noise).astype(np.float32), angles_deg=angles, pixel_nm=0.5, name="phantom")


@pytest.fixture(scope="module")
def series():
    return series_of(phantom(12, 40))


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(("n_u", "size", "n_z"), [(40, 40, 5), (33, 50, 4), (41, 41, 1)])
def test_projects_as_the_cpu_does(gpu, n_u, size, n_z):
    there = Projector(ANGLES, n_u, size=size, device="cuda")
    here = Projector(ANGLES, n_u, size=size)
    assert there.transforms == gpu.state.transforms
    rng = np.random.default_rng(5)
    slices = rng.normal(size=(n_z, size, size)).astype(np.float32)
    images = rng.normal(size=(len(ANGLES), n_z, n_u)).astype(np.float32)
    for name, given in (("forward", slices), ("adjoint", images), ("fbp", images)):
        found = getattr(there, name)(gpu.asarray(given))
        assert backend.get_array_module(found) is gpu
        assert found.dtype == np.float32
        assert error(found.get(), getattr(here, name)(given)) < AGREEMENT


# conjugate gradients amplify what the two transforms differ by, some 5e-5 a call, where SIRT averages it
@pytest.mark.parametrize(("method", "amplified"), [("fbp", 1), ("sirt", 1), ("cgls", 3)])
def test_reconstructs_as_the_cpu_does(gpu, series, method, amplified):
    options = {"method": method, "iterations": 30 if method == "sirt" else 12}
    found = reconstruct(series, device="cuda", **options)
    assert type(found) is np.ndarray
    assert error(found, reconstruct(series, device="cpu", **options)) < amplified * AGREEMENT


def test_writes_what_it_ran_on(gpu, series, tmp_path):
    whole = reconstruct(series, device="cuda")
    tomogram = open_tomogram(reconstruct(series, device="cuda", out=tmp_path / "a.ome.zarr"))
    assert np.array_equal(tomogram.load(), whole)
    assert tomogram.attributes["device"] == "cuda"
    assert tomogram.attributes["transforms"] == gpu.state.transforms


def assert_aligns_as_the_cpu_does():
    images = series_of(phantom(24, 32)).images  # in twelve rows noise looks like a shear of 0.8°, and rounding turns it
    rng = np.random.default_rng(6)
    shift_z, shift_u = rng.normal(0, 0.3, (2, len(ANGLES)))
    pose = alignment_fine.Pose(shift_z, shift_u, ANGLES, 0.1)
    here, there = (alignment_fine.refine(images, pose, pose, steps=1, device=device).pose for device in ("cpu", "cuda"))
    assert np.abs(here.shift_u - shift_u).max() > 0.1
    for name in ("shift_z", "shift_u", "axis_tilt_deg"):
        assert np.allclose(getattr(here, name), getattr(there, name), atol=0.002)


def test_aligns_as_the_cpu_does(gpu):
    assert_aligns_as_the_cpu_does()


@pytest.mark.parametrize("method", ["fbp", "sirt", "cgls"])
def test_little_memory_means_parts_with_the_same_voxels(gpu, series, method, monkeypatch):
    whole = reconstruct(series, method=method, iterations=4, device="cuda")
    parts = []
    run = NufftEngine._on_gpu
    monkeypatch.setattr(NufftEngine, "_on_gpu", lambda *given: parts.append(given[1].shape[1]) or run(*given))
    gpu.state.free = 1
    one_pair = Projector(ANGLES, 40, device="cuda").batch_bytes
    gpu.state.free = int((one_pair + 5 * 4 * _COPIES[method] * 40 * (40 + len(ANGLES))) / 0.8)
    found = reconstruct(series, method=method, iterations=4, device="cuda")
    assert parts == [4, 4, 4]
    assert error(found, whole) < 1e-6


def test_batches_grow_with_the_memory_that_is_free(gpu):
    def batch_bytes(free: float) -> float:
        gpu.state.free = int(free)
        return Projector(ANGLES, 40, device="cuda").batch_bytes

    one_pair = batch_bytes(1)
    assert batch_bytes(4 * 3.5 * one_pair) == 3 * one_pair
    assert batch_bytes(1e9) == 16 * one_pair


def test_slabs_do_not_shrink_with_the_cores_beside_a_gpu(gpu, series, monkeypatch):
    slabs = []
    run = NufftEngine.__call__

    def counted(*given, **options):
        slabs.append(given[1].shape[1])
        return run(*given, **options)

    monkeypatch.setattr(NufftEngine, "__call__", counted)
    for cores in (1, 10_000):
        monkeypatch.setattr(backend, "cpu_count", lambda cores=cores: cores)
        reconstruct(series, method="sirt", iterations=1, device="cuda")
    half = len(slabs) // 2
    assert slabs[:half] == slabs[half:]
    assert max(slabs) > 2


def test_memory_that_runs_out_halves_the_parts(gpu, series, monkeypatch, caplog):
    whole = reconstruct(series, method="sirt", iterations=4, device="cuda")
    monkeypatch.setattr(Projector, "_batch", lambda self: (1, 0.0))
    engine = NufftEngine(ANGLES, 40, "cuda")
    gpu.state.largest = 8 * 64**2  # a pair's grid, and not six slices in one array, though more was free before
    images = series.images / np.float32(series.pixel_nm)
    found = engine(images, "sirt", 4, True)
    assert error(found, whole) < 1e-6
    assert gpu.state.refused == 2
    assert gpu.state.released == 4
    assert "12 slices at once do not fit, trying 6" in caplog.text
    assert "6 slices at once do not fit, trying 4" in caplog.text
    engine(images, "sirt", 4, True)
    assert gpu.state.refused == 2  # what did not fit is not tried again


def test_a_gpu_too_small_for_two_slices_is_an_error(gpu, series):
    engine = NufftEngine(ANGLES, 40, "cuda")
    gpu.state.largest = 100
    with pytest.raises(MemoryError, match=r"too small for fbp of two slices of 40 × 40.*device='cpu'"):
        engine(series.images, "fbp", 1, False)


def test_other_errors_are_not_taken_for_want_of_memory(gpu, series, monkeypatch):
    engine = NufftEngine(ANGLES, 40, "cuda")

    def fail(*_):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(engine, "_on_gpu", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        engine(series.images, "fbp", 1, False)
    assert backend.is_memory_short(RuntimeError("CUFFT_ALLOC_FAILED"))
    assert backend.is_memory_short(RuntimeError("Error creating plan."))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_the_kernels_on_a_gpu_do_what_the_loops_do(dtype):
    cupy = pytest.importorskip("cupy")
    angles = np.deg2rad(ANGLES)[:, None]
    frequency = 2 * np.pi * np.fft.fftfreq(61)
    points = ((frequency * np.sin(angles)).ravel(), (frequency * np.cos(angles)).ravel())
    here, there = (kind(points, 40, tolerance=5e-5, dtype=dtype) for kind in (PlainGridding, GpuGridding))
    slices = np.random.default_rng(7).normal(size=(10, 40, 40)).astype(here.real)
    values = here.to_points(slices)
    bound = 3e-6 if dtype == "complex64" else 1e-14
    assert error(there.to_points(cupy.asarray(slices)).get(), values) < bound
    back, again = cupy.empty_like(cupy.asarray(slices)), cupy.empty_like(cupy.asarray(slices))
    there.to_slices(cupy.asarray(values), back)
    there.to_slices(cupy.asarray(values), again)
    here.to_slices(values, slices)
    assert error(back.get(), slices) < bound
    assert np.array_equal(back.get(), again.get())


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize(("method", "iterations"), [("fbp", 1), ("sirt", 30)])
def test_a_gpu_reconstructs_paper_size_as_the_cpu_does(real_gpu, method, iterations):
    series = series_of(phantom(4, 992), np.arange(-90.0, 90.0))
    here, there = (reconstruct(series, method=method, iterations=iterations, device=name) for name in ("cpu", "cuda"))
    assert error(there, here) < AGREEMENT


@pytest.mark.gpu
# of seven inputs on an H100 the voxels of CGLS, which the last digit lets be zero or not, differed by up to 2e-5
@pytest.mark.parametrize(("method", "bound"), [("fbp", 1e-6), ("sirt", 1e-6), ("cgls", 5e-5)])
def test_a_gpu_with_little_memory_gives_the_same_voxels(real_gpu, method, bound):
    series = series_of(phantom(128, 256), np.arange(-90.0, 90.0, 2.0))
    whole = reconstruct(series, method=method, iterations=4, device="cuda")
    pool = real_gpu.get_default_memory_pool()
    backend.release_memory()
    pool.set_limit(size=pool.used_bytes() + 60 * 10**6)
    try:
        parts = reconstruct(series, method=method, iterations=4, device="cuda")
    finally:
        pool.set_limit(size=0)
    assert error(parts, whole) < bound


@pytest.mark.gpu
def test_a_gpu_aligns_as_the_cpu_does(real_gpu):
    assert_aligns_as_the_cpu_does()
