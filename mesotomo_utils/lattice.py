"""Crystal and superlattice geometry: cells, rotations, cubic symmetry, rock-salt reflections.

Conventions: a rotation matrix ``R`` has the laboratory directions of [100], [010], [001] of the
atomic lattice as its columns, so that ``lab = R @ crystal``. A cell matrix ``V`` has the
superlattice vectors A, B, C as its columns. Lengths are nm; angles are degrees at this boundary.
"""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

# Rock salt: four formula units a cell; the cation at the origin, the anion half a cell edge away.
ROCKSALT_CATION = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
ROCKSALT_ANION = np.add(ROCKSALT_CATION, 0.5) % 1.0


def _matrices(R: np.ndarray, name: str = "R") -> np.ndarray:
    R = np.asarray(R, dtype=float)
    if R.shape[-2:] != (3, 3):
        raise ValueError(f"{name} must have shape (..., 3, 3), not {R.shape}")
    return R


def cell_matrix(
    a_nm: float, b_nm: float, c_nm: float, alpha_deg: float, beta_deg: float, gamma_deg: float
) -> np.ndarray:
    """Superlattice vectors of a triclinic cell in the film frame.

    Parameters
    ----------
    a_nm, b_nm, c_nm
        Lengths of A, B, C, nm.
    alpha_deg, beta_deg, gamma_deg
        Angles between B and C, A and C, A and B, degrees.

    Returns
    -------
    (3, 3) matrix whose columns are A (along x), B (in the xy plane, y > 0), C (z > 0).

    Raises
    ------
    ValueError
        A length is not positive, or the three angles close no cell.
    """
    if min(a_nm, b_nm, c_nm) <= 0:
        raise ValueError(f"cell lengths must be positive, found {a_nm}, {b_nm}, {c_nm} nm")
    ca, cb, cg = np.cos(np.deg2rad([alpha_deg, beta_deg, gamma_deg]))
    sg = np.sin(np.deg2rad(gamma_deg))
    cy = (ca - cb * cg) / sg
    cz2 = 1.0 - cb**2 - cy**2
    if cz2 <= 0:
        raise ValueError(f"angles {alpha_deg}, {beta_deg}, {gamma_deg} degrees close no cell")
    A = a_nm * np.array([1.0, 0.0, 0.0])
    B = b_nm * np.array([cg, sg, 0.0])
    C = c_nm * np.array([cb, cy, np.sqrt(cz2)])
    return np.column_stack([A, B, C])


def angle_deg(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Angle between vectors (..., 3), degrees; exact also near 0 and 180."""
    u, v = np.asarray(u, float), np.asarray(v, float)
    cross = np.linalg.norm(np.cross(u, v), axis=-1)
    return np.rad2deg(np.arctan2(cross, np.sum(u * v, axis=-1)))


def direction_angle_deg(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Angle between two axes whose signs have no meaning (..., 3), 0 to 90 degrees."""
    angle = angle_deg(u, v)
    return np.minimum(angle, 180.0 - angle)


CELL = ("a_nm", "b_nm", "c_nm", "alpha_deg", "beta_deg", "gamma_deg")
"""Names of the parameters of a cell, in tables."""
RIGHT_DEG = 0.3
"""Within this a mean angle is hardly surer to be above 90° than below: displaced dots of one lattice tell it to 0.1 to
0.25°."""


def cell_parameters(V: np.ndarray) -> dict[str, float]:
    """Lengths and angles of a cell matrix (3, 3) with columns A, B, C.

    Returns
    -------
    dict of the six, named by :data:`CELL`.
    """
    A, B, C = _matrices(V, "V").T
    lengths = [float(np.linalg.norm(v)) for v in (A, B, C)]
    angles = [float(angle_deg(*pair)) for pair in ((B, C), (A, C), (A, B))]
    return dict(zip(CELL, [*lengths, *angles], strict=True))


def film_normal(V: np.ndarray) -> np.ndarray:
    """Unit normal of the film, A x B / |A x B|, of a cell matrix (3, 3); shape (3,)."""
    A, B, _ = _matrices(V, "V").T
    n = np.cross(A, B)
    return n / np.linalg.norm(n)


def axes_by_rule(vectors, *, film_bottom: str = "low_z") -> np.ndarray:
    """Integer matrix that turns any three basis vectors of a superlattice into A, B, C.

    Parameters
    ----------
    vectors
        (3, 3) matrix whose columns are the three shortest independent vectors, nm.
    film_bottom
        ``"low_z"``: C points to +z; ``"high_z"``: to -z.

    Returns
    -------
    (3, 3) integer M: the columns of ``vectors @ M`` are A, B, C, right-handed: C is nearest to
    the z axis, A the longer of the others, and of the two signs left that with alpha (between B and C) ≥ 90° is taken;
    where alpha is so near to 90° that another sample would have it on the other side (:data:`RIGHT_DEG`), that with
    beta ≥ 90°.
    """
    vectors = np.asarray(vectors, float)
    lengths = np.linalg.norm(vectors, axis=0)
    up = 1 if film_bottom == "low_z" else -1
    c = int(np.argmax(np.abs(vectors[2]) / lengths))
    a, b = sorted((n for n in range(3) if n != c), key=lambda n: -lengths[n])
    change = np.zeros((3, 3), int)
    change[c, 2] = up * int(np.sign(vectors[2, c]) or 1)
    change[a, 0] = change[b, 1] = 1
    if np.linalg.det(vectors @ change) < 0:
        change[b, 1] = -1
    cell = vectors @ change
    alpha, beta = (float(angle_deg(cell[:, n], cell[:, 2])) for n in (1, 0))
    if (beta if abs(alpha - 90) < RIGHT_DEG else alpha) < 90:
        # Both signs turn together: that keeps the hand and takes alpha and beta to 180 - x.
        change[:, :2] *= -1
    return change


def film_frame(V: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) whose columns are the film's x (along A), y (n x A), z (n) in the lab."""
    n = film_normal(V)
    x = V[:, 0] / np.linalg.norm(V[:, 0])
    return np.column_stack([x, np.cross(n, x), n])


def cubic_rotations() -> np.ndarray:
    """The 24 proper rotations of the cube, (24, 3, 3); the first is the identity."""
    found = []
    for order in permutations(range(3)):
        for signs in product((1, -1), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[order, range(3)] = signs
            if np.linalg.det(matrix) > 0:
                found.append(matrix)
    return np.array(sorted(found, key=lambda m: -np.trace(m)))


def nearest_equivalent(R: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Of the 24 equivalents of each rotation, the one that follows the superlattice.

    The choice of DESIGN: the largest a.A^ + b.B^ + c.C^ with the mean cell.

    Parameters
    ----------
    R
        (..., 3, 3) rotations, lab = R crystal.
    V
        (3, 3) cell matrix, columns A, B, C.

    Returns
    -------
    Rotations of the shape of ``R``.
    """
    R, V = _matrices(R), _matrices(V, "V")
    directions = V / np.linalg.norm(V, axis=0)
    equivalents = R[..., None, :, :] @ cubic_rotations()
    score = np.einsum("...eij,ij->...e", equivalents, directions)
    best = np.argmax(score, axis=-1)
    return np.take_along_axis(equivalents, best[..., None, None, None], axis=-3)[..., 0, :, :]


def rotation_angle_deg(R: np.ndarray) -> np.ndarray:
    """Angle of rotation of (..., 3, 3) matrices, degrees, without any symmetry."""
    return np.rad2deg(np.linalg.norm(rotation_vectors(R), axis=-1))


def rotation_vectors(R: np.ndarray) -> np.ndarray:
    """Rotation vectors (axis times angle in radians), (..., 3), of (..., 3, 3) matrices."""
    R = _matrices(R)
    if R.size == 0:  # old SciPy (1.15) refuses none
        return np.zeros(R.shape[:-1])
    return Rotation.from_matrix(R.reshape(-1, 3, 3)).as_rotvec().reshape(R.shape[:-1])


def from_rotation_vectors(vectors: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) in radians."""
    vectors = np.array(vectors, dtype=float)  # a copy: scipy wants to be able to write
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)


def axis_angle(axis: np.ndarray, angle_rad: float | np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3), or (N, 3, 3) for N angles, about one axis (3,), angle in radians."""
    axis = np.asarray(axis, dtype=float)
    return from_rotation_vectors(np.multiply.outer(angle_rad, axis / np.linalg.norm(axis)))


def to_quaternions(R: np.ndarray) -> np.ndarray:
    """Quaternions (N, 4), scalar first and not negative, of (N, 3, 3) rotations crystal to lab.

    orix stores the inverse (lab to crystal); ``orix.quaternion.Orientation(q).inv()`` is this one.
    """
    return Rotation.from_matrix(_matrices(R)).as_quat(canonical=True, scalar_first=True)


def from_quaternions(q: np.ndarray) -> np.ndarray:
    """Rotation matrices (N, 3, 3) of quaternions (N, 4), scalar first; NaN stays NaN."""
    q = np.atleast_2d(np.asarray(q, dtype=float))
    if q.shape[-1] != 4:
        raise ValueError(f"quaternions must have shape (N, 4), not {q.shape}")
    R = np.full((len(q), 3, 3), np.nan)
    good = np.isfinite(q).all(axis=1)
    if good.any():
        R[good] = Rotation.from_quat(q[good], scalar_first=True).as_matrix()
    return R


def disorientation_deg(R1: np.ndarray, R2: np.ndarray) -> np.ndarray:
    """Smallest angle between orientations (..., 3, 3) modulo the 24 cubic rotations, degrees."""
    relative = np.swapaxes(_matrices(R1), -1, -2) @ _matrices(R2)
    trace = np.einsum("...ij,eji->...e", relative, cubic_rotations())
    best = np.argmax(trace, axis=-1)
    nearest = relative @ cubic_rotations()[best]
    return rotation_angle_deg(nearest)


def mean_rotation(R: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Chordal mean (3, 3) of rotations (N, 3, 3).

    Reduce by symmetry first (:func:`nearest_equivalent`).

    Raises
    ------
    ValueError
        There is no rotation to average.
    """
    R = _matrices(R)
    if len(R) == 0:
        raise ValueError("R holds no rotation: the mean needs at least one")
    U, _, Wt = np.linalg.svd(np.average(R, axis=0, weights=weights))
    return U @ np.diag([1.0, 1.0, np.linalg.det(U @ Wt)]) @ Wt


def polar_rotation(V: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) nearest to the directions of A, B, C of a cell matrix (3, 3)."""
    V = _matrices(V, "V")
    return mean_rotation((V / np.linalg.norm(V, axis=0))[None])


def wahba(crystal: np.ndarray, lab: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Proper rotation (3, 3) that best turns crystal (N, 3) into lab vectors (N, 3) (Kabsch)."""
    crystal, lab = np.asarray(crystal, float), np.asarray(lab, float)
    if crystal.shape != lab.shape or crystal.shape[-1] != 3:
        raise ValueError(f"crystal {crystal.shape} and lab {lab.shape} must both be (N, 3)")
    weights = np.ones(len(crystal)) if weights is None else np.asarray(weights, float)
    U, _, Wt = np.linalg.svd((lab * weights[:, None]).T @ crystal)
    return U @ np.diag([1.0, 1.0, np.linalg.det(U @ Wt)]) @ Wt


def rigid_motion(source, target) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and shift (3,) that carry (N, 3) points onto others, outliers set aside."""
    source, target = np.asarray(source, float), np.asarray(target, float)
    keep = np.ones(len(source), bool)
    rotation, shift = np.eye(3), np.zeros(3)
    for _ in range(3):
        if keep.sum() < 4:
            break
        middle = source[keep].mean(axis=0), target[keep].mean(axis=0)
        rotation = wahba(source[keep] - middle[0], target[keep] - middle[1])
        shift = middle[1] - rotation @ middle[0]
        left = np.linalg.norm(target - source @ rotation.T - shift, axis=1)
        keep = left <= 3 * np.median(left) + 1e-12
    return rotation, shift


def reflections(
    lattice_nm: float,
    families: tuple[tuple[int, int, int], ...] = ((1, 1, 1), (2, 0, 0), (2, 2, 0)),
) -> pd.DataFrame:
    """Reflections of cubic families, one of each Friedel pair.

    Parameters
    ----------
    lattice_nm
        Cubic lattice parameter, nm.
    families
        Representatives {hkl}.

    Returns
    -------
    DataFrame ``h, k, l, family, g_per_nm, d_nm``; the three default families give 4 + 3 + 6 rows.

    Raises
    ------
    ValueError
        The lattice parameter is not positive.
    """
    if not lattice_nm > 0:
        raise ValueError(f"lattice_nm must be positive, found {lattice_nm}")
    rows = []
    for family in families:
        members = {
            tuple(s * v for s, v in zip(signs, order, strict=True))
            for order in permutations(family)
            for signs in product((1, -1), repeat=3)
        }
        # The member whose first non-zero index is positive stands for its Friedel pair.
        half = sorted(m for m in members if next(v for v in m if v) > 0)
        g = float(np.linalg.norm(family)) / lattice_nm
        name = "".join(str(v) for v in family)
        rows += [(*m, name, g, 1.0 / g) for m in half]
    return pd.DataFrame(rows, columns=["h", "k", "l", "family", "g_per_nm", "d_nm"])
