"""Pair measured with true dots, and fit the rigid motion between their frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from mesotomo_utils import lattice


@dataclass(frozen=True)
class RigidMotion:
    """Proper rigid motion ``x -> rotation @ x + shift_nm`` from the measured to the true frame."""

    rotation: np.ndarray
    shift_nm: np.ndarray

    def __call__(self, xyz_nm: np.ndarray) -> np.ndarray:
        """Move points (N, 3), nm."""
        return np.asarray(xyz_nm) @ self.rotation.T + self.shift_nm

    @property
    def angle_deg(self) -> float:
        """Angle of the rotation, degrees."""
        return float(lattice.rotation_angle_deg(self.rotation))


def fit_rigid_motion(measured_nm: np.ndarray, true_nm: np.ndarray) -> RigidMotion:
    """Least-squares proper rigid motion from measured (N, 3) to true (N, 3) points, nm.

    Raises
    ------
    ValueError
        Shapes differ, or there are fewer than three points.
    """
    measured, true = np.asarray(measured_nm, float), np.asarray(true_nm, float)
    if measured.shape != true.shape or len(measured) < 3:
        raise ValueError(f"measured {measured.shape} and true {true.shape} points: expected one (N, 3), N >= 3")
    centre_m, centre_t = measured.mean(axis=0), true.mean(axis=0)
    rotation = lattice.wahba(measured - centre_m, true - centre_t)
    return RigidMotion(rotation, centre_t - rotation @ centre_m)


def match_dots(
    measured_nm: np.ndarray, true_nm: np.ndarray, *, radius_nm: float, rounds: int = 30
) -> tuple[np.ndarray, np.ndarray, RigidMotion]:
    """Pair measured with true dots and fit the rigid motion between their frames.

    Mutual nearest neighbours within the radius, and the motion fitted to them, in turn until the
    pairs stay; at last without those that lie far apart (dots cut by the edge). The start is the shift
    between the centres of mass of both sets or none, whichever pairs more dots.

    Parameters
    ----------
    measured_nm, true_nm
        (N, 3) and (M, 3) positions, nm.
    radius_nm
        Farther than this no two dots are the same; less than half a lattice spacing.

    Returns
    -------
    Row numbers in ``measured`` and in ``true`` of the pairs, and the motion (measured to true).
    """
    measured, true = np.asarray(measured_nm, float), np.asarray(true_nm, float)
    tree = cKDTree(true)

    def pairs(motion: RigidMotion) -> tuple[np.ndarray, np.ndarray]:
        moved = motion(measured)
        distance, near = tree.query(moved, distance_upper_bound=radius_nm)
        _, back = cKDTree(moved).query(true)
        mine = np.flatnonzero(np.isfinite(distance))
        mine = mine[back[near[mine]] == mine]
        return mine, near[mine]

    starts = [
        RigidMotion(np.eye(3), np.zeros(3)),
        RigidMotion(np.eye(3), true.mean(axis=0) - measured.mean(axis=0)),
    ]
    motion = max(starts, key=lambda start: len(pairs(start)[0]))
    rows, cols = pairs(motion)
    for _ in range(rounds):
        if len(rows) < 3:
            break
        motion = fit_rigid_motion(measured[rows], true[cols])
        new = pairs(motion)
        if np.array_equal(new[0], rows) and np.array_equal(new[1], cols):
            break
        rows, cols = new
    if len(rows) >= 4:
        motion = RigidMotion(*lattice.rigid_motion(measured[rows], true[cols]))
    return rows, cols, motion
