"""Orientations that put the {100} facets of neighbouring dots face to face.

A quantum dot is taken as a cube of edge f whose faces are the {100} facets. A dot at the origin and
its neighbour at A turn their facets of normal **a** to one another, B goes with **b** and C with
**c**. The overlap of a pair is the area that the two squares share when seen along their normals,
as a fraction of f²: 1 face to face, 0 when they miss one another.

*R_mono* is one orientation for all dots of the mean cell (:func:`optimal_orientation`);
:mod:`mesotomo_utils.analysis.cofacial_local` turns every dot on its own, at its measured place. The
paper's SI is not public: these definitions are ours.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from mesotomo_utils import lattice
from mesotomo_utils.analysis import statistics

# For each facet normal (a, b, c) the two edge directions of its square.
EDGES = np.array([[1, 2], [2, 0], [0, 1]])
# No orientation is further than this from its nearest equivalent in the cube's symmetry.
LARGEST_DISORIENTATION_DEG = 62.8


@dataclass(frozen=True)
class MonoOrientation:
    """R_mono and what is needed to judge it.

    Attributes
    ----------
    R
        (3, 3) the orientation of largest overlap; columns are the lab directions of a, b, c.
    overlap
        (3,) overlap fractions of the pairs along A, B, C.
    overlap_fraction
        Their mean.
    facet_nm
        Edge of the facets, nm.
    near_optimum
        (M, 3, 3) orientations spread evenly through the set whose overlap is within ``tolerance``
        of the optimum.
    largest_angle_deg
        Angle from ``R`` to the furthest member of that set, degrees.
    tolerance
        Relative loss of overlap that bounds the set.
    polar
        (3, 3) rotation nearest to the directions of A, B, C, which knows no facets.
    """

    R: np.ndarray
    overlap: np.ndarray
    overlap_fraction: float
    facet_nm: float
    near_optimum: np.ndarray
    largest_angle_deg: float
    tolerance: float
    polar: np.ndarray


def facet_edge(diameter_nm: float) -> float:
    """Edge of the cube that has the volume of a sphere, nm.

    The size of a quantum dot is usually given as the diameter of the sphere of equal volume; the
    dots of a fused superlattice are nearer to cubes: f = d (π/6)^(1/3) = 0.806 d.

    Raises
    ------
    ValueError
        The diameter is not positive.

    Examples
    --------
    >>> round(facet_edge(5.0), 2)
    4.03
    """
    if not diameter_nm > 0:
        raise ValueError(f"diameter_nm must be positive, found {diameter_nm}")
    return float(diameter_nm * (np.pi / 6) ** (1 / 3))


def cofacial_overlap(R: np.ndarray, V: np.ndarray, *, facet_nm: float) -> np.ndarray:
    """Overlap fractions of the facet pairs between equally turned cubes of a lattice.

    Two equal, parallel squares displaced sideways by (s, t) share (f − |s|)₊ (f − |t|)₊; for the
    neighbour at A, s = A·b and t = A·c. The neighbour at −A gives the same.

    Parameters
    ----------
    R
        (..., 3, 3) orientations of all cubes.
    V
        (3, 3) cell, columns A, B, C, nm.
    facet_nm
        Edge of the facets, nm.

    Returns
    -------
    (..., 3) fractions along A, B, C, from 0 to 1.

    Raises
    ------
    ValueError
        The facet is not positive, or a shape is wrong.

    Examples
    --------
    >>> cofacial_overlap(np.eye(3), 6.0 * np.eye(3), facet_nm=4.0)
    array([1., 1., 1.])
    """
    R, V = np.asarray(R, dtype=float), np.asarray(V, dtype=float)
    if R.shape[-2:] != (3, 3) or V.shape != (3, 3):
        raise ValueError(f"R must be (..., 3, 3) and V (3, 3), not {R.shape} and {V.shape}")
    if not facet_nm > 0:
        raise ValueError(f"facet_nm must be positive, found {facet_nm}")
    lateral = np.abs(np.swapaxes(V, -1, -2) @ R)  # [pair, column of R]
    remaining = np.clip(1.0 - lateral / facet_nm, 0.0, None)
    facing = np.arange(3)[:, None]
    return remaining[..., facing, EDGES].prod(axis=-1)


def optimal_orientation(
    V: np.ndarray, *, facet_nm: float, tolerance: float = 0.01, n_starts: int = 6
) -> MonoOrientation:
    """R_mono: the orientation that maximises the mean co-facial overlap in the mean cell.

    A grid over all orientations (modulo the cube's symmetry) about the cell's polar rotation gives
    the starts; each is refined by sequential quadratic programming in which |s| and |t| are
    variables of their own, so that the kinks of the overlap, where the optimum usually sits, are
    met exactly. The problem is ill-conditioned: read ``near_optimum`` along with ``R``.

    Parameters
    ----------
    V
        (3, 3) cell, columns A, B, C, nm.
    facet_nm
        Edge of the facets, nm (:func:`facet_edge`).
    tolerance
        Relative loss of overlap that bounds the near-optimum set.
    n_starts
        Number of grid orientations refined, beside the polar rotation.

    Raises
    ------
    ValueError
        The facet is not positive; V is no right-handed cell; no orientation has any overlap.
    """
    V = np.asarray(V, dtype=float)
    if V.shape != (3, 3) or not np.linalg.det(V) > 0:
        raise ValueError("V must be a right-handed (3, 3) cell with columns A, B, C")
    polar = lattice.polar_rotation(V)
    cell = polar.T @ V  # in the frame of the polar rotation the search does not depend on the lab

    def mean_overlap(R: np.ndarray) -> np.ndarray:
        return cofacial_overlap(R, cell, facet_nm=facet_nm).mean(axis=-1)

    vectors = _ball(np.deg2rad(LARGEST_DISORIENTATION_DEG), np.deg2rad(4.0))
    values = mean_overlap(lattice.from_rotation_vectors(vectors))
    if not values.max() > 0:
        raise ValueError(f"facets of {facet_nm:g} nm never overlap in this cell: check the cell and the facet")
    starts = [np.zeros(3)]
    for vector in vectors[np.argsort(-values, kind="stable")]:
        if len(starts) > n_starts:
            break
        if min(np.linalg.norm(vector - s) for s in starts) > np.deg2rad(6.0):
            starts.append(vector)
    refined = np.array([_refine(lattice.from_rotation_vectors(s), cell / facet_nm) for s in starts])
    scores = mean_overlap(refined)
    # Equal optima: take the one nearest to the polar rotation, so that the answer is unique.
    ties = refined[scores > scores.max() - 1e-9]
    best = ties[np.argmin(lattice.rotation_angle_deg(ties))]
    near, largest = _near_set(best, mean_overlap, tolerance)
    R = lattice.nearest_equivalent(polar @ best, V)
    turn = (polar @ best).T @ R  # the equivalent chosen, a rotation of the cube
    return MonoOrientation(
        R=R,
        overlap=cofacial_overlap(best, cell, facet_nm=facet_nm),
        overlap_fraction=float(mean_overlap(best)),
        facet_nm=float(facet_nm),
        near_optimum=polar @ near @ turn,
        largest_angle_deg=largest,
        tolerance=float(tolerance),
        polar=polar,
    )


def overlap_profile(mono: MonoOrientation, V: np.ndarray, *, span_deg: float = 15.0, n: int = 301) -> pd.DataFrame:
    """Mean overlap while all dots turn away from R_mono, along the near-optimum set and across it.

    Parameters
    ----------
    mono
        From :func:`optimal_orientation`.
    V
        (3, 3) the same cell, nm.
    span_deg
        Largest turn to either side, degrees.
    n
        Number of turns.

    Returns
    -------
    DataFrame ``angle_deg, along, across``: overlap fractions for turns about the direction in which
    the set reaches furthest, and about one at right angles to it.
    """
    turns = lattice.rotation_vectors(mono.R.T @ mono.near_optimum)
    longest = turns[np.argmax(np.linalg.norm(turns, axis=1))]
    across = np.cross(longest, np.eye(3)[np.argmin(np.abs(longest))])
    angle_deg = np.linspace(-span_deg, span_deg, n)
    table = {"angle_deg": angle_deg}
    for name, axis in (("along", longest), ("across", across)):
        R = mono.R @ lattice.axis_angle(axis, np.deg2rad(angle_deg))
        table[name] = cofacial_overlap(R, V, facet_nm=mono.facet_nm).mean(axis=-1)
    return pd.DataFrame(table)


def overlap_by_facet(V: np.ndarray, *, facets_nm: dict[str, float], reference: np.ndarray) -> pd.DataFrame:
    """R_mono for several sizes of facet.

    Parameters
    ----------
    V
        (3, 3) cell, nm.
    facets_nm
        Edges by name.
    reference
        (3, 3) orientation that the others are compared with.

    Returns
    -------
    DataFrame ``facet, facet_nm, overlap_fraction, from_reference_deg, within_1pct_deg``.
    """
    rows = []
    for name, facet_nm in facets_nm.items():
        mono = optimal_orientation(V, facet_nm=facet_nm)
        away = float(lattice.rotation_angle_deg(reference.T @ mono.R))
        rows.append((name, facet_nm, mono.overlap_fraction, away, mono.largest_angle_deg))
    return pd.DataFrame(
        rows, columns=["facet", "facet_nm", "overlap_fraction", "from_reference_deg", "within_1pct_deg"]
    )


def angle_to_mean(
    R: np.ndarray, mono: MonoOrientation, blocks: np.ndarray, *, n_resamples: int, rng: np.random.Generator
) -> tuple[statistics.Estimate, float]:
    """Angle between R_mono and the mean of measured orientations, degrees.

    Parameters
    ----------
    R
        (N, 3, 3) measured orientations, reduced by :func:`lattice.nearest_equivalent`; NaN where
        unknown.
    mono
        From :func:`optimal_orientation`.
    blocks
        (N, 2) :func:`statistics.places` of the dots, or (N,) labels: neighbours are correlated.
    n_resamples
        Bootstrap resamples.
    rng
        Source of randomness.

    Returns
    -------
    estimate
        The angle to R_mono itself; its sigma is the bootstrap's, its interval reaches over all
        orientations near the optimum, which the cell alone cannot tell apart. NaN, with the reason,
        where no dot has an orientation.
    nearest
        Angle of the mean to the nearest of those orientations.

    Raises
    ------
    ValueError
        There are not as many blocks as orientations.
    """
    if len(R) != len(blocks):
        raise ValueError(f"{len(R)} orientations but {len(blocks)} places or labels")
    known = np.isfinite(R).all(axis=(1, 2))
    if not known.any():
        return statistics.missing("no dot has an orientation", 0), np.nan
    R, blocks = R[known], np.asarray(blocks)[known]
    references = np.concatenate([mono.R[None], mono.near_optimum])

    def angles(rows: np.ndarray) -> np.ndarray:
        return lattice.rotation_angle_deg(np.swapaxes(references, 1, 2) @ lattice.mean_rotation(R[rows]))

    values = angles(np.arange(len(R)))
    replicates = statistics.bootstrap(angles, blocks, n_resamples=n_resamples, rng=rng)
    settings = {"n_blocks": statistics.n_blocks(blocks), "n": len(R), "bounds": (0.0, 180.0)}
    ends = [statistics.interval(values[k], replicates[:, k], **settings) for k in (values.argmin(), values.argmax())]
    estimate = statistics.interval(values[0], replicates[:, 0], **settings)
    return replace(estimate, low=ends[0].low, high=ends[1].high), float(values.min())


def unit(v: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of length 1."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _ball(radius: float, step: float) -> np.ndarray:
    """Points (M, 3) of a cubic grid within a ball about the origin."""
    line = np.arange(-np.floor(radius / step), np.floor(radius / step) + 1) * step
    points = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    return points[np.linalg.norm(points, axis=1) <= radius]


def sphere(n: int) -> np.ndarray:
    """Directions (n, 3) spread evenly over the unit sphere (Fibonacci spiral)."""
    k = np.arange(n) + 0.5
    z, azimuth = 1 - 2 * k / n, np.pi * (1 + np.sqrt(5)) * k
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)


def _refine(R: np.ndarray, cell: np.ndarray, *, rounds: int = 3) -> np.ndarray:
    """Nearest local maximum of the overlap; ``cell`` in units of the facet edge.

    Variables: a rotation vector w and the six sideways displacements t, with t ≥ |V·R(w)|. Pairs
    that do not overlap at the start are left out; they can only add.
    """
    for _ in range(rounds):
        lateral = (cell.T @ R)[np.arange(3)[:, None], EDGES]
        active = (np.abs(lateral) < 1).all(axis=1)
        if not active.any():
            return R
        displaced = partial(_displaced, R, cell, active)
        result = minimize(
            lambda x: -np.sum((1 - x[3::2]) * (1 - x[4::2])),
            np.concatenate([np.zeros(3), np.abs(lateral[active]).ravel()]),
            jac=lambda x: np.concatenate([np.zeros(3), np.stack([1 - x[4::2], 1 - x[3::2]], axis=1).ravel()]),
            method="SLSQP",
            bounds=[(-0.5, 0.5)] * 3 + [(0, 1)] * (2 * int(active.sum())),
            constraints={
                "type": "ineq",
                "fun": lambda x, d=displaced: np.concatenate([x[3:] - d(x[:3]), x[3:] + d(x[:3])]),
                "jac": lambda x, d=displaced: _constraint_slopes(d, x[:3]),
            },
            options={"ftol": 1e-14, "maxiter": 200},
        )
        better = R @ lattice.from_rotation_vectors(result.x[:3])
        scores = [cofacial_overlap(M, cell, facet_nm=1.0).sum() for M in (R, better)]
        if scores[1] <= scores[0]:
            return R
        R = better
    return R


def _displaced(R: np.ndarray, cell: np.ndarray, active: np.ndarray, w: np.ndarray) -> np.ndarray:
    """(..., n) signed sideways displacements of the active pairs when R is turned by the vectors w (..., 3)."""
    turned = cell.T @ R @ lattice.from_rotation_vectors(w)
    lateral = turned[..., np.arange(3)[:, None], EDGES][..., active, :]
    return lateral.reshape(*lateral.shape[:-2], -1)


def _constraint_slopes(displaced, w: np.ndarray, *, step: float = 1e-6) -> np.ndarray:
    """Slopes of t − V·R(w) and t + V·R(w); one call for all differences, where the optimiser would make nine."""
    steps = step * np.eye(3)
    slopes = ((displaced(w + steps) - displaced(w - steps)) / (2 * step)).T
    ones = np.eye(len(slopes))
    return np.block([[-slopes, ones], [slopes, ones]])


def _near_set(best: np.ndarray, score, tolerance: float) -> tuple[np.ndarray, float]:
    """Sample of the orientations within ``tolerance`` of the best, and the furthest angle, degrees."""
    floor = (1 - tolerance) * score(best)

    def reach(directions: np.ndarray) -> np.ndarray:
        """How far the set extends along each direction from the best orientation, radians."""
        low, high = np.zeros(len(directions)), np.full(len(directions), np.deg2rad(45.0))
        for _ in range(30):
            middle = (low + high) / 2
            inside = score(best @ lattice.from_rotation_vectors(middle[:, None] * directions)) >= floor
            low, high = np.where(inside, middle, low), np.where(inside, high, middle)
        return low

    directions = sphere(600)
    lengths = reach(directions)
    furthest = directions[np.argmax(lengths)]
    for spread in 0.1 * 0.6 ** np.arange(12):  # the set is long and thin: close in on its tip
        around = unit(furthest + spread * np.vstack([np.zeros(3), sphere(40)]))
        furthest = around[np.argmax(reach(around))]
    tip = float(reach(furthest[None])[0])
    # An even grid stretched like the set; some of it falls outside and is dropped.
    ends = np.vstack([lengths[:, None] * directions, tip * furthest])
    _, _, axes = np.linalg.svd(ends, full_matrices=False)
    extent = np.abs(ends @ axes.T).max(axis=0)
    grid = (_ball(np.sqrt(3) + 1e-9, 1 / 5) * extent) @ axes
    grid = grid[np.abs(grid @ axes.T).max(axis=1) < np.pi / 4]
    points = np.vstack([np.zeros(3), grid, tip * furthest * (1 - 1e-9)])
    candidates = best @ lattice.from_rotation_vectors(points)
    return candidates[score(candidates) >= floor - 1e-12], float(np.rad2deg(tip))
