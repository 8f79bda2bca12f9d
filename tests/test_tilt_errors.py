"""Errors of the tilts that no series tells, on angles and on model dots whose centres are known."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from mesotomo_utils.lattice import cell_matrix
from mesotomo_utils.mapping import centre_errors, centres, template, tilt_errors
from mesotomo_utils.mapping.centre_fits import refine_centres
from mesotomo_utils.mapping.model_film import model_film
from mesotomo_utils.tomography.alignment_fine import slow_angle_patterns
from mesotomo_utils.tomography.projector import Projector

XYZ = ["x_nm", "y_nm", "z_nm"]
TILTS = np.arange(-90.0, 90.0)


@pytest.fixture(scope="module")
def film():
    cell = cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)
    return model_film(cell, (3, 3, 3), edge_nm=4.9, voxel_nm=0.25, rng=np.random.default_rng(1))


def square(volume):
    n = max(volume.shape[1:])
    return np.pad(volume, [(0, 0), *(((n - m) // 2, n - m - (n - m) // 2) for m in volume.shape[1:])])


@pytest.mark.parametrize("drift_deg", [0.0, 0.3])
def test_errors_that_were_found_tell_those_that_were_not(drift_deg):
    error = np.random.default_rng(3).normal(0, 0.1, len(TILTS))
    slow = np.column_stack(slow_angle_patterns(TILTS)[:2])
    found = error - slow @ (slow.T @ error) + drift_deg * np.cos(np.deg2rad(4 * TILTS))
    table = pd.DataFrame({"angle_nominal_deg": TILTS, "angle_deg": TILTS + found, "used": True})
    assert tilt_errors.unseen_error_deg(table) == pytest.approx(0.1, rel=0.1)
    unused = pd.DataFrame({"angle_nominal_deg": [0.5], "angle_deg": [9.0], "used": [False]})
    with_unused = pd.concat([table, unused], ignore_index=True)
    assert tilt_errors.unseen_error_deg(with_unused) == pytest.approx(tilt_errors.unseen_error_deg(table))


@pytest.mark.parametrize("tilts", [TILTS, np.arange(-65.0, 66.0)])
def test_points_are_as_far_off_as_tilts_that_are_off_by_slow_patterns_put_them(tilts, monkeypatch):
    monkeypatch.setattr(tilt_errors, "OF_FACETS", 1.0)
    rng = np.random.default_rng(4)
    inner = [[x, y, 0] for x in (7, -7) for y in (7, -7)]
    points = np.array([[20.0, 0, 5], [0, 20, -5], [-20, 0, 0], [0, -20, 0], *inner])
    across = points[:, [1, 0]] * [-1, 1]
    slow = np.column_stack(slow_angle_patterns(tilts)[:2])[:, 1:]
    moves = []
    for _ in range(400):
        off = np.deg2rad(slow @ rng.normal(0, 0.1, slow.shape[1]))
        true, used = np.deg2rad(tilts), np.deg2rad(tilts) + off
        u = points[:, :1] * np.cos(true) + points[:, 1:2] * np.sin(true)
        seen = np.linalg.lstsq(np.column_stack([np.cos(used), np.sin(used)]), u.T, rcond=None)[0].T
        move = seen - points[:, :2]
        moves.append(move - np.sum(across * move) / np.sum(across**2) * across)  # no series tells a turn
    sigma = tilt_errors.tilt_sigmas(points, tilts, 0.1)
    assert not sigma[:, 2].any()
    np.testing.assert_allclose(sigma[:, :2], np.std(moves, axis=0), rtol=0.15)
    assert tilt_errors.tilt_sigmas(points, tilts, 0.2) == pytest.approx(2 * sigma)


@pytest.mark.slow
def test_centres_of_bodies_are_as_far_off_as_is_said(film):
    volume = square(film.volume)
    projections = Projector(TILTS, volume.shape[1], device="cpu").forward(volume)
    error_deg, moves = 0.1, []

    def seen(tilts):
        again = Projector(tilts, volume.shape[1], device="cpu").fbp(projections)
        return template.body_image(again, film.voxel_nm, diameter_nm=5.0)

    image = seen(TILTS)
    table, mean = centres.find_centres(image)
    table = table[~table["recentred"]]
    still = refine_centres(image, table[XYZ], mean, restarts=())
    for pattern in np.column_stack(slow_angle_patterns(TILTS)[:2])[:, 1:11].T:
        # ten times the error, to stand out: it is linear
        move = refine_centres(seen(TILTS + 10 * error_deg * pattern), table[XYZ], mean, restarts=()) - still
        moves.append((move - tilt_errors.without_strain(still, move)) / 10)
    found = np.sqrt(np.sum(np.square(moves), axis=0))[:, :2]
    expected = tilt_errors.tilt_sigmas(table[XYZ], TILTS, error_deg)[:, :2]
    outer = expected > np.median(expected)
    assert 0.65 < np.median(found[outer] / expected[outer]) < 1.35


def test_the_strain_that_all_dots_share_is_taken_from_their_moves_and_nothing_else():
    rng = np.random.default_rng(5)
    xyz, own = rng.uniform(-30, 30, (60, 3)), rng.normal(0, 0.01, (60, 3))
    xyz -= xyz.mean(axis=0)
    own[:5] += 0.4
    strain, turn = np.array([[3e-3, 2e-3], [2e-3, -1e-3]]), np.array([[0, 1e-3], [-1e-3, 0]])
    moves = own.copy()
    moves[:, :2] += xyz[:, :2] @ (strain + turn)
    left = tilt_errors.without_strain(xyz, moves)
    kept = own.copy()
    kept[:, :2] += xyz[:, :2] @ turn
    assert np.abs(left - kept).max() < 0.006
    np.testing.assert_array_equal(left[:, 2], moves[:, 2])
    few = slice(tilt_errors.FEWEST_DOTS - 1)
    np.testing.assert_array_equal(tilt_errors.without_strain(xyz[few], moves[few]), moves[few])


def test_a_strain_between_the_halves_is_no_scatter_of_the_centres(film):
    rng = np.random.default_rng(6)
    volumes = [film.volume + rng.normal(0, 0.2, film.volume.shape).astype(np.float32) for _ in "ab"]
    middle, apart = (np.array(film.volume.shape) - 1) / 2, []
    mean = table = None
    for strain in (0.0, 0.004):
        scale = 1 + strain * np.array([0, 1, -1])
        odd = ndimage.affine_transform(volumes[1], scale, middle - scale * middle, order=3, mode="nearest")
        images = [template.body_image(v, film.voxel_nm, diameter_nm=5.0) for v in (volumes[0], odd)]
        if table is None:
            table, mean = centres.find_centres(images[0])
        apart.append(centre_errors.half_set_sigmas(table, *images, mean)[1].abs().median())
    assert (apart[1] < 1.3 * apart[0]).all()
