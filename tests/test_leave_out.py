"""Images left out of a tomogram: displacements that were put in come out, a wrong axis is fitted by no object."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mesotomo_utils.tomography.alignment_geometry import move_images
from mesotomo_utils.tomography.leave_out import left_out_images, misfit
from mesotomo_utils.tomography.tilt_series import TiltSeries

ROWS = slice(4, 60)


@pytest.fixture(scope="module")
def series() -> TiltSeries:
    """Gaussian blobs off the axis, whose projections are exact, without noise."""
    rng = np.random.default_rng(3)
    angles = np.arange(-90.0, 90.0, 3.0)
    radians = np.deg2rad(angles)
    x, y, z = rng.uniform(-14, 14, 40), rng.uniform(-14, 14, 40), rng.uniform(-26, 26, 40)
    rows, columns = np.arange(64) - 31.5, np.arange(64) - 31.5
    by_z = np.exp(-((rows - z[:, None]) ** 2) / 8)
    by_u = np.exp(-((columns - (np.outer(np.cos(radians), x) + np.outer(np.sin(radians), y))[..., None]) ** 2) / 8)
    images = np.einsum("bz,tbu->tzu", by_z, by_u)
    return TiltSeries(images=images, angles_deg=angles, pixel_nm=0.5, name="blobs")


def test_images_in_place_lie_on_their_reprojections(series: TiltSeries) -> None:
    found = left_out_images(series, rows=ROWS)
    assert found["image"].tolist() == list(range(1, len(series) - 1))
    assert np.abs(found[["shift_z_px", "shift_u_px"]].to_numpy()).max() < 0.06
    assert found["residual"].median() < 0.08


def test_a_moved_image_is_found_where_it_was_put(series: TiltSeries) -> None:
    z, u = np.zeros(len(series)), np.zeros(len(series))
    z[20], u[20] = 0.6, -0.8
    moved = replace(series, images=move_images(series.images, -z, -u))
    found = left_out_images(moved, rows=ROWS).set_index("image")
    still = left_out_images(series, rows=ROWS).set_index("image")
    shift = found.loc[20] - still.loc[20]
    assert shift["shift_z_px"] == pytest.approx(0.6, abs=0.05)
    assert shift["shift_u_px"] == pytest.approx(-0.8, abs=0.05)
    assert found["residual"].idxmax() == 20


def test_brightness_of_an_image_does_not_count(series: TiltSeries) -> None:
    brighter = series.images.copy()
    brighter[10] *= 3
    expected = left_out_images(series, rows=ROWS).set_index("image").loc[10]
    found = left_out_images(replace(series, images=brighter), rows=ROWS).set_index("image").loc[10]
    assert found["residual"] == pytest.approx(expected["residual"], rel=1e-3)


def test_an_axis_off_its_place_is_left_over(series: TiltSeries) -> None:
    off = replace(series, images=move_images(series.images, np.zeros(len(series)), np.full(len(series), 1.5)))
    right, wrong = misfit(series, rows=ROWS), misfit(off, rows=ROWS)
    assert right.shape == (len(series),)
    assert np.mean(wrong) > 1.3 * np.mean(right)


def test_bad_input_is_named(series: TiltSeries) -> None:
    with pytest.raises(ValueError, match="found 60 and 60"):
        left_out_images(series, folds=60)
    with pytest.raises(ValueError, match="two folds"):
        left_out_images(series, folds=1)
    with pytest.raises(ValueError, match="order of their tilts"):
        left_out_images(series.select([0, 2, 1, *range(3, 20)]))
    with pytest.raises(ValueError, match="holds none of the 64 rows"):
        misfit(series, rows=slice(70, 80))
    with pytest.raises(ValueError, match="detail_px"):
        left_out_images(series, detail_px=0)
