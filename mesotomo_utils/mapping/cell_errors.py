"""Errors of a unit cell whose dots are displaced together with their neighbours.

Displacements that neighbours share bend the lattice on the scale of the whole needle, where few
independent parts are left to draw from: a bootstrap over blocks finds half of the error. What is
known of them are the residuals, from which the fit has taken just these long waves. So a
covariance is sought that, after the same fit, leaves what was found.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from mesotomo_utils.lattice import cell_parameters, film_frame

MOST_DOTS = 1500  # nearest to the middle; from them the covariance is known well enough
MOST_ROWS = 4000  # of the covariance of all dots, drawn at random: their sum is known to two per cent
NEAR = 2.2  # spacings within which the displacements of two dots are compared
RANGES = np.geomspace(0.1, 10.0, 21)  # spacings


def cell_errors(index: np.ndarray, xyz_nm: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Standard errors of a, b, c, alpha, beta, gamma.

    Parameters
    ----------
    index, xyz_nm
        As for `superlattice.fit_cell`.
    cell
        (3, 3) fitted cell, columns A, B, C, nm.

    Returns
    -------
    (6,) nm and degrees, in the order of `lattice.cell_parameters`.

    Notes
    -----
    In each direction of the film frame the displacements have the covariance s² exp(-d/l), d the
    distance of two dots. The range l is the one whose residuals, after the fit, have the sum of
    products over near dots to the sum of squares that was found, and s² follows from the latter.
    The variance of the least-squares cell is (XᵀX)⁻¹ Xᵀ Σ X (XᵀX)⁻¹.
    """
    index, xyz_nm = np.asarray(index, float), np.asarray(xyz_nm, float)
    spacing = np.linalg.norm(cell, axis=0).mean()
    middle = np.argsort(np.linalg.norm(xyz_nm - xyz_nm.mean(axis=0), axis=1), kind="stable")[:MOST_DOTS]
    design = np.column_stack([index - index.mean(axis=0), np.ones(len(index))])
    part, distance = design[middle], cdist(xyz_nm[middle], xyz_nm[middle]) / spacing
    near = (distance < NEAR) & (distance > 0)
    moved = xyz_nm[middle] @ film_frame(cell)
    base = np.linalg.qr(part)[0]
    rest = moved - base @ (base.T @ moved)
    square = np.sum(rest**2, axis=0)
    found = np.einsum("nd,nd->d", rest, near @ rest) / np.maximum(square, 1e-20)
    expected = np.array([_after_fit(np.exp(-distance / length), base, near) for length in RANGES])
    # the ratio grows with the range until the fit takes off as much as it leaves
    top = int(np.argmax(expected[:, 0] / expected[:, 1])) + 1
    ratio = np.maximum.accumulate(expected[:top, 0] / expected[:top, 1])
    ranges = np.interp(found, ratio, RANGES[:top])
    solve = np.linalg.inv(design.T @ design) @ design.T
    variance = []
    for length, left in zip(ranges, square, strict=True):
        scale = left / _after_fit(np.exp(-distance / length), base, near)[1]
        variance.append(scale * _variance(solve[:3], xyz_nm / spacing, length))
    slope = _gradient(cell)
    return np.sqrt(np.maximum(np.einsum("fdv,dvw,fdw->f", slope, np.array(variance), slope), 0.0))


def _after_fit(covariance: np.ndarray, base: np.ndarray, near: np.ndarray) -> tuple[float, float]:
    """Expected sum of the products of near residuals, and of their squares, at s² = 1."""
    across = covariance @ base
    left = covariance - across @ base.T - base @ across.T + base @ (base.T @ across) @ base.T
    return float(left[near].sum()), float(np.trace(left))


def _variance(solve: np.ndarray, places: np.ndarray, length: float, *, at_once: int = 500) -> np.ndarray:
    """Covariance of ``solve`` (v, N) times values at N places whose own covariance is exp(-d / length): (v, v)."""
    rows = np.arange(len(places))
    if len(rows) > MOST_ROWS:  # drawn, for tables are in the order of layers or columns
        rows = np.random.default_rng(0).permutation(rows)[:MOST_ROWS]
    total = np.zeros((len(solve), len(solve)))
    for some in np.split(rows, range(at_once, len(rows), at_once)):
        total += solve[:, some] @ (np.exp(-cdist(places[some], places) / length) @ solve.T)
    return (total + total.T) / 2 * len(places) / len(rows)


def _gradient(cell: np.ndarray) -> np.ndarray:
    """(6, 3, 3) change of each cell parameter with the components, in the film frame, of A, B, C."""
    frame, step = film_frame(cell), 1e-5
    slope = np.empty((6, 3, 3))
    for direction, vector in np.ndindex(3, 3):
        ends = []
        for sign in (1, -1):
            moved = cell.copy()
            moved[:, vector] += sign * step * frame[:, direction]
            ends.append(list(cell_parameters(moved).values()))
        slope[:, direction, vector] = np.subtract(*ends) / (2 * step)
    return slope
