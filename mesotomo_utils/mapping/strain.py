"""Strain of each dot's atomic lattice, from its own three lattice parameters and angles."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils import lattice

CELL = lattice.CELL
SIGMA = ("sigma_a_nm", "sigma_b_nm", "sigma_c_nm", "sigma_alpha_deg", "sigma_beta_deg", "sigma_gamma_deg")
STRAIN = ("strain_aa", "strain_bb", "strain_cc", "strain_bc", "strain_ac", "strain_ab")


def cell_parameters(cells_nm: np.ndarray) -> np.ndarray:
    """(N, 6) lengths, nm, and angles, degrees, named by :data:`CELL`, of (N, 3, 3) cells: columns a, b, c, nm.

    NaN where a cell is not finite.
    """
    values = np.full((len(cells_nm), len(CELL)), np.nan)
    for row in np.flatnonzero(np.isfinite(cells_nm).all(axis=(1, 2))):
        found = lattice.cell_parameters(cells_nm[row])
        values[row] = [found[name] for name in CELL]
    return values


def dot_strains(cells: pd.DataFrame, *, reference_nm: float | None = None) -> pd.DataFrame:
    """Strain of each dot against an unstrained cubic lattice.

    Parameters
    ----------
    cells
        N rows of ``a_nm, b_nm, c_nm, alpha_deg, beta_deg, gamma_deg``, NaN where the lattice is not seen, and with
        ``sigma_a_nm`` … ``sigma_gamma_deg`` where the errors are known.
    reference_nm
        Parameter of the unstrained lattice, nm. None takes the median over the dots of the cube root of the cell's
        volume, so that a wrong pixel is no strain.

    Returns
    -------
    DataFrame ``strain_aa, strain_bb, strain_cc, strain_bc, strain_ac, strain_ab``, without unit, positive where
    longer: E = (MᵀM / a₀² − 1) / 2 in the axes of the lattice, M the cell of the dot and a₀ the reference. To first
    order ``strain_aa`` is a / a₀ − 1, and ``strain_ab`` half of what γ lacks of 90°, in radians; so are, with errors,
    ``sigma_strain_aa`` = ``sigma_a_nm`` / a₀ and ``sigma_strain_ab`` = ``sigma_gamma_deg`` / 2 in radians.

    Raises
    ------
    ValueError
        The reference is not positive.

    Examples
    --------
    A lattice drawn out by 1 % along c:

    >>> cells = pd.DataFrame([[0.6, 0.6, 0.606, 90.0, 90.0, 90.0]], columns=CELL)
    >>> dot_strains(cells, reference_nm=0.6).round(4).abs().iloc[0].tolist()
    [0.0, 0.0, 0.0101, 0.0, 0.0, 0.0]
    """
    if reference_nm is not None and not reference_nm > 0:
        raise ValueError(f"reference_nm must be positive, found {reference_nm}")
    values = cells[list(CELL)].to_numpy(float)
    with_errors = set(SIGMA) <= set(cells)
    names = [*STRAIN, *(f"sigma_{name}" for name in STRAIN)] if with_errors else list(STRAIN)
    known = np.isfinite(values).all(axis=1)
    strains = pd.DataFrame(np.nan, index=cells.index, columns=names)
    if not known.any():
        return strains
    matrices = np.array([lattice.cell_matrix(*row) for row in values[known]])
    if reference_nm is None:
        reference_nm = float(np.median(np.cbrt(np.linalg.det(matrices))))
    E = (np.swapaxes(matrices, 1, 2) @ matrices / reference_nm**2 - np.eye(3)) / 2
    strains.loc[known, list(STRAIN)] = np.column_stack(
        [E[:, i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    )
    if with_errors:
        sigmas = cells.loc[known, list(SIGMA)].to_numpy(float)
        errors = np.hstack([sigmas[:, :3] / reference_nm, np.deg2rad(sigmas[:, 3:]) / 2])
        strains.loc[known, names[len(STRAIN) :]] = errors
    return strains
