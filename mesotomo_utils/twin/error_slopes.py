"""Do the errors of the centres follow what must not matter: the grid of voxels, or the necks on a dot's two sides?

A peak that is read off whole voxels is drawn to their middles, a centroid to the thicker neck. A mean error shows
neither; a slope does, and says so with its own standard error.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils.twin.matching import RigidMotion

ERROR = ["error_x_nm", "error_y_nm", "error_z_nm"]
POSITION = ["x_nm", "y_nm", "z_nm"]


def slope(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Slope of y over x by least squares, beside a constant.

    Parameters
    ----------
    x, y
        (N,) values.

    Returns
    -------
    dict
        ``value``, ``sigma`` (one standard error) and ``n``; NaN for fewer than three points or where all x are the
        same.

    Notes
    -----
    Where x is far from its mean (a thick neck) the scatter can be several times as large as elsewhere; the standard
    error counts each point's own (HC3; MacKinnon and White, J. Econometrics 29, 305, 1985).
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = len(x)
    if n < 3 or np.ptp(x) == 0:
        return {"value": np.nan, "sigma": np.nan, "n": n}
    [value], [sigma] = slopes(x[:, None], y)
    return {"value": float(value), "sigma": float(sigma), "n": n}


def slopes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of y over several x at once by least squares, beside a constant.

    Parameters
    ----------
    x
        (N, k) values, no column a sum of multiples of others and of a constant.
    y
        (N,) values.

    Returns
    -------
    value, sigma
        (k,) slopes and their standard errors, those of :func:`slope`.
    """
    n, away = len(x), x - x.mean(axis=0)
    inverse = np.linalg.inv(away.T @ away)
    value = inverse @ (away.T @ (y - y.mean()))
    left = y - y.mean() - away @ value
    # 0 for a point that the line must pass through
    free = np.maximum(1 - 1 / n - np.einsum("ni,ij,nj->n", away, inverse, away), 1e-6)
    each = (away * (left / free)[:, None]) @ inverse
    return value, np.sqrt((each**2).sum(axis=0))


def phase_slopes(
    matched: pd.DataFrame,
    dots: pd.DataFrame,
    motion: RigidMotion,
    *,
    voxel_nm: float,
    shape: tuple[int, int, int],
) -> dict[str, dict[str, float]]:
    """Slope of the error along each axis over the place of the true centre within its voxel.

    Parameters
    ----------
    matched
        Of :func:`errors.compare_dots`: ``qd_true, whole``, errors in the frame of the truth, nm.
    dots
        True dots: ``qd`` and positions, nm.
    motion
        From the frame of the tomogram to that of the truth.
    voxel_nm, shape
        Edge of the voxels, nm, and their numbers (nz, ny, nx): voxel i of n sits at (i − (n−1)/2)·voxel.

    Returns
    -------
    dict
        ``x, y, z``: :func:`slope` in nm a voxel, the phase going from −½ to ½ across a voxel. Whole dots only. A centre
        that is rounded to the nearest voxel has −``voxel_nm``, one that is not drawn to the grid has 0.

    Notes
    -----
    The phase is that of the true centre: over the phase of the measured one every error would have a slope.
    """
    whole = matched[matched["whole"]]
    true = dots.set_index("qd").loc[whole["qd_true"], POSITION].to_numpy(float)
    at = (true - motion.shift_nm) @ motion.rotation
    error = whole[ERROR].to_numpy(float) @ motion.rotation
    voxel = at / voxel_nm + (np.array(shape[::-1]) - 1) / 2
    phase = voxel - np.round(voxel)
    return {axis: slope(phase[:, i], error[:, i]) for i, axis in enumerate("xyz")}


def neck_slopes(matched: pd.DataFrame, dots: pd.DataFrame, necks: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Slope of the error along a row of dots over how much thicker the neck ahead is than the neck behind.

    Parameters
    ----------
    matched, dots
        As for :func:`phase_slopes`.
    necks
        True necks: ``qd_1, qd_2, axis, diameter_nm``, 0 where there is none; ``qd_2`` is the + neighbour.

    Returns
    -------
    dict
        ``A, B, C``: :func:`slope` in nm of error a nm of diameter, over the whole dots that have both neighbours.
        Positive: the centre is pulled to the thicker neck.
    """
    whole = matched[matched["whole"]].set_index("qd_true")
    xyz = dots.set_index("qd")[POSITION]
    found = {}
    for axis in "ABC":
        own = necks[necks["axis"] == axis]
        ahead, behind = own.set_index("qd_1"), own.set_index("qd_2")
        rows = [qd for qd in whole.index if qd in ahead.index and qd in behind.index]
        along = xyz.loc[ahead.loc[rows, "qd_2"]].to_numpy(float) - xyz.loc[behind.loc[rows, "qd_1"]].to_numpy(float)
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        thicker = ahead.loc[rows, "diameter_nm"].to_numpy(float) - behind.loc[rows, "diameter_nm"].to_numpy(float)
        found[axis] = slope(thicker, np.sum(whole.loc[rows, ERROR].to_numpy(float) * along, axis=1))
    return found
