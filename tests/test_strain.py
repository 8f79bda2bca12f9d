"""Strain of single dots: known answers and laws."""

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.mapping import orientation_errors, strain


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


def test_errors_of_the_cell_become_errors_of_the_strain():
    """By drawing cells with these errors: the strains spread as foretold."""
    rng = np.random.default_rng(2)
    sigma = np.array([1e-3, 2e-3, 3e-3, 0.1, 0.2, 0.3])
    made = np.array([0.61, 0.61, 0.61, 90, 90, 90]) + sigma * rng.normal(size=(4000, 6))
    cells = pd.DataFrame(made, columns=strain.CELL).assign(**dict(zip(strain.SIGMA, sigma, strict=True)))
    found = strain.dot_strains(cells)
    spread = found[list(strain.STRAIN)].std()
    foretold = found[[f"sigma_{name}" for name in strain.STRAIN]].median()
    np.testing.assert_allclose(spread.to_numpy(), foretold.to_numpy(), rtol=0.05)


def test_cells_of_half_sets_give_the_error_of_all_tilts():
    """Halves with twice the variance each; a stretch common to one half is none of a dot's error."""
    rng = np.random.default_rng(3)
    sigma, n = 2e-3, 3000
    even, odd = 0.61 * np.eye(3) + np.sqrt(2) * sigma * rng.normal(size=(2, n, 3, 3))
    odd *= 1.01
    odd[7] = np.nan
    found = orientation_errors.cell_sigmas(even, odd, rng.uniform(50, 200, n))
    assert found.loc[7].isna().all()
    lengths, angles = found[list(strain.SIGMA[:3])].median(), found[list(strain.SIGMA[3:])].median()
    np.testing.assert_allclose(lengths, sigma, rtol=0.06)
    np.testing.assert_allclose(np.deg2rad(angles), np.sqrt(2) * sigma / 0.61, rtol=0.06)
    nothing = orientation_errors.cell_sigmas(even * np.nan, odd, np.ones(n))
    assert nothing.isna().all(axis=None)
    assert list(nothing) == list(strain.SIGMA)
