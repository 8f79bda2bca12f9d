"""A rough diameter becomes the one that the dots have; a good one is left as it is."""

from __future__ import annotations

import numpy as np
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.mapping import centres, dot_size
from mesotomo_utils.mapping.model_film import ModelFilm, model_film

EDGE_NM = 4.9


@pytest.fixture(scope="module")
def film() -> ModelFilm:
    cell = lattice.cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)
    rng = np.random.default_rng(5)
    return model_film(cell, (3, 3, 3), edge_nm=EDGE_NM, voxel_nm=0.25, rng=rng, displacement_nm=0.1)


def test_a_diameter_near_that_of_the_dots_is_taken_as_it_is(film: ModelFilm) -> None:
    image, mean = dot_size.image_of_dots(film.volume, film.voxel_nm, diameter_nm=5.0)
    assert image.diameter_nm == 5.0
    # corners are cut, by 4 % of the volume
    assert mean.edge_nm == pytest.approx(EDGE_NM, rel=0.04)


@pytest.mark.parametrize("given_nm", [3.5, 4.2, 6.5, 8.5])
def test_a_rough_diameter_gives_the_picture_of_a_good_one(film: ModelFilm, given_nm: float) -> None:
    image, _ = dot_size.image_of_dots(film.volume, film.voxel_nm, diameter_nm=given_nm)
    assert image.diameter_nm == pytest.approx(5.0, rel=0.06)
    found, _ = centres.find_centres(image)
    error = found[["x_nm", "y_nm", "z_nm"]].to_numpy()[:, None] - film.dots[["x_nm", "y_nm", "z_nm"]].to_numpy()
    error = np.linalg.norm(error, axis=2)
    assert len(found) == len(film.dots)
    assert np.median(error.min(axis=1)) < 0.05
    assert sorted(error.argmin(axis=1)) == list(range(len(film.dots)))


def test_a_diameter_of_something_else_is_refused(film: ModelFilm) -> None:
    with pytest.raises(ValueError, match=r"diameter_nm is 2, but .* correct quantum_dot\.diameter_nm"):
        dot_size.image_of_dots(film.volume, film.voxel_nm, diameter_nm=2.0)
