"""Orientations that put the {100} facets of neighbouring dots face to face.

A quantum dot is taken as a cube of edge f whose faces are the {100} facets. A dot at the origin and
its neighbour at A turn their facets of normal **a** to one another, B goes with **b** and C with
**c**. The overlap of a pair is the area that the two squares share when seen along their normals,
as a fraction of f²: 1 face to face, 0 when they miss one another.

*R_mono* is one orientation for all dots of the mean cell (:func:`optimal_orientation`); *R̂_i* turns
every dot on its own, at its measured place (:func:`local_optimum`). The paper's SI is not public:
these definitions are ours.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from mesotomo_utils import lattice

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


def overlap_by_angle(
    V: np.ndarray, *, facet_nm: float, angles_deg: tuple[float, ...] = (90.0, 94.0, 98.0, 102.0)
) -> pd.DataFrame:
    """R_mono while one angle of the cell changes and the others stay: after table S3 of the paper.

    Parameters
    ----------
    V
        (3, 3) cell, columns A, B, C, nm.
    facet_nm
        Edge of the facets, nm.
    angles_deg
        Values that α, β and γ take in turn, degrees.

    Returns
    -------
    DataFrame ``changed, angle_deg, overlap_fraction, a_to_A_deg, b_to_B_deg, c_to_C_deg,
    from_polar_deg, within_1pct_deg``: the residual mismatch of each facet normal with its
    superlattice vector, the angle of R_mono to the polar rotation, and how far the orientations
    within 1 % of the optimum reach. The first row is the cell itself.
    """
    parameters = lattice.cell_parameters(V)
    rows = []
    cases = [("none", np.nan)] + [(n, v) for n in ("alpha", "beta", "gamma") for v in angles_deg]
    for changed, angle in cases:
        new = parameters if changed == "none" else parameters | {f"{changed}_deg": angle}
        cell = lattice.cell_matrix(**new)
        mono = optimal_orientation(cell, facet_nm=facet_nm, n_starts=3)
        mismatch = lattice.angle_deg(mono.R.T, cell.T)
        from_polar = lattice.rotation_angle_deg(mono.polar.T @ mono.R)
        rows.append((changed, angle, mono.overlap_fraction, *mismatch, from_polar, mono.largest_angle_deg))
    names = "changed angle_deg overlap_fraction a_to_A_deg b_to_B_deg c_to_C_deg from_polar_deg within_1pct_deg"
    return pd.DataFrame(rows, columns=names.split())


def pair_overlap(centres_nm: np.ndarray, R: np.ndarray, pairs: pd.DataFrame, *, facet_nm: float) -> np.ndarray:
    """Exact overlap of the facing squares of each pair of dots, each turned as given.

    The two facets are seen along the mean of their outward normals; each is a square on its own
    cube, at half an edge from the dot's centre. Where both dots are turned alike this is
    :func:`cofacial_overlap`.

    Parameters
    ----------
    centres_nm
        (N, 3) centres, nm.
    R
        (N, 3, 3) orientations; NaN where unknown.
    pairs
        ``qd_1, qd_2, axis``: rows of ``centres_nm``, and A, B or C where the second is the +
        neighbour of the first.
    facet_nm
        Edge of the facets, nm.

    Returns
    -------
    (len(pairs),) fractions of f²; NaN where an orientation is unknown.

    Raises
    ------
    ValueError
        ``pairs`` lacks a column, names a dot that is not there, or an axis other than A, B, C.
    """
    first, second, axis = _pair_columns(pairs, len(centres_nm))
    lateral = np.asarray(centres_nm, float)[second] - np.asarray(centres_nm, float)[first]
    return _overlap(np.asarray(R)[first], np.asarray(R)[second], lateral, axis, facet_nm)


def local_optimum(
    centres_nm: np.ndarray,
    R: np.ndarray,
    pairs: pd.DataFrame,
    *,
    facet_nm: float,
    start: np.ndarray,
    finest_deg: float = 0.02,
) -> tuple[np.ndarray, pd.DataFrame]:
    """R̂_i: each dot turned to maximise the overlap with its neighbours, which are held as measured.

    All dots are searched at once, each on its own: from the best of ``start`` and the mean of its
    neighbours, 26 directions turned afresh at every step, the step halved where none is better.

    Parameters
    ----------
    centres_nm
        (N, 3) measured centres, nm; they stay.
    R
        (N, 3, 3) measured orientations, reduced by :func:`lattice.nearest_equivalent`; NaN rows are
        dots that nobody sees as a neighbour.
    pairs
        As for :func:`pair_overlap`.
    facet_nm
        Edge of the facets, nm.
    start
        (3, 3) an orientation to start from, e.g. R_mono.
    finest_deg
        Step at which the search ends, degrees.

    Returns
    -------
    R_hat
        (N, 3, 3); NaN for a dot without an oriented neighbour.
    table
        DataFrame ``qd, n_neighbours, overlap_fraction`` at the optimum, mean over the neighbours.

    Raises
    ------
    ValueError
        As for :func:`pair_overlap`.
    """
    centres, R = np.asarray(centres_nm, float), np.asarray(R, float)
    first, second, axis = _pair_columns(pairs, len(centres))
    # Both ends of every pair, seen from the dot that turns: ``toward`` is +1 for the + neighbour.
    dot, other = np.concatenate([first, second]), np.concatenate([second, first])
    axis = np.concatenate([axis, axis])
    toward = np.concatenate([np.ones(len(first)), -np.ones(len(first))])
    seen = np.isfinite(R[other]).all(axis=(1, 2))
    dot, other, axis, toward = dot[seen], other[seen], axis[seen], toward[seen]
    count = np.bincount(dot, minlength=len(centres))
    has = count > 0

    def score(trial: np.ndarray) -> np.ndarray:
        """Mean overlap (T, N) of trial orientations (T, N, 3, 3), the neighbours held."""
        held = np.broadcast_to(R[other], (len(trial), len(other), 3, 3))
        between = toward[:, None] * (centres[other] - centres[dot])
        forward = (toward > 0)[:, None, None]
        mine = trial[:, dot]
        low, high = np.where(forward, mine, held), np.where(forward, held, mine)
        shape = low.shape[:2]
        area = _overlap(
            low.reshape(-1, 3, 3),
            high.reshape(-1, 3, 3),
            np.broadcast_to(between, (*shape, 3)).reshape(-1, 3),
            np.broadcast_to(axis, shape).ravel(),
            facet_nm,
        ).reshape(shape)
        total = np.stack([np.bincount(dot, row, minlength=len(centres)) for row in area])
        return total / np.maximum(count, 1)

    neighbours = np.zeros_like(R)
    np.add.at(neighbours, dot, R[other])
    neighbours[~has] = np.eye(3)
    starts = np.stack([np.broadcast_to(np.asarray(start, float), R.shape), _project(neighbours)])
    best, value = _climb(starts, score, first_deg=4.0, finest_deg=finest_deg)
    best[~has] = np.nan
    value = np.where(has, value, np.nan)
    table = pd.DataFrame({"qd": np.arange(len(R)), "n_neighbours": count, "overlap_fraction": value})
    return best, table


def _pair_columns(pairs: pd.DataFrame, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the first and second dot and the index 0, 1, 2 of the axis of each pair."""
    missing = [c for c in ("qd_1", "qd_2", "axis") if c not in pairs]
    if missing:
        raise ValueError(f"pairs lacks the column(s) {missing}; it has {list(pairs.columns)}")
    ends = pairs[["qd_1", "qd_2"]].to_numpy(dtype=int)
    if ends.size and (ends.min() < 0 or ends.max() >= n):
        raise ValueError(f"pairs names dots from {ends.min()} to {ends.max()}, but there are {n} centres")
    axis = pairs["axis"].map({"A": 0, "B": 1, "C": 2})
    if axis.isna().any():
        raise ValueError(f"axis must be A, B or C, found {sorted(set(pairs['axis'][axis.isna()].astype(str)))}")
    return ends[:, 0], ends[:, 1], axis.to_numpy(dtype=int)


def _overlap(R1: np.ndarray, R2: np.ndarray, between_nm: np.ndarray, axis: np.ndarray, facet_nm: float) -> np.ndarray:
    """Overlap fractions (P,) of the + facet of dot 1 and the − facet of dot 2 at ``between_nm``."""
    row = np.arange(len(axis))
    normal1, normal2 = R1[row, :, axis], R2[row, :, axis]
    u1, v1 = R1[row, :, EDGES[axis, 0]], R1[row, :, EDGES[axis, 1]]
    u2, v2 = R2[row, :, EDGES[axis, 0]], R2[row, :, EDGES[axis, 1]]
    view = _unit(normal1 + normal2)
    right = _unit(u1 - _dot(u1, view)[:, None] * view)
    up = np.cross(view, right)
    # In units of half an edge, with the origin at the centre of facet 1.
    gap = (2.0 / facet_nm) * between_nm - normal1 - normal2
    flat = np.stack([right, up], axis=1)  # (P, 2, 3)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)
    square1 = corners @ np.einsum("pij,pkj->pki", flat, np.stack([u1, v1], axis=1))
    square2 = corners @ np.einsum("pij,pkj->pki", flat, np.stack([u2, v2], axis=1))
    square2 += np.einsum("pij,pj->pi", flat, gap)[:, None]
    return convex_intersection_area(square1, square2) / 4.0


def convex_intersection_area(P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Area shared by pairs of convex polygons, exact and for many pairs at once.

    P is cut by each side of Q in turn. What lies outside is not removed but pressed flat onto that
    side, where it runs to and fro and encloses nothing; so every polygon keeps the same number of
    corners and the areas follow from the shoelace formula.

    Parameters
    ----------
    P, Q
        (N, p, 2) and (N, q, 2) corners, anticlockwise.

    Returns
    -------
    (N,) areas; NaN where a corner is NaN.
    """
    for side in range(Q.shape[1]):
        begin, along = Q[:, side], Q[:, (side + 1) % Q.shape[1]] - Q[:, side]
        inward = np.stack([-along[:, 1], along[:, 0]], axis=1)
        inward /= np.linalg.norm(inward, axis=1, keepdims=True)
        height = np.einsum("nki,ni->nk", P - begin[:, None], inward)
        after = np.roll(height, -1, axis=1)
        kept = P - np.minimum(height, 0.0)[..., None] * inward[:, None]
        crosses = (height < 0) != (after < 0)
        part = np.where(crosses, height / np.where(crosses, height - after, 1.0), 0.0)
        crossing = P + part[..., None] * (np.roll(P, -1, axis=1) - P)
        crossing = np.where(crosses[..., None], crossing, kept)
        P = np.stack([kept, crossing], axis=2).reshape(len(P), -1, 2)
    x, y = P[..., 0], P[..., 1]
    return 0.5 * np.sum(x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y, axis=1)


def _dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i->...", u, v)


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def _project(M: np.ndarray) -> np.ndarray:
    """Nearest proper rotations (N, 3, 3) of matrices (N, 3, 3)."""
    U, _, Wt = np.linalg.svd(M)
    U[..., 2] *= np.linalg.det(U @ Wt)[..., None]
    return U @ Wt


def _ball(radius: float, step: float) -> np.ndarray:
    """Points (M, 3) of a cubic grid within a ball about the origin."""
    line = np.arange(-np.floor(radius / step), np.floor(radius / step) + 1) * step
    points = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    return points[np.linalg.norm(points, axis=1) <= radius]


def _sphere(n: int) -> np.ndarray:
    """Directions (n, 3) spread evenly over the sphere (Fibonacci spiral)."""
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
            lambda x: -np.sum(np.prod(1 - x[3:].reshape(-1, 2), axis=1)),
            np.concatenate([np.zeros(3), np.abs(lateral[active]).ravel()]),
            method="SLSQP",
            bounds=[(-0.5, 0.5)] * 3 + [(0, 1)] * (2 * int(active.sum())),
            constraints=[
                {"type": "ineq", "fun": lambda x, d=displaced: x[3:] - d(x[:3])},
                {"type": "ineq", "fun": lambda x, d=displaced: x[3:] + d(x[:3])},
            ],
            options={"ftol": 1e-14, "maxiter": 200},
        )
        better = R @ lattice.from_rotation_vectors(result.x[:3])
        scores = [cofacial_overlap(M, cell, facet_nm=1.0).sum() for M in (R, better)]
        if scores[1] <= scores[0]:
            return R
        R = better
    return R


def _displaced(R: np.ndarray, cell: np.ndarray, active: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Signed sideways displacements of the active pairs when R is turned by the vector w."""
    turned = cell.T @ R @ lattice.from_rotation_vectors(w)
    return turned[np.arange(3)[:, None], EDGES][active].ravel()


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

    directions = _sphere(600)
    lengths = reach(directions)
    furthest = directions[np.argmax(lengths)]
    for spread in 0.1 * 0.6 ** np.arange(12):  # the set is long and thin: close in on its tip
        around = _unit(furthest + spread * np.vstack([np.zeros(3), _sphere(40)]))
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


def _climb(starts: np.ndarray, score, *, first_deg: float, finest_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Pattern search of many independent orientations at once; ``score`` maps (T, N, 3, 3) to (T, N)."""
    row = np.arange(starts.shape[1])
    values = score(starts)
    choice = np.argmax(values, axis=0)
    best, value = starts[choice, row].copy(), values[choice, row]
    step = np.full(len(row), np.deg2rad(first_deg))
    pattern = _sphere(26)
    for turn in range(60):
        if step.max() < np.deg2rad(finest_deg):
            break
        # Turned by an irrational angle each time: no ridge hides between the directions for long.
        tilt = lattice.axis_angle(np.array([1.0, 2.0, 3.0]), 2.399963 * turn)
        moves = lattice.from_rotation_vectors((pattern @ tilt.T)[:, None] * step[:, None])
        trial = best @ moves
        values = score(trial)
        choice = np.argmax(values, axis=0)
        better = values[choice, row] > value + 1e-12
        best[better], value = trial[choice, row][better], np.where(better, values[choice, row], value)
        step = np.where(better, step, step / 2)
    return best, value
