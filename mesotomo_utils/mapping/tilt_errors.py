"""What errors of the tilt angles that no series tells do to the centres: one strain across the tilt axis for all dots.

The alignment finds by how much each tilt is off, but no error in step with twice the tilt, which is a stretch of the
object across the axis, and hardly one that is a little faster: the object takes it up. Such patterns are left where the
stage put them. How large they are the others tell: a stage that errs at each tilt anew has as much of each pattern.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils.tomography.alignment_fine import slow_angle_patterns

#: How much more than the dots themselves slow patterns move their centres of inversion: those that leave the dots in
#: place still tilt their facets, all alike. Chosen on twins, see benchmarks/calibrate_errors.py.
OF_FACETS = 1.4
#: Fewer dots than this tell no strain.
FEWEST_DOTS = 12


def unseen_error_deg(alignment: pd.DataFrame) -> float:
    """Error of the tilt angles in each pattern that the alignment leaves where the stage put it.

    Parameters
    ----------
    alignment
        Table of :class:`~mesotomo_utils.tomography.alignment.Alignment`: ``angle_nominal_deg, angle_deg, used``.

    Returns
    -------
    Standard deviation of the coefficient of a pattern of unit length, degrees: that of the errors that were found,
    without their slow patterns. Of a slow drift of the stage it says nothing.
    """
    used = alignment["used"].to_numpy(bool)
    angles = alignment["angle_deg"].to_numpy(float)[used]
    found = angles - alignment["angle_nominal_deg"].to_numpy(float)[used]
    slow = np.column_stack(slow_angle_patterns(angles)[:2])
    rest = found - slow @ (slow.T @ found)
    return float(np.sqrt((rest**2).sum() / max(len(rest) - slow.shape[1], 1)))


def tilt_sigmas(xyz_nm, angles_deg, unseen_deg: float) -> np.ndarray:
    """Standard deviation of centres by errors of the tilt angles that no series tells.

    Parameters
    ----------
    xyz_nm
        (N, 3) centres, nm.
    angles_deg
        (T,) tilts that the tomogram was reconstructed from.
    unseen_deg
        Of :func:`unseen_error_deg`.

    Returns
    -------
    (N, 3) nm along x, y, z. It grows from the middle outwards, and is 0 along z.

    Notes
    -----
    A tilt that is off by δ shows a dot at (x, y) by δ (y cos θ − x sin θ) off in u = x cos θ + y sin θ. The move that
    explains this best at all tilts is linear in the place; a turn about the axis, which no series tells, is taken out
    of it. Patterns of unit length are independent, and add in quadrature.
    """
    xyz = np.asarray(xyz_nm, float).reshape(-1, 3)
    radians = np.deg2rad(np.asarray(angles_deg, float))
    to_xy = np.linalg.pinv(np.column_stack([np.cos(radians), np.sin(radians)]))
    lever = np.column_stack([-np.sin(radians), np.cos(radians)])
    patterns = np.column_stack(slow_angle_patterns(angles_deg)[:2])[:, 1:]  # the first is a turn
    flat, variance = xyz[:, :2] - xyz[:, :2].mean(axis=0), np.zeros((len(xyz), 2))
    for pattern in patterns.T:
        variance += (flat @ _without_turn(to_xy @ (pattern[:, None] * lever))) ** 2
    sigma = OF_FACETS * np.deg2rad(unseen_deg) * np.sqrt(variance)
    return np.column_stack([sigma, np.zeros(len(xyz))])


def without_strain(xyz_nm, moves_nm) -> np.ndarray:
    """Moves of dots less the strain across the tilt axis that all have in common, outliers set aside.

    Parameters
    ----------
    xyz_nm, moves_nm
        (N, 3) centres and their moves, nm.

    Returns
    -------
    (N, 3) nm; the moves as they are of fewer than :data:`FEWEST_DOTS`.
    """
    xyz, moves = np.asarray(xyz_nm, float).reshape(-1, 3), np.array(moves_nm, float).reshape(-1, 3)
    if len(xyz) < FEWEST_DOTS:
        return moves
    flat, keep = xyz[:, :2] - xyz[:, :2].mean(axis=0), np.ones(len(xyz), bool)
    design = np.column_stack([flat, np.ones(len(xyz))])
    for _ in range(3):
        gradient = np.linalg.lstsq(design[keep], moves[keep, :2], rcond=None)[0]
        left = np.linalg.norm(moves[:, :2] - design @ gradient, axis=1)
        keep = left <= 3 * np.median(left) + 1e-12
    moves[:, :2] -= flat @ _without_turn(gradient[:2])
    return moves


def _without_turn(gradient: np.ndarray) -> np.ndarray:
    """The symmetric part: a turn about the axis is a motion, no strain."""
    return (gradient + gradient.T) / 2
