"""Dots that the needle's edge has cut, and the pieces that it left of their neighbours."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from mesotomo_utils.lattice import cell_matrix
from mesotomo_utils.mapping import centre_errors, centre_fits, centres, necks, needle_edge, template
from mesotomo_utils.mapping.model_film import model_film

XYZ = ["x_nm", "y_nm", "z_nm"]
CELL = cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)
AXIS_NM, RADIUS_NM, TAPER = np.array([0.7, -0.4]), 14.6, 0.03


def milled(edge_spread):
    """(film, picture) of a film that is milled to a tapered needle, its dots' edges varying by that part."""
    shape = {"edge_nm": 4.9, "edge_spread": edge_spread, "voxel_nm": 0.25, "neck_nm": (2.5, 3.8)}
    film = model_film(CELL, (7, 7, 3), **shape, rng=np.random.default_rng(2))
    z, y, x = ((np.arange(n) - (n - 1) / 2) * film.voxel_nm for n in film.volume.shape)
    depth = RADIUS_NM + TAPER * z[:, None, None] - np.hypot(x - AXIS_NM[0], (y - AXIS_NM[1])[:, None])
    volume = film.volume / (1 + np.exp(-1.7 * depth / 0.15))
    return film, template.body_image(volume.astype(np.float32), film.voxel_nm, diameter_nm=5.0)


@pytest.fixture(scope="module")
def needle():
    return milled(edge_spread=0.02)


@pytest.fixture(scope="module")
def found(needle):
    return centres.find_centres(needle[1])


@pytest.fixture(scope="module")
def table(found):
    return found[0]


def depth_nm(xyz):
    """How far the edge is from points, seen from the axis."""
    return RADIUS_NM + TAPER * xyz[:, 2] - np.linalg.norm(xyz[:, :2] - AXIS_NM, axis=1)


def cut_away(xyz):
    """Part of dots as large as the film's, turned as its cell, that lies beyond the edge."""
    u, _, vt = np.linalg.svd(CELL)
    cube = np.stack(np.meshgrid(*[(np.arange(30) + 0.5) / 30 - 0.5] * 3, indexing="ij"), -1).reshape(-1, 3)
    dot = 4.9 * cube[np.abs(cube).sum(axis=1) < 1.2] @ (u @ vt).T
    return np.array([(depth_nm(centre + dot) < 0).mean() for centre in xyz])


def test_the_edge_is_found(needle):
    film, image = needle
    xyz = film.dots[XYZ].to_numpy()
    xyz = xyz[np.abs(depth_nm(xyz)) < 4]
    around = image.edge.around(xyz)
    depth = around[:, 2] - np.linalg.norm(around[:, :2], axis=1)
    np.testing.assert_allclose(depth, depth_nm(xyz), atol=0.06)
    for way, line in zip((-1, 1), image.edge.outline(), strict=True):
        np.testing.assert_allclose(line["u_nm"], AXIS_NM[0] + way * (RADIUS_NM + TAPER * line["v_nm"]), atol=0.06)


@pytest.mark.parametrize("seed", [1, 6])
def test_a_piece_of_a_film_has_no_such_edge(seed):
    film = model_film(CELL, (4, 4, 2), edge_nm=4.9, voxel_nm=0.25, rng=np.random.default_rng(seed))
    image = template.body_image(film.volume, film.voxel_nm, diameter_nm=5.0)
    assert image.edge is None
    assert centre_fits.beyond_edge(image, film.dots[XYZ], template.mean_dot(image, film.dots[XYZ])) is None
    one = np.pad(np.ones((20, 20, 20), np.float32), 10)
    assert needle_edge.find_needle_edge(one, 0.25, 5.0) is None, "one cube"
    assert needle_edge.find_needle_edge(0 * one, 0.25, 5.0) is None, "nothing"


def test_dots_that_are_cut_a_little_are_where_they_were(needle, table):
    film, _ = needle
    xyz = film.dots[XYZ].to_numpy()
    distance, row = cKDTree(table[XYZ]).query(xyz)
    depth = depth_nm(xyz)
    whole, cut = depth > 3.7, (depth > 1.8) & (depth < 2.8)
    assert whole.sum() > 25
    assert distance[whole].max() < 0.01
    assert not table["at_edge"].to_numpy()[row[whole]].any()
    assert cut.sum() >= 8
    assert np.median(distance[cut]) < 0.03, "0.06 with what is beyond the edge looked at"
    assert table["at_edge"].to_numpy()[row[cut]].all()
    there = distance < 1
    lacks, gone = table["beyond"].to_numpy()[row[there]], cut_away(xyz[there])
    np.testing.assert_allclose(lacks, gone, atol=0.07)
    assert np.corrcoef(lacks, gone)[0, 1] > 0.99


def test_what_is_left_of_a_neighbour_and_its_neck_are_seen(needle, table):
    film, image = needle
    near = necks.near_necks(image, table[XYZ])
    pieces = near[near["away"] & (near["diameter_nm"] > 0)]
    xyz, found = film.dots[XYZ].to_numpy(), table[XYZ].to_numpy()
    ends = found[pieces[["qd_1", "qd_2"]].to_numpy()]
    distance, there = cKDTree(xyz).query(2 * ends[:, 0] - ends[:, 1])
    assert len(pieces) > 5
    assert np.median(distance) < 0.8
    assert (depth_nm(xyz[there]) < 1).all(), "dots of which hardly anything is left"


def test_a_neck_on_the_side_turned_away_is_left_out_there_alone():
    xyz = np.array([[0.0, 0, 0], [6, 0, 0]])
    joined = pd.DataFrame({"qd_1": [0, 0], "qd_2": [1, 1], "diameter_nm": [2.0, 3.0], "away": [False, True]})
    rows = centre_fits._necks_of_dots(joined, xyz)
    assert rows[0].tolist() == [[1, 0, 0, 1, 6], [-1, 0, 0, 1.5, 6]]
    assert rows[1].tolist() == [[-1, 0, 0, 1, 6], [0, 0, 0, 0, 0]]


def test_of_two_centres_of_one_dot_the_recentred_one_goes():
    xyz = np.array([[0.0, 0, 0], [0.3, 0, 0]])
    missing, cut = np.array([0.02, 0.01]), np.array([False, True])
    assert template.apart(xyz, missing + cut, 1.0).tolist() == [True, False]


def test_a_centre_that_goes_takes_none_with_it():
    """Of three in a row the middle one goes, for the best beside it; the worst is near none that is kept."""
    xyz = np.array([[0.0, 0, 0], [0.8, 0, 0], [1.6, 0, 0]])
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        kept = template.apart(xyz[order], np.array([0.1, 0.2, 0.3])[order], 1.0)
        assert sorted(np.array(order)[kept]) == [0, 2]


def test_the_more_dots_differ_in_size_the_less_is_known_of_cut_ones(needle, found):
    varied = milled(edge_spread=0.06)
    told = []
    for (film, image), (table, mean) in ((needle, found), (varied, centres.find_centres(varied[1]))):
        distance, row = cKDTree(film.dots[XYZ]).query(table[XYZ])
        error = np.abs(table[XYZ].to_numpy() - film.dots[XYZ].to_numpy()[row])
        sigma = centre_errors.half_set_sigmas(table, image, image, mean)[0].to_numpy()
        cut = table["recentred"].to_numpy() & (distance < 1)
        assert cut.sum() >= 20
        assert 0.5 < (error <= sigma)[cut].mean() < 0.85
        told.append(np.median(sigma[cut]))
    assert told[1] > 2 * told[0]


def test_what_is_missed_outwards_counts_outwards():
    rng, outwards = np.random.default_rng(3), np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 3.0]])
    angle = rng.uniform(0, 2 * np.pi, 4000)
    away = np.column_stack([np.cos(angle), np.sin(angle)])
    radial, across, along = rng.normal(0, [[0.3], [0.1], [0.05]], (3, 4000))
    missed = np.column_stack([(radial * away.T + across * [-away[:, 1], away[:, 0]]).T, along])
    sigma = centre_errors._along_axes(missed, away, outwards)
    slanted = np.hypot(0.3, 0.1) / np.sqrt(2)
    expected = [[0.3, 0.1, 0.05], [0.1, 0.3, 0.05], [slanted, slanted, 0.05]]
    np.testing.assert_allclose(sigma, expected, rtol=0.05)
