"""Strain of single dots: known answers and laws."""

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.mapping import strain


def cells_of(matrices):
    return pd.DataFrame([lattice.cell_parameters(M) for M in matrices])[list(strain.CELL)]


def as_tensor(row):
    aa, bb, cc, bc, ac, ab = row
    return np.array([[aa, ab, ac], [ab, bb, bc], [ac, bc, cc]])


def test_a_known_deformation_comes_back_however_the_dot_is_turned():
    rng = np.random.default_rng(0)
    F = np.eye(3) + 0.01 * rng.normal(size=(20, 3, 3))
    turned = lattice.from_rotation_vectors(rng.normal(size=(20, 3)))
    found = strain.dot_strains(cells_of(0.61 * turned @ F), reference_nm=0.61)
    expected = (np.swapaxes(F, 1, 2) @ F - np.eye(3)) / 2
    np.testing.assert_allclose([as_tensor(row) for row in found.to_numpy()], expected, atol=1e-12)
    assert list(found) == list(strain.STRAIN)


def test_to_first_order_it_is_the_lengths_and_the_angles():
    cells = pd.DataFrame([[0.606, 0.6, 0.597, 90.1, 89.8, 90.3]], columns=strain.CELL)
    found = strain.dot_strains(cells, reference_nm=0.6).iloc[0]
    np.testing.assert_allclose(found[:3], [0.01, 0.0, -0.005], atol=1e-4)
    np.testing.assert_allclose(found[3:], np.deg2rad([-0.1, 0.2, -0.3]) / 2, rtol=0.02)


def test_a_wrong_pixel_is_no_strain_and_unknown_dots_stay_unknown():
    rng = np.random.default_rng(1)
    cells = cells_of(0.61 * (np.eye(3) + 0.003 * rng.normal(size=(9, 3, 3))))
    lengths = ["a_nm", "b_nm", "c_nm"]
    larger = cells.assign(**1.04 * cells[lengths])
    pd.testing.assert_frame_equal(strain.dot_strains(larger), strain.dot_strains(cells), rtol=0, atol=1e-12)
    assert abs(strain.dot_strains(larger, reference_nm=0.61)["strain_aa"].mean() - 0.04) < 0.005
    cells.loc[4, "b_nm"] = np.nan
    assert strain.dot_strains(cells).isna().all(axis=1).tolist() == [k == 4 for k in range(9)]
    assert strain.dot_strains(cells.iloc[[4]]).isna().all(axis=None)
    with pytest.raises(ValueError, match="reference_nm must be positive, found 0"):
        strain.dot_strains(cells, reference_nm=0)
