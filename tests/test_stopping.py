"""Left-out images choose how long a reconstruction iterates."""

import numpy as np
import pytest
from scipy import ndimage

from mesotomo_utils.tomography import stopping
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.stopping import enough_iterations
from mesotomo_utils.tomography.tilt_series import TiltSeries

ANGLES = np.linspace(-70, 70, 36)
N = 40


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """(4, N, N) grains, sharp enough that the wedge and the noise matter."""
    slices = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(4, N, N)), 1.0)
    x = np.arange(N) - (N - 1) / 2
    return (np.maximum(slices, 0) * (np.hypot(x, x[:, None]) < 0.4 * N)).astype(np.float32)


def series_of(truth: np.ndarray, noise: float) -> TiltSeries:
    images = Projector(ANGLES, N).forward(truth)
    images += np.random.default_rng(1).normal(0, noise * images.max(), images.shape).astype(np.float32)
    return TiltSeries(images=images, angles_deg=ANGLES, pixel_nm=1.0, name="grains")


@pytest.mark.parametrize(("method", "noise"), [("cgls", 0.0), ("cgls", 0.01), ("cgls", 0.04), ("sirt", 0.04)])
def test_no_other_number_is_much_better(truth, method, noise):
    series = series_of(truth, noise)

    def correlation(iterations: int | None) -> float:
        found = reconstruct(series, method=method, iterations=iterations, device="cpu")
        return float(np.corrcoef(found.ravel(), truth.ravel())[0, 1])

    chosen = correlation(None)
    assert chosen > max(correlation(iterations) for iterations in (3, 10, 30, 100)) - 0.01
    assert chosen == correlation(enough_iterations(series, method=method))


def test_noise_asks_for_fewer(truth):
    chosen = [enough_iterations(series_of(truth, noise), method="cgls") for noise in (0.0, 0.01, 0.04)]
    assert chosen == sorted(set(chosen), reverse=True)
    free = [enough_iterations(series_of(truth, noise), method="cgls", nonnegative=False) for noise in (0.01, 0.04)]
    assert free[0] > free[1]


def test_the_order_of_the_images_is_of_no_account(truth):
    series = series_of(truth, 0.02)
    order = np.random.default_rng(2).permutation(len(ANGLES))
    turned = TiltSeries(images=series.images[order], angles_deg=ANGLES[order], pixel_nm=1.0, name="grains")
    assert enough_iterations(turned, method="cgls") == enough_iterations(series, method="cgls")


def test_the_number_of_cpus_is_of_no_account(truth, monkeypatch):
    series = series_of(np.concatenate([truth, truth[:3]]), 0.02)  # the last slice has no partner
    left, seen = np.arange(2, len(ANGLES), 5), np.arange(1, len(ANGLES), 5)

    def misfit(rows: np.ndarray) -> float:
        return next(stopping._misfits(series, seen, left, rows, "cgls", True, "cpu"))

    rows = np.arange(7)
    assert misfit(rows) == pytest.approx(misfit(rows[:2]) + misfit(rows[2:6]) + misfit(rows[6:]), rel=1e-5)
    chosen = set()
    for cpus in (1, 2, 5):
        monkeypatch.setattr(stopping.backend, "cpu_count", lambda cpus=cpus: cpus)
        chosen.add(enough_iterations(series, method="cgls"))
    assert len(chosen) == 1


def test_a_bar_runs_to_where_it_ends(truth, capfd):
    enough_iterations(series_of(truth, 0.02), method="cgls", progress="iterations enough")
    assert "iterations enough" in capfd.readouterr().out


def test_too_few_images_to_leave_any_out(truth):
    series = series_of(truth, 0.0)
    few = TiltSeries(images=series.images[:9], angles_deg=ANGLES[:9], pixel_nm=1.0, name="grains")
    assert enough_iterations(few, method="sirt") == stopping.USUAL


def test_a_gpu_chooses_the_same(gpu, truth):
    series = series_of(truth, 0.02)
    assert enough_iterations(series, method="cgls", device="cuda") == enough_iterations(series, method="cgls")
