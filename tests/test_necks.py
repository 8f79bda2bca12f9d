"""Necks of known diameter, and none where there is none."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mesotomo_utils.lattice import cell_matrix
from mesotomo_utils.mapping import necks, superlattice, template
from mesotomo_utils.mapping.model_film import model_film

XYZ = ["x_nm", "y_nm", "z_nm"]


@pytest.fixture(scope="module")
def film():
    drawn = model_film(
        cell_matrix(6.2, 6.0, 5.8, 98, 95, 93), (3, 3, 3), edge_nm=4.7, voxel_nm=0.25,
        rng=np.random.default_rng(2), displacement_nm=0.1, neck_nm=(1.0, 4.2), neck_fraction=0.8,
    )  # fmt: skip
    return drawn, template.body_image(drawn.volume, drawn.voxel_nm, diameter_nm=5.0)


def test_diameters_are_right_and_nothing_is_invented(film):
    drawn, image = film
    found = necks.measure_necks(image, drawn.dots[XYZ], drawn.necks)
    true = drawn.necks["diameter_nm"].to_numpy()
    assert ((found["diameter_nm"] > 0) == (true > 0)).all()
    error = (found["diameter_nm"] - true)[true > 0]
    assert abs(error.mean()) < 0.1
    assert np.sqrt((error**2).mean()) < 0.2
    assert abs((found["length_nm"] - drawn.necks["length_nm"]).median()) < 0.15


def test_brightness_does_not_matter(film):
    drawn, image = film
    brighter = template.body_image(5 * drawn.volume + 2, drawn.voxel_nm, diameter_nm=5.0)
    pairs = drawn.necks.iloc[:20]
    first = necks.measure_necks(image, drawn.dots[XYZ], pairs)["diameter_nm"]
    second = necks.measure_necks(brighter, drawn.dots[XYZ], pairs)["diameter_nm"]
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_the_two_ends_can_be_swapped(film):
    drawn, image = film
    pairs = drawn.necks.iloc[:20]
    back = pairs.rename(columns={"qd_1": "qd_2", "qd_2": "qd_1"})
    first = necks.measure_necks(image, drawn.dots[XYZ], pairs)["diameter_nm"]
    second = necks.measure_necks(image, drawn.dots[XYZ], back)["diameter_nm"]
    np.testing.assert_allclose(first, second, atol=0.08)


def test_the_edge_of_the_mean_neck_is_that_of_the_low_pass_and_of_where_necks_stand(film):
    drawn, image = film
    xyz, low_pass = drawn.dots[XYZ].to_numpy(), 5.0 * template.SIGMA_DIAMETERS
    near = necks.near_necks(image, xyz)
    width = necks.edge_width(image, xyz, near)
    assert low_pass <= width < 1.4 * low_pass
    beside = xyz + np.random.default_rng(1).normal(0, 0.35, xyz.shape)
    assert 1.15 * width < necks.edge_width(image, beside, necks.near_necks(image, beside)) < 3 * width
    assert necks.edge_width(image, xyz, near.iloc[:3]) == low_pass, "three necks have no mean edge"


def test_a_blurred_edge_is_that_of_a_gaussian():
    x = np.linspace(-4, 4, 81)
    np.testing.assert_allclose(necks.blurred_edge(x), stats.norm.sf(x), atol=0.01)


def test_area_of_a_drawn_disc():
    axis = (np.arange(41) - 20) * 0.15
    radius = np.hypot(axis[:, None], axis[None])
    for diameter in (1.2, 2.5, 4.0):
        picture = 1 / (1 + np.exp((radius - diameter / 2) / 0.1))
        # whole, or with the level that a gap between two lattices leaves, in a matrix of any level
        for level, matrix in ((1.0, 0.0), (0.75, 0.0), (0.8, 0.15)):
            planes = np.repeat(matrix + (level - matrix) * picture[None], 17, axis=0)
            area = necks.neck_area(planes, 0.15, diameter_nm=5.0, threshold=0.5)
            assert 2 * np.sqrt(area / np.pi) == pytest.approx(diameter, abs=0.05)
    assert necks.neck_area(np.zeros((17, 41, 41)), 0.15, diameter_nm=5.0) == 0
    off_axis = np.roll(picture, 17, axis=0) * (radius > 2.4)
    assert necks.neck_area(np.repeat(off_axis[None], 17, axis=0), 0.15, diameter_nm=5.0) == 0


def test_a_neck_that_lacks_atoms_in_its_middle_is_as_thick_as_a_whole_one():
    axis = (np.arange(41) - 20) * 0.15
    radius = np.hypot(axis[:, None], axis[None])
    for diameter in (1.5, 2.5, 4.0):
        planes = np.repeat(1 / (1 + np.exp((radius - diameter / 2) / 0.1))[None], 17, axis=0)
        planes[8] *= np.where(radius < 0.3, 1.0, 0.7)  # where two lattices meet, but for a few columns of atoms
        area = necks.neck_area(planes, 0.15, diameter_nm=5.0)
        assert 2 * np.sqrt(area / np.pi) == pytest.approx(diameter, abs=0.06)


def test_half_sets_give_one_sigma_for_all(film, monkeypatch):
    drawn, _ = film
    rng = np.random.default_rng(0)
    halves = [
        template.body_image(
            drawn.volume + rng.normal(0, 0.5, drawn.volume.shape).astype(np.float32),
            drawn.voxel_nm, diameter_nm=5.0,
        )
        for _ in "ab"
    ]  # fmt: skip
    sigma, both = necks.neck_sigmas(drawn.necks, *halves, drawn.dots[XYZ])
    assert len(set(sigma)) == 1
    assert necks.SHARED_DIAMETERS * 5.0 <= sigma[0] < 0.2
    assert list(both) == ["even_nm", "odd_nm"]
    assert len(both) == (drawn.necks["diameter_nm"] > 0).sum()
    monkeypatch.setattr(necks, "MOST_COMPARED", 20)
    some, both = necks.neck_sigmas(drawn.necks, *halves, drawn.dots[XYZ])
    assert 10 <= len(both) <= 20
    assert some[0] == pytest.approx(sigma[0], rel=0.3)


def test_pairs_come_from_the_lattice(film):
    drawn, image = film
    lattice = superlattice.superlattice_from_sites(drawn.dots[XYZ], drawn.dots)
    pairs = superlattice.neighbour_pairs(lattice)
    columns = ["qd_1", "qd_2", "axis"]
    pd.testing.assert_frame_equal(
        pairs.sort_values(columns, ignore_index=True),
        drawn.necks[columns].sort_values(columns, ignore_index=True),
        check_dtype=False,
    )
    assert image.contrast > 0


def test_what_cannot_be_measured_is_refused(film):
    drawn, image = film
    pairs = pd.DataFrame({"qd_1": [0], "qd_2": [99], "axis": ["A"]})
    with pytest.raises(ValueError, match="row 0 joins dots"):
        necks.measure_necks(image, drawn.dots[XYZ], pairs)
    with pytest.raises(ValueError, match="same point"):
        necks.gap_planes(image, np.zeros(3), np.zeros(3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        {"seed": 21, "edge_nm": 3.5},
        {"seed": 22, "edge_nm": 6.5, "voxel_nm": 0.12},
        {"seed": 23, "material": "PbS"},
        {"seed": 24, "material": "SnTe", "voxel_nm": 0.07},
        {"seed": 25, "noise": 6.0},
    ],
    ids=lambda case: ", ".join(f"{name} {value}" for name, value in case.items()),
)
def test_the_contour_holds_for_other_dots_voxels_materials_and_noise(load_benchmark, case):
    found = load_benchmark("calibrate_necks").judge(**case, thresholds=[necks.THRESHOLD]).iloc[0]
    assert found["pairs"] > 45
    assert abs(found["bias (nm)"]) < 0.06
    assert found["rms (nm)"] < 0.2
    assert found["false"] + found["missed"] <= 0.02 * found["pairs"]


@pytest.mark.slow
def test_another_contour_would_not_do(load_benchmark):
    table = load_benchmark("calibrate_necks").judge(26, thresholds=[0.36, 0.56])
    assert (table["bias (nm)"].abs() > 0.1).all()
