"""What a wedge of missing tilts does to model dots whose centres are known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from mesotomo_utils.lattice import cell_matrix
from mesotomo_utils.mapping import centres, missing_wedge, template
from mesotomo_utils.mapping.model_film import model_film
from mesotomo_utils.tomography.projector import Projector

XYZ = ["x_nm", "y_nm", "z_nm"]
TILTS = np.arange(-68, 69, 2.0)


@pytest.fixture(scope="module")
def film():
    cell = cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)
    return model_film(cell, (3, 3, 3), edge_nm=4.9, voxel_nm=0.25, rng=np.random.default_rng(1))


@pytest.fixture(scope="module")
def seen(film):
    """The film, square across the axis, as the tilts show it."""
    projector = Projector(TILTS, max(film.volume.shape[1:]), device="cpu")
    volume = projector.fbp(projector.forward(square(film.volume)))
    return template.body_image(volume, film.voxel_nm, diameter_nm=5.0)


@pytest.fixture(scope="module")
def filled(seen):
    return missing_wedge.fill_wedge(seen, TILTS)


def square(volume):
    n = max(volume.shape[1:])
    return np.pad(volume, [(0, 0), *((0, n - m) for m in volume.shape[1:])])


def errors_nm(film, table):
    """Errors of whole dots, less what all share."""
    n = max(film.volume.shape[1:])
    middle = [(n - m) / 2 * film.voxel_nm for m in film.volume.shape[:0:-1]] + [0]
    distance, row = cKDTree(film.dots[XYZ]).query(table[XYZ] + middle)
    error = (table[XYZ] + middle - film.dots[XYZ].to_numpy()[row])[(distance < 1) & ~table["recentred"]]
    assert len(error) >= 15
    return error - np.median(error, axis=0)


@pytest.mark.slow
def test_filled_bodies_have_their_centres_nearer_the_truth(film, seen, filled):
    before, after = (errors_nm(film, centres.find_centres(image, lopsided=False)[0]) for image in (seen, filled))
    # of all that are found within a nanometre: one more dot is when filled, and it is the farthest off
    assert np.median(np.abs(after)) < 0.7 * np.median(np.abs(before))
    assert np.quantile(np.abs(after), 0.9) < 0.5 * np.quantile(np.abs(before), 0.9)


def test_filled_bodies_are_what_the_tilts_have_shown(seen, filled):
    projector = Projector(TILTS, seen.values.shape[1], device="cpu")

    def lacks(values):
        return np.linalg.norm(projector.fbp(projector.forward(values)) - seen.values)

    assert 0 <= filled.values.min() <= filled.values.max() <= 1
    assert lacks(filled.values) < 0.9 * lacks(seen.values.clip(0, 1))


@pytest.mark.slow
def test_the_error_that_is_left_is_told(film, filled):
    table, mean = centres.find_centres(filled, lopsided=False)
    sigma = missing_wedge.wedge_sigmas(table, filled, mean, TILTS)
    ratio = 1.4826 * np.median(np.abs(errors_nm(film, table)), axis=0) / sigma
    assert ratio.max() < 4  # to a factor, the scales being those of noisy films; without it they would be ten times σ
    assert ratio.min() > 0.25
    assert sigma[1] == sigma.max()  # along the beam of the missing tilts


def test_the_error_turns_with_the_wedge(filled):
    table, mean = centres.find_centres(filled, lopsided=False)
    sigma = missing_wedge.wedge_sigmas(table, filled, mean, TILTS)
    across = [part.transpose(0, 2, 1) for part in (mean.values, mean.weights, mean.body)]
    turned = missing_wedge.wedge_sigmas(
        table.assign(x_nm=table["y_nm"], y_nm=table["x_nm"]),
        replace(filled, values=filled.values.transpose(0, 2, 1)),
        template.Template(*across, mean.step_nm),
        90 - TILTS,
    )
    assert np.allclose(turned, sigma[[1, 0, 2]], rtol=0.05)


def test_where_no_wedge_is_missing_nothing_is_done(seen, filled):
    table, mean = centres.find_centres(filled, lopsided=False)
    for tilts in (np.arange(-90, 90, 2.0), []):
        assert missing_wedge.fill_wedge(seen, tilts) is seen
        assert not missing_wedge.wedge_sigmas(table, filled, mean, tilts).any()


def test_a_gpu_fills_as_the_cpu_does(gpu, seen):
    assert_fills_alike(replace(seen, values=seen.values[40:46, 30:62, 30:70]))


@pytest.mark.gpu
@pytest.mark.parametrize("real_gpu", ["gridding"], indirect=True)
def test_a_real_gpu_fills_as_the_cpu_does(real_gpu, seen):
    assert_fills_alike(seen)


def assert_fills_alike(image):
    here, there = (missing_wedge.fill_wedge(replace(image, device=device), TILTS).values for device in ("cpu", "cuda"))
    assert np.linalg.norm(here - there) < 1e-4 * np.linalg.norm(here)
    assert np.linalg.norm(here - image.values.clip(0, 1)) > 0.05 * np.linalg.norm(here)
